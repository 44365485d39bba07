package schema_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// tableJournal keeps the journal in a table of the target, as the engine does.
type tableJournal struct{}

func (tableJournal) Done(ctx context.Context, conn *pgx.Conn, keys []string) (map[string]bool, error) {
	rows, err := conn.Query(ctx, `SELECT key FROM slipway_test.journal WHERE key = ANY ($1)`, keys)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	done := map[string]bool{}
	for _, key := range list {
		done[key] = true
	}
	return done, err
}

func (tableJournal) Record(keys []string) (string, []any) {
	return `INSERT INTO slipway_test.journal SELECT pg_catalog.unnest($1::pg_catalog.text[])`, []any{keys}
}

// newJournal makes the table; the primary key fails the run that creates an object twice.
func newJournal(t *testing.T, d *pgtest.Database) tableJournal {
	t.Helper()
	d.Exec(t, `CREATE SCHEMA slipway_test; CREATE TABLE slipway_test.journal (key text PRIMARY KEY)`)
	return tableJournal{}
}

// makeRoles makes the roles of testdata on the shared servers, where they stay.
func makeRoles(t *testing.T, pair *pgtest.Pair) {
	t.Helper()
	for _, d := range []*pgtest.Database{pair.Source, pair.Target} {
		d.Exec(t, `DO $$ BEGIN CREATE ROLE structure_owner; CREATE ROLE structure_reader;
			EXCEPTION WHEN duplicate_object THEN NULL; END $$`)
	}
}

func pgDump(t *testing.T, minMajor int) postgres.Tool {
	t.Helper()
	tool, err := postgres.ClientTool(t.Context(), pgtest.Roots(), "pg_dump", minMajor)
	if err != nil {
		t.Fatal(err)
	}
	return tool
}

func major(t *testing.T, d *pgtest.Database) int {
	t.Helper()
	return int(d.Int(t, `SELECT current_setting('server_version_num')::int / 10000`))
}

func dump(t *testing.T, d *pgtest.Database) *schema.Archive {
	t.Helper()
	archive, err := schema.Dump(t.Context(), schema.DumpOptions{Tool: pgDump(t, major(t, d)).Path, Source: d.Endpoint()})
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

func connector(d *pgtest.Database) func(context.Context) (*pgx.Conn, error) {
	return func(ctx context.Context) (*pgx.Conn, error) {
		return d.Endpoint().Connect(ctx, postgres.Session{Name: "test"})
	}
}

func planFor(t *testing.T, archive *schema.Archive, target *pgtest.Database, o schema.PlanOptions) *schema.Plan {
	t.Helper()
	o.Target = postgres.Version(major(t, target) * 10000)
	plan, err := archive.Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// runAll runs every stage and fails the test on any error and on any failure that is not tolerated.
func runAll(t *testing.T, x *schema.Executor) {
	t.Helper()
	for _, stage := range schema.Stages {
		failures, err := x.RunStage(t.Context(), stage)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range failures {
			t.Errorf("%s: %v\n%s", stage, f, f.SQL)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
}

// dumpText is the structure as pg_dump prints it, without what differs between two runs of the program.
func dumpText(t *testing.T, d *pgtest.Database, tool string, args ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool, append([]string{
		"--section=pre-data", "--section=post-data", "--exclude-schema=slipway_test", "--no-blobs",
	}, args...)...)
	cmd.Env = d.Endpoint().ChildEnv()
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "-- Dumped ") && !strings.HasPrefix(line, `\restrict`) && !strings.HasPrefix(line, `\unrestrict`) {
			lines = append(lines, line)
		}
	}
	return lines
}

func compareStructure(t *testing.T, pair *pgtest.Pair, args ...string) {
	t.Helper()
	tool := pgDump(t, max(major(t, pair.Source), major(t, pair.Target))).Path
	want, got := dumpText(t, pair.Source, tool, args...), dumpText(t, pair.Target, tool, args...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pg_dump of source (-) and target (+) differ:\n%.6000s", diff)
	}
}

func everything(t *testing.T) string {
	t.Helper()
	sql, err := os.ReadFile("testdata/everything.sql")
	if err != nil {
		t.Fatal(err)
	}
	return string(sql)
}

// TestExecutor_RestoresEverything proves fidelity: pg_dump prints the same for the copy as for the original.
func TestExecutor_RestoresEverything(t *testing.T) {
	pair := pgtest.NewPair(t)
	makeRoles(t, pair)
	pair.Source.Exec(t, everything(t))
	plan := planFor(t, dump(t, pair.Source), pair.Target, schema.PlanOptions{})
	if len(plan.LeftOut) > 0 {
		t.Errorf("left out: %v", plan.LeftOut)
	}
	runAll(t, schema.NewExecutor(schema.ExecutorOptions{
		Plan: plan, Connect: connector(pair.Target), Journal: newJournal(t, pair.Target), Jobs: 4,
	}))
	compareStructure(t, pair)
	if _, err := os.Stat("/tmp/slipway-pwned"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a comment was executed: %v", err)
	}
}
