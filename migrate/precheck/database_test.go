package precheck_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-db/slipway/migrate/precheck"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/pgtest"
)

func TestSelection(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, ordinarySchema)
	config := configure(pair.Source, pair.Target)
	choose := func(include, exclude string) *precheck.Report {
		config.Selection = schema.Selection{}
		if include != "" {
			config.Selection.Include = patterns(t, strings.Fields(include)...)
		}
		if exclude != "" {
			config.Selection.Exclude = patterns(t, strings.Fields(exclude)...)
		}
		return check(t, config)
	}
	report := choose("app.*", "")
	expect(t, report, "selection", precheck.Passed)
	expect(t, report, "patterns", precheck.Passed)
	expect(t, report, "object-dependency", precheck.Passed)
	report = choose("app.* public.nothing", "app.nobody")
	expect(t, report, "patterns", precheck.Failed, "--include public.nothing matches nothing", "--exclude app.nobody matches nothing")
	expect(t, choose("nowhere.*", ""), "selection", precheck.Failed, "empty")
	expect(t, choose("app.names", ""), "selection", precheck.Failed, "no table")
	report = choose("app.customer app.names app.order*", "app.mood")
	expect(t, report, "object-dependency", precheck.Failed, "app.customer", "app.mood", "--include 'app.mood'")
	report = choose("app.order* app.event_1", "")
	expect(t, report, "object-dependency", precheck.Failed, "--include 'app.customer'", "--include 'app.event'", "parent")
	config.Type = precheck.Structure
	expect(t, choose("app.names app.customer app.mood", ""), "object-dependency", precheck.Passed)
}

// TestSelection_OverDatabases proves that a pattern has to match in one of several databases only.
func TestSelection_OverDatabases(t *testing.T) {
	one, two := pgtest.NewPair(t), pgtest.NewPair(t)
	one.Source.Exec(t, `CREATE TABLE a (id integer PRIMARY KEY)`)
	two.Source.Exec(t, `CREATE TABLE b (id integer PRIMARY KEY)`)
	config := configure(one.Source, one.Target)
	config.Databases = append(config.Databases, precheck.Database{Source: two.Source.Name, Target: two.Target.Name})
	config.Selection.Include = patterns(t, "public.a", "public.b")
	report := check(t, config)
	expect(t, report, "patterns", precheck.Passed)
	config.Selection.Include = patterns(t, "public.a", "public.c")
	expect(t, check(t, config), "patterns", precheck.Failed, "public.c")
}

func TestAllDatabases(t *testing.T) {
	pair := pgtest.NewPair(t)
	server := pgtest.Start(t, pgtest.Options{})
	for _, name := range []string{"one", `two "quoted"`} {
		server.NewDatabase(t, pgtest.DatabaseOptions{Name: name}).Exec(t, ordinarySchema)
	}
	config := configure(server.Maintenance(), pair.Target.Server.Maintenance())
	config.Databases, config.AllDatabases = nil, true
	report := check(t, config)
	databases := map[string]bool{}
	for _, item := range report.Items {
		if item.ID == "target-database" {
			databases[item.Database] = true
			if item.Result != precheck.Passed || !strings.Contains(item.Reason, "will be created") {
				t.Errorf("%s: %s %s", item.Database, item.Result, item.Reason)
			}
		}
	}
	if len(databases) != 2 || !databases["one"] || !databases[`two "quoted"`] {
		t.Errorf("looked at %v", databases)
	}
	if report.Result() == precheck.Failed {
		t.Errorf("%+v", report.Items)
	}
}

// TestSourcePrivileges_Holes gives a role everything but one privilege of each kind, wants the command for each, runs
// what the report says, and wants everything to pass.
func TestSourcePrivileges_Holes(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `DROP ROLE IF EXISTS mover, "the owner"`, `CREATE ROLE mover LOGIN REPLICATION`, `CREATE ROLE "the owner"`,
		`CREATE SCHEMA shut; CREATE TABLE shut.t (id integer PRIMARY KEY)`,
		`CREATE TABLE "it's" (id serial PRIMARY KEY); ALTER TABLE "it's" OWNER TO "the owner"`,
		`CREATE TABLE secret (id integer PRIMARY KEY, who text); ALTER TABLE secret ENABLE ROW LEVEL SECURITY; GRANT SELECT ON secret TO mover`,
		`SELECT lo_create(4711)`)
	t.Cleanup(func() {
		pair.Source.Exec(t, `REASSIGN OWNED BY mover, "the owner" TO postgres; DROP OWNED BY mover, "the owner"; DROP ROLE mover, "the owner"`)
	})
	config := configure(pair.Source, pair.Target)
	config.Source, config.NoOwner = as(t, pair.Source, "mover"), true
	report := check(t, config)
	expect(t, report, "source-privileges", precheck.Failed,
		`GRANT USAGE ON SCHEMA shut TO "mover";`, `GRANT SELECT ON TABLE shut.t TO "mover";`,
		`GRANT SELECT ON TABLE public."it's" TO "mover";`, `GRANT SELECT ON SEQUENCE public."it's_id_seq" TO "mover";`,
		`GRANT SELECT ON LARGE OBJECT 4711 TO "mover";`, `ALTER ROLE "mover" BYPASSRLS;`)
	expect(t, report, "source-publication", precheck.Failed, "GRANT CREATE ON DATABASE", `GRANT "the owner" TO "mover";`, `GRANT "postgres" TO "mover";`)
	pair.Source.Exec(t, find(t, report, "source-privileges").Fix...)
	for _, fix := range find(t, report, "source-publication").Fix {
		pair.Source.Exec(t, fix)
	}
	report = check(t, config)
	expect(t, report, "source-privileges", precheck.Passed)
	expect(t, report, "source-publication", precheck.Passed)
}

// TestTargetPrivileges_Holes does the same on the target.
func TestTargetPrivileges_Holes(t *testing.T) {
	pair := pgtest.NewPair(t)
	server := pgtest.Start(t, pgtest.Options{})
	d := server.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	d.Exec(t, `CREATE ROLE mover LOGIN`, `CREATE ROLE app_owner`, `CREATE SCHEMA app`)
	pair.Source.Exec(t, ordinarySchema, `DROP ROLE IF EXISTS app_owner, app_reader`, `CREATE ROLE app_owner`, `CREATE ROLE app_reader`,
		`ALTER TABLE app.customer OWNER TO app_owner`, `GRANT SELECT ON app.customer TO app_reader`)
	t.Cleanup(func() {
		pair.Source.Exec(t, `REASSIGN OWNED BY app_owner TO postgres; DROP OWNED BY app_owner, app_reader; DROP ROLE app_owner, app_reader`)
	})
	config := configure(pair.Source, d)
	config.Target = as(t, d, "mover")
	report := check(t, config)
	expect(t, report, "target-privileges", precheck.Failed, `GRANT CREATE ON DATABASE "app" TO "mover";`, `GRANT USAGE, CREATE ON SCHEMA "app" TO "mover";`)
	expect(t, report, "target-owners", precheck.Failed, `GRANT "app_owner" TO "mover";`, `GRANT "postgres" TO "mover";`, "--no-owner")
	expect(t, report, "target-grantees", precheck.Failed, `CREATE ROLE "app_reader";`, "--no-privileges")
	expect(t, report, "target-replica-role", precheck.Warning, "session_replication_role", `"mover"`)
	d.Exec(t, slices.Concat(find(t, report, "target-privileges").Fix, []string{`GRANT app_owner, postgres TO mover`, `CREATE ROLE app_reader`})...)
	again := check(t, config)
	for _, id := range []string{"target-privileges", "target-owners", "target-grantees"} {
		expect(t, again, id, precheck.Passed)
	}
	config.Databases[0] = precheck.Database{Source: pair.Source.Name, Target: "new", Create: true}
	expect(t, check(t, config), "target-privileges", precheck.Failed, `ALTER ROLE "mover" CREATEDB;`)
	d.Exec(t, `ALTER ROLE mover CREATEDB`)
	expect(t, check(t, config), "target-privileges", precheck.Passed)
	config.Databases[0].Create = false
	expect(t, check(t, config), "target-database", precheck.Failed, `CREATE DATABASE "new"`)
	d.Exec(t, find(t, report, "target-replica-role").Fix...)
	expect(t, check(t, config), "target-replica-role", precheck.Passed)
}

func TestRoles(t *testing.T) {
	source, target := pgtest.Start(t, pgtest.Options{}), pgtest.Start(t, pgtest.Options{})
	from := source.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	to := target.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	from.Exec(t, `CREATE ROLE reader; CREATE ROLE "Big Boss" SUPERUSER; CREATE ROLE reading LOGIN REPLICATION`)
	to.Exec(t, `CREATE ROLE mover LOGIN`)
	config := configure(from, to)
	config.Roles = true
	to.Exec(t, `CREATE ROLE named`)
	from.Exec(t, `CREATE ROLE named; CREATE SCHEMA s AUTHORIZATION named`)
	expect(t, check(t, config), "account-conflict", precheck.Failed, "1 role of", `DROP ROLE "named";`)
	to.Exec(t, `DROP ROLE named`)
	config.AllDatabases = true
	report := check(t, config)
	expect(t, report, "account-conflict", precheck.Passed, "4 roles")
	expect(t, report, "source-role-passwords", precheck.Passed)
	expect(t, report, "target-create-roles", precheck.Passed)
	to.Exec(t, `CREATE ROLE "Big Boss"`)
	config.Source, config.Target = as(t, from, "reading"), as(t, to, "mover")
	report = check(t, config)
	expect(t, report, "account-conflict", precheck.Failed, `ALTER ROLE "Big Boss" RENAME TO "Big Boss_old";`)
	expect(t, report, "source-role-passwords", precheck.Warning, `GRANT SELECT ON pg_catalog.pg_authid TO "reading";`)
	expect(t, report, "target-create-roles", precheck.Failed, `ALTER ROLE "mover" CREATEROLE;`)
	to.Exec(t, `ALTER ROLE mover CREATEROLE`)
	expect(t, check(t, config), "target-create-roles", precheck.Warning, "Big Boss")
	config.Databases[0].JobID = "0a0b0c0d" // which has created them
	expect(t, check(t, config), "account-conflict", precheck.Passed)
	config.Roles = false
	for _, item := range check(t, config).Items {
		if item.ID == "account-conflict" {
			t.Error("roles do not move, but were compared")
		}
	}
}

func TestStructureConflict(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, ordinarySchema, `CREATE INDEX by_name ON app.customer (name)`)
	config := configure(pair.Source, pair.Target)
	report := check(t, config)
	expect(t, report, "structure-conflict", precheck.Passed)
	expect(t, report, "target-empty", precheck.Passed)
	pair.Target.Exec(t, `CREATE SCHEMA app; CREATE TABLE other (by_name integer); CREATE INDEX by_name ON other (by_name); ALTER TABLE other SET SCHEMA app;
		CREATE FUNCTION app.double(b integer) RETURNS integer LANGUAGE sql AS 'SELECT b'`)
	config.Selection.Include = patterns(t, "app.*")
	report = check(t, config)
	expect(t, report, "structure-conflict", precheck.Warning, `"app"."double"(integer); -- on the target`, `DROP INDEX "app"."by_name";`)
	expect(t, report, "target-empty", precheck.Passed)
	config.Selection = schema.Selection{}
	expect(t, check(t, config), "target-empty", precheck.Failed, `DROP TABLE "app"."other";`)
	pair.Target.Exec(t, `CREATE VIEW app.customer AS SELECT 1 AS id; CREATE SEQUENCE app.event; CREATE DOMAIN app.mood AS text; CREATE TYPE app.names AS (a integer)`)
	expect(t, check(t, config), "structure-conflict", precheck.Failed, `DROP VIEW "app"."customer";`, `DROP SEQUENCE "app"."event";`,
		`DROP TYPE "app"."mood";`, `DROP TYPE "app"."names";`, "--exclude 'app.customer'")
	config.Databases[0].JobID = "0a0b0c0d"
	report = check(t, config)
	expect(t, report, "structure-conflict", precheck.Passed)
	expect(t, report, "target-empty", precheck.Passed)
}

func TestStructureCompatibility(t *testing.T) {
	pair := pgtest.NewPair(t)
	bad := pair.Source.Server.NewDatabase(t, pgtest.DatabaseOptions{Encoding: "SQL_ASCII", Locale: "C"})
	t.Cleanup(func() { pair.Source.Exec(t, fmt.Sprintf(`DROP DATABASE %q`, bad.Name)) })
	expect(t, check(t, configure(bad, pair.Target)), "structure-compatibility", precheck.Warning, "SQL_ASCII", "LC_COLLATE 'C'")
	conn := pair.Source.Connect(t)
	for _, sql := range []string{`SET allow_in_place_tablespaces = on`, `CREATE TABLESPACE fast LOCATION ''`} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	pair.Source.Exec(t, `CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler`,
		`CREATE TABLE t (id integer PRIMARY KEY) TABLESPACE fast; CREATE TABLE u (id integer PRIMARY KEY) USING other`)
	t.Cleanup(func() { pair.Source.Exec(t, `DROP TABLE t`, `DROP TABLESPACE fast`) })
	expect(t, check(t, configure(pair.Source, pair.Target)), "structure-compatibility", precheck.Failed,
		`CREATE TABLESPACE "fast"`, "access method other")
}

func TestStructureCompatibility_OlderTarget(t *testing.T) {
	pair := pgtest.NewPairOf(t, 15, 10)
	source, target := pair.Source, pair.Target
	source.Exec(t, `CREATE TABLE t (id integer PRIMARY KEY, n numeric(3,-2), m int4multirange, g integer GENERATED ALWAYS AS (1) STORED, f numeric)`,
		`CREATE PROCEDURE p() LANGUAGE sql AS ''`, `CREATE TABLE h (id integer) PARTITION BY HASH (id)`,
		`CREATE TABLE k (id integer UNIQUE NULLS NOT DISTINCT)`)
	expect(t, check(t, configure(source, target)), "structure-compatibility", precheck.Failed,
		"scale", "int4multirange", "generated columns", "no procedures", "by hash", "NULLS NOT DISTINCT", "infinity")
	expect(t, check(t, configure(source, target)), "target-owners", precheck.Warning, "pg_database_owner", "--no-owner")
}

func TestParameterConflict(t *testing.T) {
	pair := pgtest.NewPair(t)
	config := configure(pair.Source, pair.Target)
	expect(t, check(t, config), "parameter-conflict", precheck.Passed)
	pair.Target.Exec(t, fmt.Sprintf(`ALTER DATABASE %q SET timezone = 'Asia/Tokyo'`, pair.Target.Name),
		fmt.Sprintf(`ALTER DATABASE %q SET datestyle = 'SQL, DMY'`, pair.Target.Name))
	report := check(t, config)
	expect(t, report, "parameter-conflict", precheck.Warning, "wrong times", "Asia/Tokyo on the target", "day and month", "SET TimeZone = ")
	for _, fix := range find(t, report, "parameter-conflict").Fix {
		pair.Target.Exec(t, fix)
	}
	expect(t, check(t, config), "parameter-conflict", precheck.Passed)
	latin := pair.Target.Server.NewDatabase(t, pgtest.DatabaseOptions{Encoding: "LATIN1", Locale: "C"})
	t.Cleanup(func() { pair.Target.Exec(t, fmt.Sprintf(`DROP DATABASE %q`, latin.Name)) })
	expect(t, check(t, configure(pair.Source, latin)), "parameter-conflict", precheck.Warning, "server_encoding", "ENCODING 'UTF8'")
}

func TestExtensions(t *testing.T) {
	pair := pgtest.NewPair(t)
	server := pgtest.Start(t, pgtest.Options{})
	d := server.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	d.Exec(t, `CREATE ROLE mover LOGIN`)
	pair.Source.Exec(t, `CREATE EXTENSION citext; CREATE EXTENSION pageinspect`)
	config := configure(pair.Source, d)
	expect(t, check(t, config), "extensions", precheck.Passed)
	config.Target = as(t, d, "mover")
	expect(t, check(t, config), "extensions", precheck.Failed, "only a superuser can create pageinspect", `CREATE EXTENSION "pageinspect";`)
	d.Exec(t, `CREATE EXTENSION pageinspect VERSION '1.5'`)
	expect(t, check(t, config), "extensions", precheck.Warning, "pageinspect is", `ALTER EXTENSION "pageinspect" UPDATE TO`)
	// The name alone decides: its rows are not where decoding would look for them.
	pair.Source.Exec(t, `UPDATE pg_extension SET extname = 'timescaledb' WHERE extname = 'citext'`,
		`UPDATE pg_extension SET extname = 'not_there' WHERE extname = 'pageinspect'`)
	expect(t, check(t, config), "extensions", precheck.Failed, "timescaledb keeps rows", "--type full", "not_there is not available")
	pair.Source.Exec(t, `UPDATE pg_extension SET extname = 'citext' WHERE extname = 'timescaledb'`,
		`UPDATE pg_extension SET extname = 'pageinspect' WHERE extname = 'not_there'`)
}

// TestTargetSpace makes a table look larger than the disk: a sparse file takes no space.
func TestTargetSpace(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `CREATE TABLE big (id integer PRIMARY KEY) WITH (autovacuum_enabled = off)`)
	config := configure(pair.Source, pair.Target)
	expect(t, check(t, config), "target-space", precheck.Passed, " free")
	path := filepath.Join(pair.Source.Server.DataDir(), pair.Source.Strings(t, `SELECT pg_relation_filepath('big')`)[0])
	var stat unix.Statfs_t
	if err := unix.Statfs(pair.Target.Server.DataDir(), &stat); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(stat.Bavail)*stat.Bsize); err != nil {
		t.Fatal(err)
	}
	expect(t, check(t, config), "target-space", precheck.Failed, "df -h")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	// Without the right to see the directory nothing is claimed.
	pair.Target.Exec(t, `DROP ROLE IF EXISTS blind`, `CREATE ROLE blind LOGIN`)
	t.Cleanup(func() { pair.Target.Exec(t, `DROP ROLE blind`) })
	config.Target = as(t, pair.Target, "blind")
	expect(t, check(t, config), "target-space", precheck.Passed, "not known from here")
}

func TestOtherTask(t *testing.T) {
	pair := pgtest.NewPair(t)
	config := configure(pair.Source, pair.Target)
	expect(t, check(t, config), "other-task", precheck.Passed)
	pair.Target.Exec(t, `CREATE SCHEMA slipway`)
	expect(t, check(t, config), "other-task", precheck.Failed, "DROP SCHEMA")
	pair.Source.Exec(t, `CREATE PUBLICATION slipway_00000000`)
	expect(t, check(t, config), "other-task", precheck.Failed, `DROP PUBLICATION "slipway_00000000";`)
}

func TestEventTriggers(t *testing.T) {
	pair := pgtest.NewPair(t)
	config := configure(pair.Source, pair.Target)
	expect(t, check(t, config), "event-triggers", precheck.Passed)
	pair.Target.Exec(t, `CREATE FUNCTION public.audit() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'`,
		`CREATE EVENT TRIGGER "the audit" ON ddl_command_end EXECUTE FUNCTION public.audit()`)
	report := check(t, config)
	expect(t, report, "event-triggers", precheck.Warning, `ALTER EVENT TRIGGER "the audit" DISABLE;`)
	pair.Target.Exec(t, find(t, report, "event-triggers").Fix...)
	expect(t, check(t, config), "event-triggers", precheck.Passed)
}

func TestReplicaIdentity(t *testing.T) {
	pair := pgtest.NewPair(t)
	config := configure(pair.Source, pair.Target)
	pair.Source.Exec(t, `CREATE TABLE good (id integer PRIMARY KEY)`)
	expect(t, check(t, config), "replica-identity", precheck.Passed)
	pair.Source.Exec(t, `CREATE TABLE "no key" (a integer)`,
		`CREATE TABLE deferred (id integer PRIMARY KEY DEFERRABLE)`,
		`CREATE TABLE with_index (a integer NOT NULL, b integer, c integer NOT NULL); CREATE UNIQUE INDEX w_ab ON with_index (a, c);
			CREATE UNIQUE INDEX w_b ON with_index (b); CREATE UNIQUE INDEX w_p ON with_index (c) WHERE c > 0`,
		`CREATE TABLE nothing (id integer PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING`,
		`CREATE TABLE full_row (a integer); ALTER TABLE full_row REPLICA IDENTITY FULL`)
	report := check(t, config)
	expect(t, report, "replica-identity", precheck.Failed, `ALTER TABLE "public"."no key" REPLICA IDENTITY FULL;`,
		`ALTER TABLE "public"."deferred" REPLICA IDENTITY FULL;`, `ALTER TABLE "public"."with_index" REPLICA IDENTITY USING INDEX "w_ab";`,
		`ALTER TABLE "public"."nothing" REPLICA IDENTITY DEFAULT;`)
	item := find(t, report, "replica-identity")
	if len(item.Objects) != 4 {
		t.Errorf("objects %q", item.Objects)
	}
	pair.Source.Exec(t, item.Fix...)
	expect(t, check(t, config), "replica-identity", precheck.Passed)
}

func TestReplicaIdentityFull_LargeTable(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `CREATE TABLE wide (a integer, b text) WITH (autovacuum_enabled = off); ALTER TABLE wide REPLICA IDENTITY FULL`)
	config := configure(pair.Source, pair.Target)
	expect(t, check(t, config), "replica-identity-full", precheck.Passed)
	path := filepath.Join(pair.Source.Server.DataDir(), pair.Source.Strings(t, `SELECT pg_relation_filepath('wide')`)[0])
	if err := os.Truncate(path, 100<<20); err != nil { // sparse, of empty pages
		t.Fatal(err)
	}
	expect(t, check(t, config), "replica-identity-full", precheck.Warning, "public.wide (100 MB)", "CREATE INDEX")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
}

func TestUnloggedTables(t *testing.T) {
	pair := pgtest.NewPair(t)
	config := configure(pair.Source, pair.Target)
	pair.Source.Exec(t, `CREATE TABLE good (id integer PRIMARY KEY)`)
	expect(t, check(t, config), "unlogged-tables", precheck.Passed)
	pair.Source.Exec(t, `CREATE UNLOGGED TABLE "Cache.1" (id integer)`)
	report := check(t, config)
	expect(t, report, "unlogged-tables", precheck.Failed, `ALTER TABLE "public"."Cache.1" SET LOGGED;`, `--exclude 'public."Cache.1"'`)
	expect(t, report, "replica-identity", precheck.Passed)
	config.Selection.Exclude = patterns(t, `public."Cache.1"`)
	expect(t, check(t, config), "unlogged-tables", precheck.Passed)
}

func TestLargeObjects(t *testing.T) {
	pair := pgtest.NewPair(t)
	config := configure(pair.Source, pair.Target)
	expect(t, check(t, config), "large-objects", precheck.Passed)
	pair.Source.Exec(t, `SELECT lo_create(0), lo_create(0)`)
	expect(t, check(t, config), "large-objects", precheck.Warning, "2 large objects", "aligned at completion")
}

func TestLeftBehindAndRegColumns(t *testing.T) {
	pair := pgtest.NewPair(t)
	config := configure(pair.Source, pair.Target)
	report := check(t, config)
	expect(t, report, "left-behind", precheck.Passed)
	expect(t, report, "reg-columns", precheck.Passed)
	pair.Source.Exec(t, `CREATE TABLE t (id integer PRIMARY KEY, "which table" regclass, all_of regproc[])`,
		`CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER always BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
			ALTER TABLE t ENABLE ALWAYS TRIGGER always`,
		`CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw; CREATE FOREIGN TABLE away (a integer) SERVER far`)
	report = check(t, config)
	expect(t, report, "left-behind", precheck.Passed, "foreign table public.away (server far)", "trigger always on public.t")
	expect(t, report, "reg-columns", precheck.Warning, "public.t.which table (regclass)", "all_of (_regproc)", `SELECT DISTINCT "which table"`)
	pair.Source.Exec(t, `CREATE SUBSCRIPTION own CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false)`)
	report = check(t, config)
	pair.Source.Exec(t, `ALTER SUBSCRIPTION own SET (slot_name = NONE)`, `DROP SUBSCRIPTION own`)
	expect(t, report, "left-behind", precheck.Warning, "subscription own", `ALTER SUBSCRIPTION "own" DISABLE;`)
}
