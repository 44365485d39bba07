package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// Locale is how a database encodes, compares and classifies text.
type Locale struct {
	// Encoding is the name of the encoding: "UTF8".
	Encoding string
	// LocaleProvider is 'c' (libc), 'i' (icu) or 'b' (builtin).
	LocaleProvider byte
	// Collate and CType are the libc locales, which every database has whatever its provider.
	Collate, CType string
	// ProviderLocale is the locale of icu or builtin, ICURules the tailoring of icu.
	ProviderLocale, ICURules string
}

// localeColumns select a Locale from pg_database d.
func localeColumns(v postgres.Version) string {
	locale := "d.daticulocale"
	if v.AtLeast(17) {
		locale = "d.datlocale"
	}
	return fmt.Sprintf(`pg_catalog.pg_encoding_to_char(d.encoding), %s, d.datcollate, d.datctype, %s, %s`,
		when(v.AtLeast(15), "d.datlocprovider", `'c'::pg_catalog."char"`),
		when(v.AtLeast(15), "COALESCE("+locale+", '')", "''"),
		when(v.AtLeast(16), "COALESCE(d.daticurules, '')", "''"))
}

func (l *Locale) dest() []any {
	return []any{&l.Encoding, &l.LocaleProvider, &l.Collate, &l.CType, &l.ProviderLocale, &l.ICURules}
}

func readLocale(ctx context.Context, conn *pgx.Conn, v postgres.Version) (database string, locale Locale, err error) {
	err = conn.QueryRow(ctx, `SELECT d.datname, `+localeColumns(v)+`
		FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`).
		Scan(append([]any{&database}, locale.dest()...)...)
	return database, locale, err
}

// Database is one database of a server.
type Database struct {
	Name  string
	Owner string
	Locale
	// Tablespace is empty for the server's default.
	Tablespace string
	// ConnectionLimit is -1 for none.
	ConnectionLimit int
	Comment         string
	// Settings are those of the database for every role.
	Settings []Setting
	// Grants and Revokes are how its privileges differ from those of a new database.
	Grants, Revokes []Privilege
}

// Privilege is one privilege on a database.
type Privilege struct {
	// Role is empty for PUBLIC.
	Role, Privilege string
	Grantable       bool
}

// systemDatabases are made by initdb and by managed services for themselves.
var systemDatabases = []string{
	"postgres", "template0", "template1", "rdsadmin", "cloudsqladmin", "alloydbadmin", "alloydbmetadata",
	"azure_maintenance", "azure_sys",
}

// ListDatabases reads the databases of users, sorted by name. Templates, databases that take no connections and those
// of the system are left out.
func ListDatabases(ctx context.Context, conn *pgx.Conn) ([]Database, error) {
	return readDatabases(ctx, conn, "d.datname <> ALL ($1)", systemDatabases)
}

// ReadDatabase reads one database, whichever it is.
func ReadDatabase(ctx context.Context, conn *pgx.Conn, name string) (Database, error) {
	databases, err := readDatabases(ctx, conn, "d.datname = ANY ($1)", []string{name})
	if err != nil {
		return Database{}, err
	}
	if len(databases) == 0 {
		return Database{}, fmt.Errorf("database %q does not exist or takes no connections", name)
	}
	return databases[0], nil
}

func readDatabases(ctx context.Context, conn *pgx.Conn, condition string, names []string) ([]Database, error) {
	version, err := postgres.ServerVersion(conn)
	if err != nil {
		return nil, err
	}
	var oids []uint32
	var oid uint32
	byOID := map[uint32]*Database{}
	var d Database
	err = each(ctx, conn, `
		SELECT d.oid, d.datname, pg_catalog.pg_get_userbyid(d.datdba), `+localeColumns(version)+`,
			CASE s.spcname WHEN 'pg_default' THEN '' ELSE s.spcname END, d.datconnlimit,
			COALESCE(pg_catalog.shobj_description(d.oid, 'pg_database'), '')
		FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace s ON s.oid = d.dattablespace
		WHERE d.datallowconn AND NOT d.datistemplate AND d.datconnlimit <> -2 -- what a broken DROP DATABASE leaves
			AND `+condition+`
		ORDER BY d.datname`, []any{names},
		slices.Concat([]any{&oid, &d.Name, &d.Owner}, d.dest(), []any{&d.Tablespace, &d.ConnectionLimit, &d.Comment}),
		func() {
			row := d
			oids, byOID[oid] = append(oids, oid), &row
		})
	if err == nil {
		err = readDatabaseSettings(ctx, conn, byOID)
	}
	if err == nil {
		err = readDatabasePrivileges(ctx, conn, byOID)
	}
	if err != nil {
		return nil, fmt.Errorf("read databases: %w", err)
	}
	list := make([]Database, len(oids))
	for i, oid := range oids {
		list[i] = *byOID[oid]
	}
	return list, nil
}

func readDatabaseSettings(ctx context.Context, conn *pgx.Conn, byOID map[uint32]*Database) error {
	var oid uint32
	var entry string
	return each(ctx, conn, `
		SELECT s.setdatabase, c.entry
		FROM pg_catalog.pg_db_role_setting s, LATERAL pg_catalog.unnest(s.setconfig) AS c(entry)
		WHERE s.setrole = 0 AND s.setdatabase <> 0 ORDER BY 1, 2`, nil,
		[]any{&oid, &entry}, func() {
			if d := byOID[oid]; d != nil {
				d.Settings = append(d.Settings, parseSetting("", entry))
			}
		})
}

// readDatabasePrivileges compares the privileges with the default ones, so that the statements hold on a new database.
func readDatabasePrivileges(ctx context.Context, conn *pgx.Conn, byOID map[uint32]*Database) error {
	var oid uint32
	var p Privilege
	var granted bool
	return each(ctx, conn, `
		WITH has AS (
			SELECT d.oid, a.grantee, a.privilege_type, pg_catalog.bool_or(a.is_grantable) AS grantable
			FROM pg_catalog.pg_database d, LATERAL pg_catalog.aclexplode(d.datacl) a
			WHERE d.datacl IS NOT NULL GROUP BY 1, 2, 3
		), standard AS (
			SELECT d.oid, a.grantee, a.privilege_type
			FROM pg_catalog.pg_database d, LATERAL pg_catalog.aclexplode(pg_catalog.acldefault('d', d.datdba)) a
			WHERE d.datacl IS NOT NULL
		)
		SELECT COALESCE(h.oid, s.oid), COALESCE(r.rolname, ''), COALESCE(h.privilege_type, s.privilege_type),
			COALESCE(h.grantable, false), h.oid IS NOT NULL
		FROM has h
		FULL JOIN standard s ON s.oid = h.oid AND s.grantee = h.grantee AND s.privilege_type = h.privilege_type
		LEFT JOIN pg_catalog.pg_roles r ON r.oid = COALESCE(h.grantee, s.grantee)
		WHERE h.oid IS NULL OR s.oid IS NULL
		ORDER BY 1, 2, 3`, nil,
		[]any{&oid, &p.Role, &p.Privilege, &p.Grantable, &granted}, func() {
			d := byOID[oid]
			switch {
			case d == nil:
			case granted:
				d.Grants = append(d.Grants, p)
			default:
				d.Revokes = append(d.Revokes, p)
			}
		})
}

// DatabaseOptions say how a database is created on the target.
type DatabaseOptions struct {
	// NewName is its name there; empty means the same.
	NewName string
	Target  postgres.Version
	// NoOwner leaves it to the user who creates it, NoPrivileges leaves privileges as a new database has them.
	NoOwner, NoPrivileges bool
}

// DatabaseScript creates a database in three steps, because what comes first and last limits who may connect.
type DatabaseScript struct {
	// Create runs in another database, Settings right after it.
	Create, Settings []Statement
	// Last runs when the migration is complete: privileges and a connection limit would hold up our own sessions.
	Last  []Statement
	Notes []string
}

// codeDuplicateDatabase is the SQLSTATE for a database that is there already.
const codeDuplicateDatabase = "42P04"

// DatabaseStatements create a database like that of the source from template0.
func DatabaseStatements(d Database, options DatabaseOptions) DatabaseScript {
	name := options.NewName
	if name == "" {
		name = d.Name
	}
	object, quoted := "database "+postgres.QuoteIdent(name), postgres.QuoteIdent(name)
	var create, settings, last Script
	sql := "CREATE DATABASE " + quoted + " TEMPLATE template0 ENCODING " + postgres.QuoteLiteral(d.Encoding) +
		create.localeClause(name, d.Locale, options.Target)
	if !options.NoOwner {
		sql += " OWNER " + postgres.QuoteIdent(d.Owner)
	}
	if d.Tablespace != "" {
		sql += " TABLESPACE " + postgres.QuoteIdent(d.Tablespace)
	}
	create.Statements = []Statement{{Object: object, SQL: sql, DoneCode: codeDuplicateDatabase}}
	for _, setting := range d.Settings {
		settings.add(object, "ALTER DATABASE %s %s", quoted, setting.setClause())
	}
	if d.Comment != "" {
		settings.add(object, "COMMENT ON DATABASE %s IS %s", quoted, postgres.QuoteLiteral(d.Comment))
	}
	if !options.NoPrivileges {
		last.databasePrivileges(d, object, quoted, options.NoOwner)
	}
	if d.ConnectionLimit >= 0 {
		last.add(object, "ALTER DATABASE %s CONNECTION LIMIT %d", quoted, d.ConnectionLimit)
	}
	return DatabaseScript{
		Create: create.Statements, Settings: settings.Statements, Last: last.Statements,
		Notes: slices.Concat(create.Notes, settings.Notes, last.Notes),
	}
}

func (s *Script) databasePrivileges(d Database, object, quoted string, noOwner bool) {
	grantee := func(p Privilege) (role string, ok bool) {
		switch {
		case p.Role == "":
			return "PUBLIC", true
		case noOwner && p.Role == d.Owner:
			return "", false
		case ProviderRole(p.Role) && !strings.HasPrefix(p.Role, "pg_"):
			s.note("privilege %s on %s for %s is left out: it is a role of the source's provider", p.Privilege, object, p.Role)
			return "", false
		}
		return postgres.QuoteIdent(p.Role), true
	}
	for _, p := range d.Revokes {
		if role, ok := grantee(p); ok {
			s.add(object, "REVOKE %s ON DATABASE %s FROM %s", p.Privilege, quoted, role)
		}
	}
	for _, p := range d.Grants {
		if role, ok := grantee(p); ok {
			s.add(object, "GRANT %s ON DATABASE %s TO %s%s", p.Privilege, quoted, role,
				when(p.Grantable, " WITH GRANT OPTION", ""))
		}
	}
}

// localeClause keeps the provider where the target has it. Where it does not, libc takes over: with the order of code
// points for builtin, which sorts so too, with the database's libc locale for icu, which may sort otherwise.
func (s *Script) localeClause(name string, l Locale, target postgres.Version) string {
	collate, provider := l.Collate, ""
	switch {
	case l.LocaleProvider == 'i' && target.AtLeast(15):
		provider = " LOCALE_PROVIDER icu ICU_LOCALE " + postgres.QuoteLiteral(l.ProviderLocale)
		if l.ICURules != "" && target.AtLeast(16) {
			provider += " ICU_RULES " + postgres.QuoteLiteral(l.ICURules)
		} else if l.ICURules != "" {
			s.note("database %s loses its ICU rules, which the target does not know: text may sort otherwise", name)
		}
	case l.LocaleProvider == 'i':
		s.note("database %s sorts text by libc locale %q instead of ICU locale %q, which the target does not know",
			name, l.Collate, l.ProviderLocale)
	case l.LocaleProvider == 'b' && target.AtLeast(17):
		provider = " LOCALE_PROVIDER builtin BUILTIN_LOCALE " + postgres.QuoteLiteral(l.ProviderLocale)
	case l.LocaleProvider == 'b':
		collate = "C"
		s.note("database %s uses libc locale \"C\" for order and %q for character classes instead of builtin locale %q, "+
			"which the target does not know", name, l.CType, l.ProviderLocale)
	}
	if provider == "" && target.AtLeast(15) {
		provider = " LOCALE_PROVIDER libc"
	}
	return provider + " LC_COLLATE " + postgres.QuoteLiteral(collate) + " LC_CTYPE " + postgres.QuoteLiteral(l.CType)
}
