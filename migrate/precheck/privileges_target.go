package precheck

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// createPrivileges asks for what creating the objects needs.
func (d *database) createPrivileges(ctx context.Context, f *finding) error {
	role := d.target.role
	user := postgres.QuoteIdent(role.Name)
	if d.targetDB == nil {
		f.looked = "CREATEDB of role " + role.Name
		if !role.CreateDB && !role.Superuser {
			f.fail("the role may not create the target database", fmt.Sprintf("ALTER ROLE %s CREATEDB;", user))
		}
		return nil
	}
	f.looked = "CREATE on the database and on its schemas"
	var create bool
	if err := d.targetDB.QueryRow(ctx, `SELECT has_database_privilege(current_database(), 'CREATE')`).Scan(&create); err != nil {
		return err
	}
	if !create {
		f.fail("the role may not create schemas in the target database",
			fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;", postgres.QuoteIdent(d.names.Target), user))
	}
	schemas := []string{}
	for _, s := range d.catalog.Schemas {
		schemas = append(schemas, s.Name)
	}
	closed, err := texts(ctx, d.targetDB, `SELECT nspname::text FROM pg_namespace
		WHERE nspname = ANY($1::text[]) AND NOT (has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE')) ORDER BY 1`, schemas)
	for _, name := range closed {
		f.objects = append(f.objects, "schema "+name)
		f.fail("the role may not create objects in a schema that is there",
			fmt.Sprintf("GRANT USAGE, CREATE ON SCHEMA %s TO %s;", postgres.QuoteIdent(name), user))
	}
	return err
}

// targetOwners wants every owner to be there, and the role to be able to give objects to it.
func (d *database) targetOwners(ctx context.Context, f *finding) error {
	f.looked = plural(len(d.catalog.Owners), "owner") + " of chosen objects"
	missing, err := d.missingRoles(ctx, d.catalog.Owners)
	if err != nil {
		return err
	}
	d.absent(f, missing, "owners of objects do not exist on the target", "--no-owner")
	// To give an object away, a role must be a member of the new owner; since version 16, one that may SET ROLE to it.
	privilege := "MEMBER"
	if d.target.version.AtLeast(16) {
		privilege = "SET"
	}
	user := postgres.QuoteIdent(d.target.role.Name)
	others, err := texts(ctx, d.onTarget(), `SELECT rolname::text FROM pg_roles r
		WHERE rolname = ANY($1::text[]) AND NOT pg_has_role(oid, $2)
			AND NOT (rolname = 'pg_database_owner' AND $3) -- whoever creates the database is that
			AND NOT EXISTS (SELECT FROM pg_namespace n
				WHERE n.nspname = 'public' AND n.nspowner = r.oid AND r.rolname = 'pg_database_owner')
		ORDER BY 1`, d.catalog.Owners, privilege, d.targetDB == nil)
	for _, name := range others {
		fix := fmt.Sprintf("GRANT %s TO %s;", postgres.QuoteIdent(name), user)
		if name == "pg_database_owner" { // takes no members
			fix = fmt.Sprintf("ALTER DATABASE %s OWNER TO %s;", postgres.QuoteIdent(d.names.Target), user)
		}
		f.objects = append(f.objects, "role "+name)
		f.fail("the role may not give objects to their owners", fix, "--no-owner")
	}
	return err
}

// targetGrantees wants everybody whom privileges and policies name.
func (d *database) targetGrantees(ctx context.Context, f *finding) error {
	f.looked = plural(len(d.catalog.Grantees), "role") + " named by privileges and policies"
	missing, err := d.missingRoles(ctx, d.catalog.Grantees)
	d.absent(f, missing, "privileges or policies name roles that do not exist on the target", "--no-privileges")
	return err
}

// absent reports roles that the target does not have. With --roles they are created first, but nobody can create the
// predefined ones, which are missing where the target is older.
func (d *database) absent(f *finding, missing []string, reason, option string) {
	for _, name := range missing {
		switch {
		case strings.HasPrefix(name, "pg_"):
			f.objects = append(f.objects, "role "+name)
			f.warn("PostgreSQL "+d.target.version.MajorString()+" lacks predefined roles that own or may use objects", option)
		case !d.Config.Roles:
			f.objects = append(f.objects, "role "+name)
			f.fail(reason, fmt.Sprintf("CREATE ROLE %s;", postgres.QuoteIdent(name)), "--roles", option)
		}
	}
}

func (d *database) missingRoles(ctx context.Context, names []string) ([]string, error) {
	return texts(ctx, d.target.conn, `SELECT n FROM unnest($1::text[]) AS n
		WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = n) ORDER BY 1`, names)
}

// replicaRole tries the setting in this session only, and takes it back: providers allow it to roles that no catalog
// tells of.
func (r *runner) replicaRole(ctx context.Context, f *finding) error {
	tx, err := r.target.conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing to keep
	_, err = tx.Exec(ctx, `SELECT set_config('session_replication_role', 'replica', true)`)
	if postgres.Code(err) != "42501" {
		return err
	}
	grant := fmt.Sprintf("ALTER ROLE %s SUPERUSER; -- while the migration runs", postgres.QuoteIdent(r.target.role.Name))
	if r.target.version.AtLeast(15) {
		grant = fmt.Sprintf("GRANT SET ON PARAMETER session_replication_role TO %s;", postgres.QuoteIdent(r.target.role.Name))
	}
	f.warn("triggers and foreign keys cannot be switched off in our sessions: they are created only at completion, which then takes longer", grant)
	return nil
}

// readRoles notes the roles that move with a database: all of the server with --all-databases, else those that the
// database names.
func (d *database) readRoles(ctx context.Context) error {
	if d.AllDatabases && len(d.roles) > 0 {
		return nil // the same for every database
	}
	roles, err := schema.ReadRoles(ctx, d.sourceDB, d.AllDatabases)
	if err != nil {
		return err
	}
	for _, role := range roles {
		if !slices.ContainsFunc(d.roles, func(known schema.Role) bool { return known.Name == role.Name }) {
			d.roles = append(d.roles, role)
		}
	}
	return nil
}

// targetRoles asks for what creating roles needs.
func (r *runner) targetRoles(_ context.Context, f *finding) error {
	role := r.target.role
	if role.Superuser {
		return nil
	}
	user := postgres.QuoteIdent(role.Name)
	if !role.CreateRole {
		f.fail("the role may not create roles", fmt.Sprintf("ALTER ROLE %s CREATEROLE;", user))
		return nil
	}
	for _, moved := range r.roles {
		if moved.Name == role.Name || !moved.Superuser && !moved.Replication && !moved.BypassRLS {
			continue
		}
		f.objects = append(f.objects, "role "+moved.Name)
		f.warn("attributes of roles that only a superuser can give (SUPERUSER, REPLICATION, BYPASSRLS) may fail on the target",
			fmt.Sprintf("ALTER ROLE %s SUPERUSER; -- while the migration runs", user))
	}
	return nil
}

// accountConflict names roles that both sides have: they are left as they are on the target, with the password and the
// attributes that they have there.
func (r *runner) accountConflict(ctx context.Context, f *finding) error {
	names := make([]string, len(r.roles))
	for i, role := range r.roles {
		names[i] = role.Name
	}
	f.looked = plural(len(names), "role") + " of the source"
	if r.resumes() {
		f.note("the resumed job has created roles already")
		return nil
	}
	same, err := texts(ctx, r.target.conn, `SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1::text[]) ORDER BY 1`, names)
	for _, name := range same {
		if name == r.target.role.Name {
			f.note(fmt.Sprintf("role %s runs this migration and stays as it is on the target", name))
			continue
		}
		quoted := postgres.QuoteIdent(name)
		f.objects = append(f.objects, "role "+name)
		f.fail("roles of the same name are on the target, maybe with another password and other rights",
			fmt.Sprintf("ALTER ROLE %s RENAME TO %s;", quoted, postgres.QuoteIdent(name+"_old")),
			fmt.Sprintf("DROP ROLE %s; -- after REASSIGN OWNED BY %s TO <another role>; in every database", quoted, quoted))
	}
	return err
}
