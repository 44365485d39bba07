package schema_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/pgtest"
)

const roleKinds = `
CREATE ROLE "app ""owner"" %s" LOGIN PASSWORD 'secret one' CONNECTION LIMIT 7 VALID UNTIL '2031-05-06 07:08:09+00';
CREATE ROLE reader NOINHERIT;
CREATE ROLE boss CREATEROLE CREATEDB;
CREATE ROLE mighty SUPERUSER REPLICATION BYPASSRLS;
CREATE ROLE unused;
CREATE ROLE rds_superuser;
GRANT reader TO boss WITH ADMIN OPTION;
GRANT boss TO "app ""owner"" %s";
GRANT pg_monitor TO reader;
GRANT rds_superuser TO boss;
COMMENT ON ROLE reader IS 'reads "all" it''s 100%';
ALTER ROLE reader SET search_path TO "$user", 'odd, "schema"', public;
ALTER ROLE reader SET work_mem TO '77MB';
ALTER ROLE reader SET "my.setting" TO E'back\\slash and ''quote''';
`

func readRoles(t *testing.T, d *pgtest.Database, all bool) []schema.Role {
	t.Helper()
	roles, err := schema.ReadRoles(context.Background(), connect(t, d), all)
	if err != nil {
		t.Fatal(err)
	}
	return roles
}

func execute(t *testing.T, d *pgtest.Database, statements []schema.Statement) {
	t.Helper()
	failures, err := schema.Execute(context.Background(), connect(t, d), statements)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range failures {
		t.Errorf("%s: %v", f.Statement, f.Err)
	}
}

// majorPairs are the pairs of versions between which what belongs to the server as a whole is moved.
func majorPairs(t *testing.T) [][2]int {
	source, target := pgtest.DefaultMajors(t)
	return [][2]int{{source, target}, {10, 17}, {18, 13}}
}

func startPair(t *testing.T, majors [2]int) (source, target *pgtest.Server) {
	t.Helper()
	return pgtest.Start(t, pgtest.Options{Major: majors[0]}), pgtest.Start(t, pgtest.Options{Major: majors[1]})
}

func TestRoles_MoveAndRunAgain(t *testing.T) {
	t.Parallel()
	for _, majors := range majorPairs(t) {
		t.Run(fmt.Sprintf("%d-%d", majors[0], majors[1]), func(t *testing.T) {
			source, target := startPair(t, majors)
			db := source.Maintenance()
			db.Exec(t, roleKinds, "CREATE DATABASE shop", "ALTER ROLE reader IN DATABASE shop SET work_mem TO '5MB'")
			target.Maintenance().Exec(t, "CREATE DATABASE shop2")
			roles := readRoles(t, db, true)
			to := load(t, target.Maintenance(), schema.Selection{}).Version
			options := schema.RoleOptions{Target: to}
			script := schema.RoleStatements(roles, options)
			inDatabase := schema.RoleDatabaseStatements(roles, options, "shop", "shop2")
			for range 2 { // a second run, after a crash, must change nothing and fail nowhere
				execute(t, target.Maintenance(), script.Statements)
				execute(t, target.Maintenance(), inDatabase.Statements)
			}
			got := readRoles(t, target.Maintenance(), true)
			equal(t, "roles", describe(got), describe(roles))
			for i := range roles {
				if got[i].Password != roles[i].Password || roles[i].Name[0] == 'a' && roles[i].Password == "" {
					t.Errorf("role %s: the verifier differs or is missing", roles[i].Name)
				}
			}
			if !slices.Contains(script.Notes, "role boss stays without its membership in rds_superuser, which is not migrated") {
				t.Errorf("notes: %q", script.Notes)
			}
		})
	}
}

// describe leaves out what differs between servers by right: who granted, options that only some versions have, the
// name of the database, roles of providers.
func describe(roles []schema.Role) []string {
	var lines []string
	for _, r := range roles {
		lines = append(lines, fmt.Sprintf("%s super %v inherit %v createrole %v createdb %v login %v replication %v bypass %v limit %d until %q comment %q",
			r.Name, r.Superuser, r.Inherit, r.CreateRole, r.CreateDB, r.Login, r.Replication, r.BypassRLS,
			r.ConnectionLimit, r.ValidUntil, r.Comment))
		for _, m := range r.MemberOf {
			if m.Role != "rds_superuser" {
				lines = append(lines, fmt.Sprintf("%s in %s admin %v", r.Name, m.Role, m.Admin))
			}
		}
		for _, s := range r.Settings {
			lines = append(lines, fmt.Sprintf("%s in %s: %s = %s", r.Name, strings.TrimSuffix(s.Database, "2"), s.Name, s.Value))
		}
	}
	return lines
}

func TestRoles_OnlyThoseOfTheDatabase(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	db := server.NewDatabase(t, pgtest.DatabaseOptions{})
	db.Exec(t, roleKinds, "CREATE TABLE t (id int); GRANT SELECT ON t TO boss; CREATE ROLE policed; ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t TO policed USING (true)")
	var got []string
	for _, r := range readRoles(t, db, false) {
		got = append(got, r.Name)
	}
	equal(t, "roles", got, []string{"boss", "policed", "reader"}) // reader is what boss is a member of
	c := load(t, db, schema.Selection{})
	equal(t, "grantees", c.Grantees, []string{"boss", "policed"})
	equal(t, "owner of the table", slices.Contains(c.Owners, "postgres"), true)
}

func TestRoles_ExistingStayAsTheyAre(t *testing.T) {
	t.Parallel()
	source, target := startPair(t, [2]int{})
	source.Maintenance().Exec(t, roleKinds)
	target.Maintenance().Exec(t, "CREATE ROLE boss NOINHERIT; CREATE ROLE reader")
	script := schema.RoleStatements(readRoles(t, source.Maintenance(), true), schema.RoleOptions{
		Target: 150000, Existing: map[string]bool{"boss": true, "reader": true},
	})
	execute(t, target.Maintenance(), script.Statements)
	for _, r := range readRoles(t, target.Maintenance(), true) {
		switch r.Name {
		case "boss", "reader":
			if r.CreateRole || len(r.Settings) > 0 || r.Comment != "" || len(r.MemberOf) > 0 || r.Inherit != (r.Name == "reader") {
				t.Errorf("existing role was changed: %+v", r)
			}
		case `app "owner" %s`:
			if len(r.MemberOf) != 1 || r.MemberOf[0].Role != "boss" {
				t.Errorf("memberships of a new role: %+v", r.MemberOf)
			}
		}
	}
}

func TestRoles_GrantorsAndOptions(t *testing.T) {
	t.Parallel()
	source, target := startPair(t, [2]int{17, 17})
	source.Maintenance().Exec(t, `
		CREATE ROLE a_last; CREATE ROLE b_grantor; CREATE ROLE team;
		GRANT team TO b_grantor WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
		SET ROLE b_grantor;
		GRANT team TO a_last WITH ADMIN FALSE, INHERIT TRUE, SET FALSE;
		RESET ROLE;
		GRANT team TO a_last WITH SET TRUE`)
	roles := readRoles(t, source.Maintenance(), true)
	script := schema.RoleStatements(roles, schema.RoleOptions{Target: 170000})
	execute(t, target.Maintenance(), script.Statements)
	equal(t, "roles", readRoles(t, target.Maintenance(), true), roles)
	equal(t, "notes", script.Notes, nil)
	if notes := schema.RoleStatements(roles, schema.RoleOptions{Target: 150000}).Notes; len(notes) != 2 {
		t.Errorf("options that PostgreSQL 15 does not have are lost without a word: %q", notes)
	}
}

// TestRoles_RefusedAttributes: a target user who is no superuser gets the roles, and a report of what was refused.
func TestRoles_RefusedAttributes(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	source, target := startPair(t, [2]int{})
	source.Maintenance().Exec(t, roleKinds)
	target.Maintenance().Exec(t, "CREATE ROLE admin CREATEROLE CREATEDB; CREATE ROLE nobody")
	conn := connect(t, target.Maintenance())
	if _, err := conn.Exec(ctx, "SET ROLE admin"); err != nil {
		t.Fatal(err)
	}
	roles := readRoles(t, source.Maintenance(), true)
	failures, err := schema.Execute(ctx, conn, schema.RoleStatements(roles, schema.RoleOptions{Target: 150000}).Statements)
	if err != nil {
		t.Fatal(err)
	}
	var refused []string
	for _, f := range failures {
		refused = append(refused, f.Statement.Shown())
	}
	for _, attribute := range []string{"SUPERUSER", "REPLICATION", "BYPASSRLS"} {
		if !slices.Contains(refused, `ALTER ROLE "mighty" `+attribute) {
			t.Errorf("%s is not among the refused statements: %q", attribute, refused)
		}
	}
	if n := target.Maintenance().Int(t, "SELECT count(*) FROM pg_roles WHERE rolname = 'mighty'"); n != 1 {
		t.Error("the role was not created without the refused attributes")
	}
	if _, err := conn.Exec(ctx, "RESET ROLE; SET ROLE nobody"); err != nil {
		t.Fatal(err)
	}
	limited, err := schema.ReadRoles(ctx, conn, true)
	if err != nil {
		t.Fatal(err)
	}
	notes := schema.RoleStatements(limited, schema.RoleOptions{Target: 150000}).Notes
	if !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, "password of role app") }) {
		t.Errorf("a password that could not be read is lost without a word: %q", notes)
	}
}

// TestRoles_VerifiersAreNeverPrinted goes through the ways in which a value reaches a log or a terminal.
func TestRoles_VerifiersAreNeverPrinted(t *testing.T) {
	t.Parallel()
	const verifier = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"
	role := schema.Role{Name: "app", Login: true, Password: verifier, PasswordKnown: true, ConnectionLimit: -1}
	script := schema.RoleStatements([]schema.Role{role}, schema.RoleOptions{Target: 150000})
	if !strings.Contains(script.Statements[0].SQL, verifier) || !script.Statements[0].Sensitive {
		t.Fatalf("the statement does not set the password")
	}
	asJSON, err := json.Marshal([]any{role, script})
	if err != nil {
		t.Fatal(err)
	}
	failure := schema.StatementFailure{Statement: script.Statements[0]}
	for _, text := range []string{
		string(asJSON), fmt.Sprint(role, script, failure), fmt.Sprintf("%+v %+v %+v", role, script, failure),
		fmt.Sprintf("%#v %#v %#v", role, script, failure), fmt.Sprintf("%q", script.Statements),
	} {
		if strings.Contains(text, "c3RvcmVk") {
			t.Errorf("verifier in %s", text)
		}
	}
	plain := schema.RoleStatements([]schema.Role{{Name: "x", Password: "plain", PasswordKnown: true}}, schema.RoleOptions{Target: 150000})
	if strings.Contains(plain.Statements[0].SQL, "plain") || len(plain.Notes) != 1 {
		t.Errorf("what is no verifier would become the password: %+v", plain.Notes)
	}
}
