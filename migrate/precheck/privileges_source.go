package precheck

import (
	"context"
	"fmt"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// replicationGrant is the statement that lets the role of s replicate: providers without superuser have a role for it.
func (s *server) replicationGrant(ctx context.Context) (string, error) {
	roles, err := texts(ctx, s.conn, `SELECT rolname::text FROM pg_roles WHERE rolname = 'rds_replication'`)
	if err != nil {
		return "", err
	}
	if len(roles) > 0 {
		return fmt.Sprintf("GRANT rds_replication TO %s;", postgres.QuoteIdent(s.role.Name)), nil
	}
	return fmt.Sprintf("ALTER ROLE %s REPLICATION;", postgres.QuoteIdent(s.role.Name)), nil
}

// grant is an object that the role may not read, with the statement that lets it.
type grant struct{ Object, SQL string }

// readPrivileges lists every missing privilege of reading. CONNECT is proven by the session itself.
func (d *database) readPrivileges(ctx context.Context, f *finding) error {
	user := postgres.QuoteIdent(d.source.role.Name)
	f.looked = fmt.Sprintf("USAGE on %s, SELECT on %s, %s and %s",
		plural(len(d.catalog.Schemas), "schema"), plural(len(d.catalog.Tables), "table"),
		plural(len(d.catalog.Sequences), "sequence"), plural(int(d.catalog.LargeObjects), "large object"))
	relations := []uint32{}
	for _, t := range d.catalog.Tables {
		relations = append(relations, t.OID)
	}
	for _, t := range d.catalog.ConfigTables {
		relations = append(relations, t.OID)
	}
	for _, s := range d.catalog.Sequences {
		relations = append(relations, s.OID)
	}
	// The schemas are those of the relations: an extension's may be among them.
	missing, err := rowsOf[grant](ctx, d.sourceDB, `
		SELECT 'schema ' || n.nspname, 'GRANT USAGE ON SCHEMA ' || quote_ident(n.nspname) || ' TO ' || $2 || ';'
		FROM pg_namespace n
		WHERE n.oid IN (SELECT relnamespace FROM pg_class WHERE oid = ANY($1::oid[])) AND NOT has_schema_privilege(n.oid, 'USAGE')
		UNION ALL
		(SELECT kind.word || ' ' || n.nspname || '.' || c.relname, 'GRANT SELECT ON ' || upper(kind.word) || ' '
			|| quote_ident(n.nspname) || '.' || quote_ident(c.relname) || ' TO ' || $2 || ';'
		FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace
		CROSS JOIN LATERAL (SELECT CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END AS word) AS kind
		WHERE c.oid = ANY($1::oid[]) AND NOT has_table_privilege(c.oid, 'SELECT')
		ORDER BY c.relkind <> 'r', n.nspname, c.relname)`, relations, user)
	if err != nil {
		return err
	}
	if d.copies() {
		objects, err := d.largeObjectGrants(ctx, user)
		if err != nil {
			return err
		}
		missing = append(missing, objects...)
	}
	for _, m := range missing {
		f.objects = append(f.objects, m.Object)
		f.fail("the role may not read everything that moves", m.SQL)
	}
	return d.rowSecurity(ctx, f, relations)
}

// largeObjectGrants asks the privileges from the ACLs: a function for it came with version 18 only.
func (d *database) largeObjectGrants(ctx context.Context, user string) ([]grant, error) {
	if d.catalog.LargeObjects == 0 || d.source.settings["lo_compat_privileges"].Value == "on" {
		return nil, nil
	}
	return rowsOf[grant](ctx, d.sourceDB, `
		SELECT 'large object ' || m.oid, 'GRANT SELECT ON LARGE OBJECT ' || m.oid || ' TO ' || $1 || ';'
		FROM pg_largeobject_metadata m
		WHERE NOT pg_has_role(m.lomowner, 'USAGE') AND NOT EXISTS (
			SELECT FROM aclexplode(m.lomacl) a
			WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))
		ORDER BY m.oid`, user)
}

// rowSecurity names tables whose policies would hide rows: COPY of them is an error, never a part of the rows.
func (d *database) rowSecurity(ctx context.Context, f *finding, relations []uint32) error {
	if d.source.version < 90500 || !d.copies() {
		return nil
	}
	hidden, err := texts(ctx, d.sourceDB, `SELECT n.nspname || '.' || c.relname
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = ANY($1::oid[]) AND c.relkind = 'r' AND c.relrowsecurity AND row_security_active(c.oid)
		ORDER BY 1`, relations)
	for _, name := range hidden {
		f.objects = append(f.objects, "policies of "+name)
		f.fail("row security hides rows from the role", fmt.Sprintf("ALTER ROLE %s BYPASSRLS;", postgres.QuoteIdent(d.source.role.Name)))
	}
	return err
}

// publicationPrivileges asks for what CREATE PUBLICATION … FOR TABLE needs: CREATE on the database and the rights of
// every table's owner.
func (d *database) publicationPrivileges(ctx context.Context, f *finding) error {
	user := postgres.QuoteIdent(d.source.role.Name)
	var create bool
	if err := d.sourceDB.QueryRow(ctx, `SELECT has_database_privilege(current_database(), 'CREATE')`).Scan(&create); err != nil {
		return err
	}
	f.looked = "CREATE on the database and ownership of " + plural(len(d.catalog.Tables), "table")
	if !create {
		f.fail("a publication cannot be created in the database",
			fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;", postgres.QuoteIdent(d.names.Source), user))
	}
	type owned struct{ Table, Owner string }
	foreign, err := rowsOf[owned](ctx, d.sourceDB, `SELECT n.nspname || '.' || c.relname, pg_get_userbyid(c.relowner)::text
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = ANY($1::oid[]) AND c.relkind = 'r' AND NOT pg_has_role(c.relowner, 'USAGE')
		ORDER BY 1`, d.tableOIDs())
	for _, o := range foreign {
		f.objects = append(f.objects, fmt.Sprintf("%s (owner %s)", o.Table, o.Owner))
		f.fail("only the owner of a table can publish it", fmt.Sprintf("GRANT %s TO %s;", postgres.QuoteIdent(o.Owner), user))
	}
	return err
}

// tableOIDs are the chosen tables that hold rows.
func (d *database) tableOIDs() []uint32 {
	oids := []uint32{}
	for _, t := range d.catalog.Tables {
		if t.Kind == schema.Ordinary {
			oids = append(oids, t.OID)
		}
	}
	return oids
}

// sourceRoles warns when passwords cannot be read: that takes a superuser, unless pg_authid was opened.
func (r *runner) sourceRoles(ctx context.Context, f *finding) error {
	var readable bool
	err := r.source.conn.QueryRow(ctx, `SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')`).Scan(&readable)
	if err == nil && !readable {
		f.warn("passwords of roles cannot be read: the roles arrive without one",
			fmt.Sprintf("GRANT SELECT ON pg_catalog.pg_authid TO %s;", postgres.QuoteIdent(r.source.role.Name)),
			"ALTER ROLE <name> PASSWORD '<password>'; -- on the target, for each role after the migration")
	}
	return err
}
