package precheck

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// compatibility names definitions that the target cannot hold.
func (d *database) compatibility(ctx context.Context, f *finding) error {
	f.looked = "encoding, locale, types, collations, access methods, tablespaces, names and features by version"
	for _, step := range []func(context.Context, *finding) error{
		d.encodings, d.types, d.collations, d.storage, d.longNames, d.numerics, d.features, d.hashedEnums,
	} {
		if err := step(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// onTarget is the session that knows most of the target: that of the database, or any when it is to be created.
func (d *database) onTarget() *pgx.Conn {
	if d.targetDB != nil {
		return d.targetDB
	}
	return d.target.conn
}

// encodings compares the encodings and the default collations of the two databases.
func (d *database) encodings(ctx context.Context, f *finding) error {
	source := d.catalog.Locale
	if d.incremental() && d.plugin() == "test_decoding" && source.Encoding != "UTF8" && source.Encoding != "SQL_ASCII" {
		f.fail("changes that are read with test_decoding come in the database's encoding "+source.Encoding+", which is not converted",
			"--type full # copies the rows of one moment; or upgrade the source to 10 or later, which has pgoutput")
	}
	if d.targetDB == nil {
		return d.localeOfNew(ctx, f)
	}
	var encoding, collate, ctype string
	err := d.targetDB.QueryRow(ctx, `SELECT pg_encoding_to_char(encoding), datcollate::text, datctype::text
		FROM pg_database WHERE datname = current_database()`).Scan(&encoding, &collate, &ctype)
	if err != nil {
		return err
	}
	recreate := fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 ENCODING %s LC_COLLATE %s LC_CTYPE %s; -- on the target, in place of the empty one",
		postgres.QuoteIdent(d.names.Target), literal(source.Encoding), literal(source.Collate), literal(source.CType))
	switch {
	case source.Encoding == encoding:
	case source.Encoding == "SQL_ASCII":
		f.warn("the source checks no encoding (SQL_ASCII): text that is not valid in "+encoding+" is refused", recreate)
	case encoding != "UTF8":
		f.warn(fmt.Sprintf("the source's encoding is %s, the target's %s: characters that it lacks are refused", source.Encoding, encoding), recreate)
	}
	if !sameLocale(source.Collate, collate) || !sameLocale(source.CType, ctype) {
		f.warn(fmt.Sprintf("the database's locale is %s/%s on the source and %s/%s on the target: text is sorted and compared differently",
			source.Collate, source.CType, collate, ctype), recreate)
	}
	return nil
}

// sameLocale takes spellings of the operating systems as equal: en_US.UTF-8 and en_US.utf8.
func sameLocale(a, b string) bool {
	fold := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "")) }
	return fold(a) == fold(b)
}

// localeOfNew asks whether a database with the source's locale can be created. The server knows the locales of its
// operating system from its initialisation only, so that a missing one is no proof.
func (d *database) localeOfNew(ctx context.Context, f *finding) error {
	source := d.catalog.Locale
	known, err := texts(ctx, d.target.conn, `
		SELECT DISTINCT x::text FROM pg_collation, LATERAL (VALUES (collcollate), (collctype)) AS v(x) WHERE x IS NOT NULL
		UNION SELECT datcollate::text FROM pg_database UNION SELECT datctype::text FROM pg_database`)
	if err != nil {
		return err
	}
	for _, name := range []string{source.Collate, source.CType} {
		found := sameLocale(name, "C") || sameLocale(name, "POSIX")
		for _, k := range known {
			found = found || sameLocale(k, name)
		}
		if !found {
			f.warn(fmt.Sprintf("the target's operating system may not have the locale %s", name),
				fmt.Sprintf("localedef -i %s -f %s %s # on the target's host as root, then restart the target",
					strings.SplitN(name, ".", 2)[0], strings.ReplaceAll(source.Encoding, "UTF8", "UTF-8"), shellQuote(name)))
		}
	}
	return nil
}

func literal(value string) string { return strings.TrimSpace(postgres.QuoteLiteral(value)) }

// types wants built-in types and those of extensions: types of the user come with the structure.
func (d *database) types(ctx context.Context, f *finding) error {
	schemas, names := []string{}, []string{}
	uses := map[schema.Name]string{}
	for _, t := range d.catalog.TypesUsed {
		if t.BuiltIn {
			schemas, names = append(schemas, t.Schema), append(names, t.Name.Name)
			uses[t.Name] = t.By
		}
	}
	missing, err := d.missing(ctx, `SELECT n, t FROM unnest($1::text[], $2::text[]) AS w(n, t)
		WHERE NOT EXISTS (SELECT FROM pg_type p JOIN pg_namespace s ON s.oid = p.typnamespace WHERE p.typname = t AND s.nspname = n)`,
		schemas, names)
	for _, name := range missing {
		f.objects = append(f.objects, fmt.Sprintf("type %s (used by %s)", name.Name, uses[name]))
		f.fail("PostgreSQL "+d.target.version.MajorString()+" lacks types that the columns have",
			"--target postgres://<a server that is not older than the source>/"+d.names.Target)
	}
	return err
}

func (d *database) collations(ctx context.Context, f *finding) error {
	schemas, names := []string{}, []string{}
	for _, c := range d.catalog.Collations {
		if c.BuiltIn {
			schemas, names = append(schemas, c.Schema), append(names, c.Name.Name)
		}
	}
	missing, err := d.missing(ctx, `SELECT n, c FROM unnest($1::text[], $2::text[]) AS w(n, c)
		WHERE NOT EXISTS (SELECT FROM pg_collation p JOIN pg_namespace s ON s.oid = p.collnamespace WHERE p.collname = c AND s.nspname = n)`,
		schemas, names)
	for _, name := range missing {
		f.objects = append(f.objects, "collation "+name.Name)
		f.fail("the target lacks collations that columns or indexes have",
			"SELECT pg_import_system_collations('pg_catalog'); -- on the target as superuser, after its operating system has the locale")
	}
	return err
}

func (d *database) missing(ctx context.Context, sql string, args ...any) ([]schema.Name, error) {
	return rowsOf[schema.Name](ctx, d.onTarget(), sql, args...)
}

// storage wants table access methods and tablespaces that CREATE TABLE names.
func (d *database) storage(ctx context.Context, f *finding) error {
	methods, err := texts(ctx, d.onTarget(), `SELECT n FROM unnest($1::text[]) AS n
		WHERE NOT EXISTS (SELECT FROM pg_am WHERE amname = n) ORDER BY 1`, d.ownMethods())
	if err != nil {
		return err
	}
	for _, name := range methods {
		f.objects = append(f.objects, "access method "+name)
		f.fail("the target lacks access methods of chosen tables or indexes",
			fmt.Sprintf("apt-cache search postgresql-%d | grep -i %s # on the target's host, then install the package that has it",
				d.target.version.Major(), shellQuote(name)))
	}
	spaces, err := texts(ctx, d.target.conn, `SELECT n FROM unnest($1::text[]) AS n
		WHERE NOT EXISTS (SELECT FROM pg_tablespace WHERE spcname = n) ORDER BY 1`, d.catalog.Tablespaces)
	for _, name := range spaces {
		f.objects = append(f.objects, "tablespace "+name)
		f.fail("the target lacks tablespaces of chosen tables or indexes",
			fmt.Sprintf("CREATE TABLESPACE %s LOCATION '<an empty directory of the server''s user>'; -- on the target", postgres.QuoteIdent(name)))
	}
	return err
}

// ownMethods leaves out access methods that extensions of the source create on the target as well, and heap, which
// versions before 12 do not call so.
func (d *database) ownMethods() []string {
	methods := []string{}
	for _, name := range d.catalog.AccessMethods {
		created := name == "heap"
		for _, x := range d.catalog.Extensions {
			created = created || x.Name == name
		}
		if !created {
			methods = append(methods, name)
		}
	}
	return methods
}

// longNames finds names that the target would cut, so that two of them could become one.
func (d *database) longNames(_ context.Context, f *finding) error {
	limit := d.target.number("max_identifier_length")
	if limit == 0 || limit >= d.source.number("max_identifier_length") {
		return nil
	}
	for name := range d.catalog.Relations {
		if len(name.Schema) > limit || len(name.Name) > limit {
			f.objects = append(f.objects, name.String())
			f.fail(fmt.Sprintf("names are longer than the %d bytes that the target keeps", limit),
				fmt.Sprintf("ALTER TABLE %s RENAME TO <a shorter name>; -- on the source", name.SQL()))
		}
	}
	return nil
}

// numerics looks for what numeric learned later: infinity in 14, scales outside 0..precision in 15.
func (d *database) numerics(_ context.Context, f *finding) error {
	source, target := d.source.version, d.target.version
	for _, t := range d.catalog.Tables {
		for _, c := range t.Columns {
			if c.Type == "numeric" && source.AtLeast(14) && !target.AtLeast(14) && t.Kind == schema.Ordinary && d.copies() {
				column := postgres.QuoteIdent(c.Name)
				f.objects = append(f.objects, t.String()+"."+c.Name)
				f.warn("numeric columns may hold infinity, which PostgreSQL "+target.MajorString()+" does not know",
					fmt.Sprintf("SELECT count(*) FROM %s WHERE %s IN ('Infinity', '-Infinity'); -- on the source: must be 0", t.SQL(), column))
			}
			if !target.AtLeast(15) && oddScale(c.Type) {
				f.objects = append(f.objects, t.String()+"."+c.Name)
				f.fail("the scale of numeric columns is outside of what PostgreSQL "+target.MajorString()+" allows",
					fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE numeric; -- on the source", t.SQL(), postgres.QuoteIdent(c.Name)))
			}
		}
	}
	return nil
}

// oddScale reads "numeric(3,-2)" and "numeric(3,5)", arrays of them included.
func oddScale(typeName string) bool {
	inner, ok := strings.CutPrefix(typeName, "numeric(")
	if !ok {
		return false
	}
	inner, _, _ = strings.Cut(inner, ")")
	precision, scale, _ := strings.Cut(inner, ",")
	p, errP := strconv.Atoi(precision)
	s, errS := strconv.Atoi(scale)
	return errP == nil && errS == nil && (s < 0 || s > p)
}

// feature is a kind of definition that a later version brought; query returns the names of chosen objects that have it.
type feature struct {
	since    int // first major of the target that has it
	readable int // first major of the source whose catalog has the column that tells
	what     string
	query    string
}

// The queries take the OIDs of chosen tables ($1) and of chosen functions ($2).
var featuresByVersion = []feature{
	{11, 11, "procedures", `SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.oid = ANY($2::oid[]) AND p.prokind = 'p' AND $1::oid[] IS NOT NULL`},
	{11, 11, "partitioning by hash", `SELECT p.partrelid::regclass::text FROM pg_partitioned_table p WHERE p.partrelid = ANY($1::oid[]) AND p.partstrat = 'h' AND $2::oid[] IS NOT NULL`},
	{11, 11, "default partitions", `SELECT p.partdefid::regclass::text FROM pg_partitioned_table p WHERE p.partrelid = ANY($1::oid[]) AND p.partdefid <> 0 AND $2::oid[] IS NOT NULL`},
	{11, 11, "indexes of partitioned tables", `SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relkind = 'p' AND c.oid = ANY($1::oid[]) AND $2::oid[] IS NOT NULL`},
	{11, 11, "indexes with INCLUDE", `SELECT i.indexrelid::regclass::text FROM pg_index i WHERE i.indrelid = ANY($1::oid[]) AND i.indnkeyatts < i.indnatts AND $2::oid[] IS NOT NULL`},
	{12, 12, "generated columns", `SELECT a.attrelid::regclass::text || '.' || a.attname FROM pg_attribute a WHERE a.attrelid = ANY($1::oid[]) AND a.attgenerated = 's' AND NOT a.attisdropped AND $2::oid[] IS NOT NULL`},
	{14, 14, "functions with a body of SQL statements", `SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.oid = ANY($2::oid[]) AND p.prosqlbody IS NOT NULL AND $1::oid[] IS NOT NULL`},
	{15, 15, "UNIQUE NULLS NOT DISTINCT", `SELECT i.indexrelid::regclass::text FROM pg_index i WHERE i.indrelid = ANY($1::oid[]) AND i.indnullsnotdistinct AND $2::oid[] IS NOT NULL`},
	{18, 18, "virtual generated columns", `SELECT a.attrelid::regclass::text || '.' || a.attname FROM pg_attribute a WHERE a.attrelid = ANY($1::oid[]) AND a.attgenerated = 'v' AND NOT a.attisdropped AND $2::oid[] IS NOT NULL`},
	{18, 18, "temporal constraints", `SELECT c.conrelid::regclass::text || '.' || c.conname FROM pg_constraint c WHERE c.conrelid = ANY($1::oid[]) AND c.conperiod AND $2::oid[] IS NOT NULL`},
}

// features names definitions that an older target has no syntax for.
func (d *database) features(ctx context.Context, f *finding) error {
	source, target := d.source.version, d.target.version
	tables, functions := []uint32{}, []uint32{}
	for _, t := range d.catalog.Tables {
		tables = append(tables, t.OID)
	}
	for _, p := range d.catalog.Functions {
		functions = append(functions, p.OID)
	}
	for _, feature := range featuresByVersion {
		if target.AtLeast(feature.since) || !source.AtLeast(feature.readable) {
			continue
		}
		names, err := texts(ctx, d.sourceDB, feature.query+" ORDER BY 1", tables, functions)
		if err != nil {
			return err
		}
		for _, name := range names {
			f.objects = append(f.objects, name)
			f.fail(fmt.Sprintf("PostgreSQL %s has no %s", target.MajorString(), feature.what),
				fmt.Sprintf("--target postgres://<a server of PostgreSQL %d or later>/%s", feature.since, d.names.Target))
		}
	}
	return nil
}

// hashedEnums names tables that are partitioned by the hash of an enum: its values are hashed by the numbers that the
// catalog gave them, so that on another server the same row belongs to another partition.
func (d *database) hashedEnums(ctx context.Context, f *finding) error {
	if !d.copies() || !d.source.version.AtLeast(11) {
		return nil
	}
	for _, t := range d.catalog.Tables {
		if t.Kind != schema.Partitioned {
			continue
		}
		var hashed bool
		err := d.sourceDB.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_partitioned_table p, unnest(p.partattrs::int2[]) AS k(number)
			JOIN pg_attribute a ON a.attnum = k.number JOIN pg_type y ON y.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = y.typbasetype
			WHERE p.partrelid = $1 AND a.attrelid = p.partrelid AND p.partstrat = 'h' AND 'e' IN (y.typtype, b.typtype))`, t.OID).Scan(&hashed)
		if err != nil {
			return err
		}
		if hashed {
			f.objects = append(f.objects, t.String())
			f.fail("the hash of an enum is not the same on two servers: rows would belong to other partitions than those they are in",
				excludeOption(t.Name.Schema, t.Name.Name)+" # and its partitions, and load it through its root by hand, or partition it by LIST")
		}
	}
	return nil
}
