package schema

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// Role is a role of the source server.
type Role struct {
	Name                                     string
	Superuser, Inherit, CreateRole, CreateDB bool
	Login, Replication, BypassRLS            bool
	ConnectionLimit                          int    // -1: none
	ValidUntil                               string // as PostgreSQL prints it in UTC; empty: for ever
	Comment                                  string
	Password                                 Verifier
	// PasswordKnown tells that Password could be read, which takes a superuser on most servers. Without it a role that
	// has a password looks as if it had none.
	PasswordKnown bool
	// MemberOf are the roles that were granted to this one.
	MemberOf []Membership
	// Settings are those for every database, then those for one, in the order of names.
	Settings []Setting
}

// Membership is a grant of one role to another.
type Membership struct {
	Role    string
	Grantor string
	Admin   bool
	// Inherit and Set are meaningful when Options is true: the source is PostgreSQL 16 or later.
	Inherit, Set, Options bool
	// FromBootstrap tells that the bootstrap superuser granted it.
	FromBootstrap bool
}

// Verifier is what a server keeps of a password. It prints as nothing useful.
type Verifier string

// String hides the verifier.
func (v Verifier) String() string { return "(hidden)" }

// GoString hides the verifier from %#v.
func (v Verifier) GoString() string { return "(hidden)" }

// LogValue hides the verifier from structured logs.
func (v Verifier) LogValue() slog.Value { return slog.StringValue("(hidden)") }

// MarshalText hides the verifier from JSON.
func (v Verifier) MarshalText() ([]byte, error) { return []byte("(hidden)"), nil }

// bootstrapRole is the OID of the superuser that initdb makes.
const bootstrapRole = 10

// providerRoles are the roles that managed services make for themselves; a name that ends in * is a prefix.
var providerRoles = []string{
	"pg_*", "rdsadmin", "rds_*", "rdsrepladmin", "rdstopmgr", "rdsproxyadmin", "cloudsql*", "alloydb*", "azure_*",
	"azuresu",
}

// ProviderRole tells whether a name belongs to PostgreSQL itself or to a managed service.
func ProviderRole(name string) bool { return matchesAny(providerRoles, name) }

func matchesAny(patterns []string, name string) bool {
	for _, p := range patterns {
		prefix, wild := strings.CutSuffix(p, "*")
		if name == p || wild && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// ReadRoles reads the roles of users, sorted by name: all of the server, or only those that the connected database
// names (as owner, in privileges and policies) and the roles that these are members of. The bootstrap superuser and
// roles of PostgreSQL and of managed services are left out.
func ReadRoles(ctx context.Context, conn *pgx.Conn, all bool) ([]Role, error) {
	version, err := postgres.ServerVersion(conn)
	if err != nil {
		return nil, err
	}
	roles, byOID, err := readRoleAttributes(ctx, conn, version)
	if err == nil {
		err = readMemberships(ctx, conn, version, byOID)
	}
	if err == nil {
		err = readRoleSettings(ctx, conn, byOID)
	}
	if err == nil && !all {
		roles, err = onlyUsed(ctx, conn, roles)
	}
	if err != nil {
		return nil, fmt.Errorf("read roles: %w", err)
	}
	list := make([]Role, len(roles))
	for i, r := range roles {
		list[i] = *r
	}
	return list, nil
}

func readRoleAttributes(ctx context.Context, conn *pgx.Conn, v postgres.Version) ([]*Role, map[uint32]*Role, error) {
	var readable bool
	err := conn.QueryRow(ctx, `SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')`).Scan(&readable)
	if err != nil {
		return nil, nil, err
	}
	var roles []*Role
	byOID := map[uint32]*Role{}
	var oid uint32
	r := Role{PasswordKnown: readable}
	err = each(ctx, conn, fmt.Sprintf(`
		SELECT r.oid, r.rolname, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin,
			r.rolreplication, %s, r.rolconnlimit, COALESCE(r.rolvaliduntil::pg_catalog.text, ''), %s,
			COALESCE(pg_catalog.shobj_description(r.oid, 'pg_authid'), '')
		FROM pg_catalog.%s r WHERE r.oid <> %d
		ORDER BY r.rolname`,
		when(v >= 90500, "r.rolbypassrls", "false"),
		when(readable, "COALESCE(r.rolpassword, '')", "''"), when(readable, "pg_authid", "pg_roles"), bootstrapRole), nil,
		[]any{
			&oid, &r.Name, &r.Superuser, &r.Inherit, &r.CreateRole, &r.CreateDB, &r.Login, &r.Replication, &r.BypassRLS,
			&r.ConnectionLimit, &r.ValidUntil, &r.Password, &r.Comment,
		}, func() {
			if !ProviderRole(r.Name) {
				row := r
				roles = append(roles, &row)
				byOID[oid] = &row
			}
		})
	return roles, byOID, err
}

// readMemberships keeps grants of roles that are not read themselves: predefined roles are there on the target too.
func readMemberships(ctx context.Context, conn *pgx.Conn, v postgres.Version, byOID map[uint32]*Role) error {
	var member uint32
	m := Membership{Options: v.AtLeast(16)}
	return each(ctx, conn, fmt.Sprintf(`
		SELECT m.member, r.rolname, COALESCE(g.rolname, ''), m.admin_option, %s, %s, m.grantor = %d
		FROM pg_catalog.pg_auth_members m
		JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
		LEFT JOIN pg_catalog.pg_roles g ON g.oid = m.grantor
		ORDER BY r.rolname, 3`,
		when(v.AtLeast(16), "m.inherit_option", "true"), when(v.AtLeast(16), "m.set_option", "true"), bootstrapRole), nil,
		[]any{&member, &m.Role, &m.Grantor, &m.Admin, &m.Inherit, &m.Set, &m.FromBootstrap},
		func() {
			if r := byOID[member]; r != nil {
				r.MemberOf = append(r.MemberOf, m)
			}
		})
}

func readRoleSettings(ctx context.Context, conn *pgx.Conn, byOID map[uint32]*Role) error {
	var oid uint32
	var database, entry string
	return each(ctx, conn, `
		SELECT s.setrole, COALESCE(d.datname, ''), c.entry
		FROM pg_catalog.pg_db_role_setting s
		LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase,
			LATERAL pg_catalog.unnest(s.setconfig) AS c(entry)
		WHERE s.setrole <> 0 AND (s.setdatabase = 0 OR d.oid IS NOT NULL)
		ORDER BY 1, 2, 3`, nil,
		[]any{&oid, &database, &entry}, func() {
			if r := byOID[oid]; r != nil {
				r.Settings = append(r.Settings, parseSetting(database, entry))
			}
		})
}

func onlyUsed(ctx context.Context, conn *pgx.Conn, roles []*Role) ([]*Role, error) {
	byName := map[string]*Role{}
	for _, r := range roles {
		byName[r.Name] = r
	}
	used := map[string]bool{}
	var use func(name string)
	use = func(name string) {
		r := byName[name]
		if r == nil || used[name] {
			return
		}
		used[name] = true
		for _, m := range r.MemberOf {
			use(m.Role)
		}
	}
	var name string
	err := each(ctx, conn, `
		SELECT r.rolname FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
		WHERE d.datname = pg_catalog.current_database() AND (r.oid = d.datdba OR EXISTS (
			SELECT 1 FROM pg_catalog.pg_shdepend s
			WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND s.refobjid = r.oid
				AND (s.dbid = d.oid OR s.dbid = 0 AND s.objid = d.oid
					AND s.classid = 'pg_catalog.pg_database'::pg_catalog.regclass)))`,
		nil, []any{&name}, func() { use(name) })
	var kept []*Role
	for _, r := range roles {
		if used[r.Name] {
			kept = append(kept, r)
		}
	}
	return kept, err
}
