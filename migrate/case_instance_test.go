package migrate_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// instanceRoles and instanceDatabases are a server with everything that belongs to no database.
const instanceRoles = `
CREATE ROLE "App Owner" LOGIN PASSWORD 'secret' CONNECTION LIMIT 7 VALID UNTIL '2099-01-01';
CREATE ROLE reader NOINHERIT;
CREATE ROLE "wr""iter" IN ROLE reader CREATEDB;
CREATE ROLE manager CREATEROLE;
GRANT "App Owner" TO manager WITH ADMIN OPTION;
ALTER ROLE reader SET search_path = 'app, "Odd ""path", public';
ALTER ROLE "wr""iter" SET work_mem = '7MB';
COMMENT ON ROLE reader IS 'reads';`

var instanceDatabases = []string{
	`CREATE DATABASE app OWNER "App Owner" TEMPLATE template0 CONNECTION LIMIT 50`,
	`CREATE DATABASE "Second; DB" TEMPLATE template0`,
	`CREATE DATABASE third OWNER manager TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C'`,
	`ALTER DATABASE app SET timezone = 'Asia/Kathmandu'`,
	`ALTER DATABASE app SET search_path = 'app, public'`,
	`ALTER ROLE reader IN DATABASE app SET statement_timeout = '7s'`,
	`REVOKE CONNECT ON DATABASE "Second; DB" FROM PUBLIC`,
	`GRANT CONNECT, CREATE ON DATABASE "Second; DB" TO reader`,
	`COMMENT ON DATABASE third IS 'the third'`,
}

const instanceObjects = `
CREATE SCHEMA app AUTHORIZATION "App Owner";
CREATE TABLE app.item (id serial PRIMARY KEY, v text);
ALTER TABLE app.item OWNER TO "App Owner";
GRANT SELECT ON app.item TO reader;
GRANT UPDATE (v) ON app.item TO "wr""iter" WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE "App Owner" IN SCHEMA app GRANT SELECT ON TABLES TO reader;
ALTER DEFAULT PRIVILEGES FOR ROLE manager REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE FUNCTION app.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
REVOKE EXECUTE ON FUNCTION app.f() FROM PUBLIC;
ALTER TABLE app.item ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON app.item TO reader USING (id > 0);
INSERT INTO app.item (v) SELECT 'v' || i FROM generate_series(1, 100) i;`

// instanceFacts is what a server says about roles and databases, without passwords' salt.
func instanceFacts(t *testing.T, s *pgtest.Server) []string {
	t.Helper()
	r := newReader(t, s.Maintenance(), "3")
	var facts []string
	for _, query := range []string{
		`SELECT 'role', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolconnlimit, rolvaliduntil, rolbypassrls,
			rolpassword, shobj_description(oid, 'pg_authid') FROM pg_authid WHERE rolname NOT LIKE 'pg\_%' ORDER BY rolname`,
		`SELECT 'member', m.member::regrole::text, m.roleid::regrole::text, m.admin_option FROM pg_auth_members m
			WHERE m.roleid::regrole::text NOT LIKE 'pg\_%' ORDER BY 2, 3`,
		`SELECT 'database', datname, datdba::regrole, pg_encoding_to_char(encoding), datcollate, datconnlimit,
			ARRAY(SELECT a::text FROM unnest(datacl) a ORDER BY 1), shobj_description(oid, 'pg_database')
			FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY datname`,
		`SELECT 'setting', d.datname, CASE s.setrole WHEN 0 THEN '' ELSE s.setrole::regrole::text END, ARRAY(SELECT c FROM unnest(s.setconfig) c ORDER BY 1)
			FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase ORDER BY 2, 3`,
	} {
		facts = append(facts, r.rows(query)...)
	}
	return facts
}

// TestRun_WholeInstance moves three databases of a server with its roles, memberships, settings, owners and grants, is
// killed in the copy, given up, killed in the stream, and completed.
func TestRun_WholeInstance(t *testing.T) {
	source, target := pgtest.Start(t, pgtest.Options{}), pgtest.Start(t, pgtest.Options{})
	source.Maintenance().Exec(t, instanceRoles)
	source.Maintenance().Exec(t, instanceDatabases...)
	names := []string{"app", "Second; DB", "third"}
	for _, name := range names {
		(&pgtest.Database{Server: source, Name: name}).Exec(t, instanceObjects)
	}
	config := engineConfig{
		Source: source.Maintenance().URI(), Target: target.Maintenance().URI(), Type: migrate.FullIncremental, AllDatabases: true,
		RetryFor: 30 * time.Second,
	}
	killed := config
	killed.KillAt = state.Copy
	if e := startEngine(t, killed); e.wait(t) != -1 {
		t.Fatalf("the engine was to be killed in the copy:\n%s", strings.Join(e.output(), "\n"))
	}
	follower := startEngine(t, config)
	pgtest.Eventually(t, time.Minute, "three databases to follow", func() bool {
		return source.Maintenance().Int(t, `SELECT count(*) FROM pg_replication_slots WHERE active`) == int64(len(names))
	})
	for _, name := range names {
		(&pgtest.Database{Server: source, Name: name}).Exec(t, `INSERT INTO app.item (v) VALUES ('during')`, `UPDATE app.item SET v = v || '!'`)
	}
	follower.kill()
	mustFinish(t, config)
	for _, name := range names {
		pair := &pgtest.Pair{Source: &pgtest.Database{Server: source, Name: name}, Target: &pgtest.Database{Server: target, Name: name}}
		sameContent(t, pair, false)
		sameStructure(t, pair)
		nothingLeft(t, pair)
	}
	compareAll(t, config)
	if diff := cmp.Diff(instanceFacts(t, source), instanceFacts(t, target)); diff != "" {
		t.Errorf("roles, databases or settings differ (-source +target):\n%s", diff)
	}
}

// samples are public databases that lie beside the module on some machines, with the files that fill them.
var samples = map[string]struct {
	files    []string
	encoding string
}{
	"chinook":     {files: []string{"chinook/Chinook_PostgreSql.sql"}},
	"northwind":   {files: []string{"northwind/northwind.sql"}},
	"pagila":      {files: []string{"pagila-0.10/pagila-schema.sql", "pagila-0.10/pagila-data.sql"}},
	"pagila-neon": {files: []string{"pagila-neon/pagila.sql"}},
	"world":       {files: []string{"world/world.sql"}, encoding: "LATIN1"},
}

// TestRun_SampleDatabases moves databases that others have made, where they are at hand.
func TestRun_SampleDatabases(t *testing.T) {
	root := filepath.Join("..", "..", "shared", "data")
	if _, err := os.Stat(root); err != nil {
		return // they are input for a test and no part of the project
	}
	server, target := pgtest.Start(t, pgtest.Options{}), pgtest.Start(t, pgtest.Options{})
	for name, sample := range samples {
		t.Run(name, func(t *testing.T) {
			options := pgtest.DatabaseOptions{Name: name, Encoding: sample.encoding}
			if sample.encoding != "" {
				options.Locale = "C"
			}
			pair := &pgtest.Pair{Source: server.NewDatabase(t, options), Target: target.NewDatabase(t, pgtest.DatabaseOptions{Name: name})}
			for _, file := range sample.files {
				loadSample(t, pair.Source, filepath.Join(root, file))
			}
			mendIdentities(t, pair.Source)
			config := engineConfig{Source: pair.Source.URI(), Target: pair.Target.URI(), Type: migrate.FullIncremental, RetryFor: 30 * time.Second}
			parsed, err := config.config()
			if err != nil {
				t.Fatal(err)
			}
			if report, err := migrate.Check(context.Background(), parsed); err != nil || report.Failed > 0 {
				t.Fatalf("check: %v %+v", err, report)
			}
			mustFinish(t, config)
			sameContent(t, pair, false)
			compareAll(t, config)
			nothingLeft(t, pair)
		})
	}
}

// mendIdentities does what the check tells for tables without a key.
func mendIdentities(t *testing.T, d *pgtest.Database) {
	t.Helper()
	for _, name := range d.Strings(t, `SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
		AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)`) {
		d.Exec(t, "ALTER TABLE "+name+" REPLICA IDENTITY FULL")
	}
}

// loadSample feeds a script to psql, without what would make and choose a database of its own.
func loadSample(t *testing.T, d *pgtest.Database, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, `\c `) && !strings.HasPrefix(line, "DROP DATABASE") && !strings.HasPrefix(line, "CREATE DATABASE") {
			script.WriteString(line)
		}
	}
	tool, err := postgres.ClientTool(context.Background(), pgtest.Roots(), "psql", d.Server.Major())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool.Path, "--no-psqlrc", "--quiet", "--output", os.DevNull)
	cmd.Env, cmd.Stdin = d.Endpoint().ChildEnv(), strings.NewReader(script.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("load %s: %v\n%.2000s", path, err, out)
	}
}
