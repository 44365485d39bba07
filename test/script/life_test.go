package script_test

import (
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/precheck"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/verify"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// decode reads the JSON on standard output; members that the type does not have fail the test, so that what scripts
// rely on cannot change its name unseen.
func decode[T any](t *testing.T, o outcome) T {
	t.Helper()
	var value T
	decoder := json.NewDecoder(strings.NewReader(o.stdout))
	if err := decoder.Decode(&value); err != nil {
		t.Fatalf("standard output is not the documented JSON: %v: %v", err, o)
	}
	if decoder.More() {
		t.Errorf("more than one JSON value: %v", o)
	}
	return value
}

// members are the names in a JSON object of standard output.
func members(t *testing.T, o outcome) []string {
	t.Helper()
	raw := o.stdout
	if strings.HasPrefix(raw, "[") {
		list := decode[[]json.RawMessage](t, o)
		if len(list) == 0 {
			t.Fatalf("an empty list: %v", o)
		}
		raw = string(list[0])
	}
	object := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(raw), &object); err != nil {
		t.Fatalf("not an object: %v: %v", err, o)
	}
	var names []string
	for name := range object {
		names = append(names, name)
	}
	return names
}

func (o outcome) wantMembers(t *testing.T, names ...string) {
	t.Helper()
	found := members(t, o)
	for _, name := range names {
		if !slices.Contains(found, name) {
			t.Errorf("JSON without member %q: %v", name, o)
		}
	}
}

// TestLife goes the way of the README: check, run, status, compare while it follows, complete, compare. Every command
// is asked for JSON as well.
func TestLife(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.migrate(t, "check").want(t, done, "passed", "source-connection", "0 failed")
	o := s.migrate(t, "check", "--output", "json").want(t, done)
	o.wantMembers(t, "items", "passed", "warnings", "failed", "skipped")
	if report := decode[precheck.Report](t, o); len(report.Items) < 20 || report.Items[0].ID != "source-connection" {
		t.Errorf("a report of %d items", len(report.Items))
	}
	s.unchanged(t)

	p := s.following(t, "--output", "json")
	pgtest.Eventually(t, patience, "the stored status is in sync, and says what comes next", func() bool {
		text := s.migrate(t, "status").want(t, done, ", running").stdout
		return strings.Contains(text, "in sync") && strings.Contains(text, "next: stop the writes on the source, then slipway migrate complete")
	})
	o = s.migrate(t, "status", "--output", "json").want(t, done)
	o.wantMembers(t, "job", "id", "phase", "in_sync", "lag_bytes", "lag_seconds", "tables", "tables_copied", "rows", "running", "database", "source")
	statuses := decode[[]migrate.JobStatus](t, o)
	mine := slices.IndexFunc(statuses, func(j migrate.JobStatus) bool { return j.Database.Target == s.target.Name })
	if mine < 0 || !statuses[mine].Running || statuses[mine].Phase != state.Follow || statuses[mine].Rows != 3600 {
		t.Errorf("status: %+v", statuses)
	}
	s.migrate(t, "compare").want(t, done, ": same", "3 tables, 3 600 rows")
	s.source.Exec(t, `UPDATE shop.customer SET name = upper(name); DELETE FROM shop.purchase WHERE id % 2 = 0`)

	completed := s.migrate(t, "complete", "--output", "json").want(t, done)
	completed.wantMembers(t, "database", "done", "status", "cutover", "seconds")
	if results := decode[[]migrate.DatabaseResult](t, completed); len(results) != 1 || !results[0].Done || results[0].Cutover == nil {
		t.Errorf("complete: %+v", results)
	}
	o = p.wait(t).want(t, done)
	o.wantMembers(t, "databases")
	if result := decode[migrate.Result](t, o); len(result.Databases) != 1 || !result.Databases[0].Done {
		t.Errorf("run: %+v", result)
	}
	o = s.migrate(t, "compare", "--output", "json").want(t, done)
	o.wantMembers(t, "database", "report")
	if reports := decode[migrate.CompareReports](t, o); reports[0].Report.Result != verify.Same || reports[0].Report.Live {
		t.Errorf("compare: %+v", reports[0].Report)
	}
	s.clean(t)
}

// TestLife_WatchEndsWithTheMigration leaves by itself, and leaving it with Ctrl-C stops nothing.
func TestLife_WatchEndsWithTheMigration(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.following(t)
	left := s.start(t, s.command("status", "--watch")...)
	stays := s.start(t, s.command("status", "--watch")...)
	for _, w := range []*process{left, stays} {
		pgtest.Eventually(t, patience, "the watch shows something", func() bool { return strings.Contains(w.stdout.String(), "in sync") })
	}
	left.signal(t, syscall.SIGINT)
	left.wait(t).want(t, done)
	s.migrate(t, "complete").want(t, done, ": done in ", "drain", "sequences", "1 set")
	p.wait(t).want(t, done)
	stays.wait(t).want(t, done)
}

// TestLife_CompleteWhenSynced needs no second terminal.
func TestLife_CompleteWhenSynced(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.migrate(t, "run", "--yes", "--complete-when-synced", "--max-rows-per-second", "100000").want(t, done, ": done in ", "3 tables, 3 600 rows")
	s.migrate(t, "compare", "--mode", "rows").want(t, done, ": same")
	s.migrate(t, "compare", "--mode", "sample", "--sample-rate", "50").want(t, done, ": same")
	s.migrate(t, "compare", "--mode", "structure").want(t, done, ": same")
	s.clean(t)
}

// TestLife_Types are the two that end by themselves.
func TestLife_Types(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.migrate(t, "run", "--yes", "--type", "structure").want(t, done, ": done in ")
	if n := s.target.Int(t, `SELECT count(*) FROM shop.customer`); n != 0 {
		t.Errorf("structure only, and %d rows", n)
	}
	s.migrate(t, "compare", "--mode", "structure").want(t, done, ": same")
	s.migrate(t, "compare").want(t, different, "missing")
	s.target.Exec(t, `DROP SCHEMA shop CASCADE`)
	s.unchanged(t)
	s.migrate(t, "run", "--yes", "--type", "full").want(t, done, ": done in ", "3 600 rows")
	s.migrate(t, "compare").want(t, done, ": same")
	s.clean(t)
}

// TestLife_CtrlC stops cleanly once, at once the second time, and the same command goes on after both.
func TestLife_CtrlC(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.following(t).stop(t)
	s.migrate(t, "status").want(t, done, "NOT running: run the same slipway migrate run command to go on", "last run ended: stopped")
	s.migrate(t, "complete").want(t, failed, "no process is running the migration", "run the same slipway migrate run command again")
	s.source.Exec(t, `INSERT INTO shop.note VALUES (1000, 'while nobody runs')`)

	p := s.following(t)
	// A target that does not answer keeps the clean stop waiting, as a broken network would.
	if err := s.target.Server.Pause(); err != nil {
		t.Fatal(err)
	}
	resume := func() {
		if err := s.target.Server.Resume(); err != nil {
			t.Error(err)
		}
	}
	p.signal(t, syscall.SIGINT)
	p.await(t, "press Ctrl-C again to end at once; both can be resumed")
	p.signal(t, syscall.SIGINT)
	o := p.wait(t)
	resume()
	o.want(t, stopped)
	s.migrate(t, "run", "--yes", "--complete-when-synced").want(t, done, ": done in ")
	s.migrate(t, "compare").want(t, done, ": same")
	s.clean(t)
}

// TestLife_Abort says what it leaves, and leaves nothing else.
func TestLife_Abort(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.target.Exec(t, `CREATE SCHEMA kept; CREATE TABLE kept.own AS SELECT 1 AS one`)
	s.before = s.contents(t)
	what := []string{"--include", "shop.*"}
	p := s.following(t, what...)
	s.migrate(t, "abort").want(t, done, ": given up", "removed replication slot slipway_", "removed publication slipway_", "removed schema slipway",
		"left: ", "--drop-copied removes them")
	p.wait(t).want(t, failed, "this migration was given up")
	s.clean(t)
	if n := s.target.Int(t, `SELECT count(*) FROM shop.customer`); n != 500 {
		t.Errorf("%d rows are left instead of 500", n)
	}
	s.migrate(t, "run", append(what, "--yes")...).want(t, checkFailed, "shop.customer")
	s.target.Exec(t, `DROP SCHEMA shop CASCADE`)

	s.following(t, what...).stop(t)
	o := s.migrate(t, "abort", "--drop-copied", "--output", "json").want(t, done)
	o.wantMembers(t, "database", "removed", "left")
	s.unchanged(t)
	s.migrate(t, "abort").want(t, failed, "no migration in this database")
}

// TestLife_AbortLeavesOtherMigrationsAlone has two migrations of different runs side by side on one target server.
func TestLife_AbortLeavesOtherMigrationsAlone(t *testing.T) {
	t.Parallel()
	one, other := newScene(t), newScene(t)
	running := other.following(t)
	one.following(t).stop(t)
	atPostgres := strings.Replace(one.target.URI(), "/"+one.target.Name, "/postgres", 1)
	arguments := replaced(one.command("abort"), one.target.URI(), atPostgres)
	one.run(t, arguments...).want(t, failed, "no migration in this database", one.target.Name, other.target.Name, "--target can name one of")
	one.abort(t)
	one.migrate(t, "abort").want(t, failed, "no migration in this database", other.target.Name)
	one.migrate(t, "complete").want(t, failed, "no migration in this database")
	other.source.Exec(t, `INSERT INTO shop.note VALUES (1000, 'goes on')`)
	pgtest.Eventually(t, patience, "the other migration goes on", func() bool {
		return other.target.Int(t, `SELECT count(*) FROM shop.note WHERE id = 1000`) == 1
	})
	other.migrate(t, "complete").want(t, done, other.source.Name)
	running.wait(t).want(t, done)
}

// TestLife_Selection moves some objects and leaves the others out.
func TestLife_Selection(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	what := []string{"--include", "shop.*", "--exclude", "shop.no?e", "--exclude", "shop.total"}
	s.migrate(t, "run", append(what, "--yes", "--complete-when-synced")...).want(t, done, "2 tables, 3 500 rows")
	s.migrate(t, "compare", what...).want(t, done, ": same", "2 tables")
	if n := s.target.Int(t, `SELECT count(*) FROM pg_class WHERE relname IN ('note', 'total')`); n != 0 {
		t.Error("objects that were left out are on the target")
	}
	s.migrate(t, "compare").want(t, different, "shop.note")
	s.clean(t)
}

// TestLife_Rename moves a database to one of another name, which the program creates.
func TestLife_Rename(t *testing.T) {
	t.Parallel()
	target := pgtest.Start(t, pgtest.Options{})
	pair := pgtest.NewPair(t)
	s := sceneOf(t, pair.Source, target.Maintenance())
	s.source.Server.Maintenance().Exec(t, `ALTER DATABASE `+postgres.QuoteIdent(s.source.Name)+` SET work_mem = '5MB'`)
	what := []string{"--database", s.source.Name + `:new "name`}
	s.migrate(t, "run", append(what, "--yes", "--complete-when-synced")...).want(t, done, ` as new "name: done in `)
	s.migrate(t, "compare", what...).want(t, done, ": same")
	renamed := on(target, &pgtest.Database{Name: `new "name`})
	if setting := renamed.Strings(t, `SHOW work_mem`)[0]; setting != "5MB" {
		t.Errorf("work_mem = %s: the database's settings did not move", setting)
	}
	s.unchanged(t)
}

// TestLife_AllDatabases moves an entire instance with roles and settings; completion and abort take all of it.
func TestLife_AllDatabases(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Start(t, pgtest.Options{}), pgtest.Start(t, pgtest.Options{})
	for _, name := range []string{"one", "two"} {
		source.NewDatabase(t, pgtest.DatabaseOptions{Name: name}).Exec(t, shop)
	}
	source.Maintenance().Exec(t, `CREATE ROLE clerk LOGIN PASSWORD 'cl3rk' CONNECTION LIMIT 7`, `CREATE ROLE staff NOLOGIN`, `GRANT staff TO clerk`,
		`ALTER ROLE clerk SET work_mem = '6MB'`, `ALTER ROLE clerk IN DATABASE one SET work_mem = '7MB'`, `ALTER DATABASE two SET timezone = 'Asia/Shanghai'`,
		`REVOKE CONNECT ON DATABASE two FROM PUBLIC`, `GRANT CONNECT ON DATABASE two TO staff`)
	on(source, &pgtest.Database{Name: "one"}).Exec(t, `GRANT SELECT ON shop.customer TO staff`, `ALTER TABLE shop.note OWNER TO clerk`)
	s := &scene{shell: newShell(t), source: source.Maintenance(), target: target.Maintenance()}
	s.before = s.contents(t)
	p := s.start(t, s.command("run", "--all-databases", "--yes")...)
	for _, name := range []string{"one", "two"} {
		p.await(t, "database="+name+" phase=follow in_sync=true")
	}
	s.migrate(t, "status").want(t, done, "one ", "two ").without(t, "postgres ")
	s.migrate(t, "compare", "--all-databases").want(t, done, "one: same", "two: same")
	s.migrate(t, "complete").want(t, done, "one: done in", "two: done in")
	p.wait(t).want(t, done, "one: done in", "two: done in").without(t, "cl3rk", "note: ")
	s.unchanged(t)
	for query, want := range map[string]string{
		`SELECT rolconnlimit FROM pg_roles WHERE rolname = 'clerk'`:                                                           "7",
		`SELECT pg_has_role('clerk', 'staff', 'member')`:                                                                      "t",
		`SELECT count(*) FROM pg_authid WHERE rolname = 'clerk' AND rolpassword LIKE 'SCRAM%'`:                                "1",
		`SELECT string_agg(array_to_string(setconfig, ','), ';' ORDER BY setdatabase) FROM pg_db_role_setting`:                "work_mem=6MB",
		`SELECT has_database_privilege('staff', 'two', 'CONNECT') AND NOT has_database_privilege('public', 'two', 'CONNECT')`: "t",
	} {
		if got := target.Maintenance().Strings(t, query)[0]; !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	moved := on(target, &pgtest.Database{Name: "one"})
	if got := moved.Strings(t, `SELECT pg_get_userbyid(relowner), has_table_privilege('staff', 'shop.customer', 'SELECT') FROM pg_class WHERE oid = 'shop.note'::regclass`)[0]; got != "clerk|t" {
		t.Errorf("owner and privilege: %s", got)
	}
}

// TestCompare_Verdicts are the exit codes of a comparison.
func TestCompare_Verdicts(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.migrate(t, "run", "--yes", "--type", "full").want(t, done)
	s.target.Exec(t, `UPDATE shop.note SET line = 'planted' WHERE id = 7`, `DELETE FROM shop.purchase WHERE id = 8`,
		`INSERT INTO shop.note VALUES (2000, 'extra')`, `DROP INDEX shop.purchase_customer`)
	o := s.migrate(t, "compare").want(t, different, ": different", "shop.note differs: 0 rows missing, 1 extra, 1 different",
		"shop.purchase differs: 1 rows missing, 0 extra, 0 different", "extra id=2000\n", "different id=7 in line\n", "missing id=8\n",
		"structure differs: index shop.purchase_customer")
	if o.stderr != "" {
		t.Errorf("differences are a result, not an error: %v", o)
	}
	s.migrate(t, "compare", "--output", "json").want(t, different, `"missing"`, `"extra"`, `"different"`)
	s.target.Exec(t, `SELECT lo_from_bytea(4711, 'planted')`)
	s.migrate(t, "compare").want(t, different, "large objects differ: 0 missing, 1 extra, 0 different, first [4711]")
	// Who may not read a table cannot call it the same.
	role := "reader_" + s.target.Name
	s.target.Exec(t, "CREATE ROLE "+role+" LOGIN", "GRANT USAGE ON SCHEMA shop TO "+role, "GRANT SELECT ON shop.customer, shop.purchase TO "+role)
	t.Cleanup(func() { s.target.Exec(t, "DROP OWNED BY "+role, "DROP ROLE "+role) })
	asReader := strings.Replace(s.target.URI(), "postgres@", role+"@", 1)
	s.run(t, replaced(s.command("compare", "--mode", "rows"), s.target.URI(), asReader)...).want(t, failed, "shop.note could not be compared: ",
		"not everything could be compared")
}

// TestCompletion generates for every shell.
func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"bash", "zsh", "fish", "powershell"} {
		if o := newShell(t).run(t, "completion", name).want(t, done); len(o.stdout) < 1000 {
			t.Errorf("completion for %s: %v", name, o)
		}
	}
	newShell(t).run(t, "__complete", "migrate", "").want(t, done, "check", "run", "status", "complete", "abort", "compare")
	newShell(t).run(t, "__complete", "migrate", "run", "--type", "").want(t, done, "structure", "full+incremental")
	newShell(t).run(t, "completion", "tcsh").want(t, usage, "tcsh")
}
