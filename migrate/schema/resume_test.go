package schema_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// cuttingJournal breaks the connection when the record of a group is due, so that the group is never committed.
type cuttingJournal struct {
	tableJournal
	left int // records that still succeed
}

func (j *cuttingJournal) Record(keys []string) (string, []any) {
	if j.left--; j.left < 0 {
		return `SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())`, nil
	}
	return j.tableJournal.Record(keys)
}

// resumable is everything, planned for its target.
func resumable(t *testing.T) (*pgtest.Pair, *schema.Plan) {
	t.Helper()
	pair := pgtest.NewPair(t)
	makeRoles(t, pair)
	pair.Source.Exec(t, everything(t))
	return pair, planFor(t, dump(t, pair.Source), pair.Target, schema.PlanOptions{})
}

// TestExecutor_ResumesAfterEveryEntry cuts the run before each commit in turn and goes on from there.
func TestExecutor_ResumesAfterEveryEntry(t *testing.T) {
	pair := pgtest.NewPair(t)
	makeRoles(t, pair)
	pair.Source.Exec(t, portable)
	plan := planFor(t, dump(t, pair.Source), pair.Target, schema.PlanOptions{})
	journal := newJournal(t, pair.Target)
	cuts := 0
	for _, stage := range schema.Stages {
		for done := false; !done; {
			x := schema.NewExecutor(schema.ExecutorOptions{
				Plan: plan, Connect: connector(pair.Target), Journal: &cuttingJournal{tableJournal: journal, left: 1},
			}).OneByOne()
			failures, err := x.RunStage(t.Context(), stage)
			for _, f := range failures {
				t.Fatalf("%v\n%s", f, f.SQL)
			}
			if done = err == nil; !done {
				if cuts++; !postgres.Retryable(err) {
					t.Fatalf("cut %d: %v is not retryable", cuts, err)
				}
			}
		}
	}
	entries := 0
	for _, stage := range schema.Stages {
		entries += len(plan.Entries(stage)) - 1
	}
	if cuts != entries {
		t.Errorf("%d cuts between the entries of all stages, want %d", cuts, entries)
	}
	compareStructure(t, pair)
}

// TestExecutor_ResumesAfterCutConnections cuts the network after ever more bytes, so also between a commit and its
// answer, with several sessions at work.
func TestExecutor_ResumesAfterCutConnections(t *testing.T) {
	pair, plan := resumable(t)
	journal := newJournal(t, pair.Target)
	proxy := pgtest.NewProxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(pair.Target.Server.Port())))
	endpoint, err := postgres.ParseEndpoint(pair.Target.URIVia(proxy.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	x := schema.NewExecutor(schema.ExecutorOptions{
		Plan: plan, Journal: journal, Jobs: 3,
		Connect: func(ctx context.Context) (*pgx.Conn, error) {
			return endpoint.Connect(ctx, postgres.Session{Name: "test"})
		},
	})
	cuts := 0
	for _, stage := range schema.Stages {
		for done := false; !done; {
			// What the server sends is small: begin, commit and record are answered in a few dozen bytes each.
			proxy.CutAfter(int64(2500+97*cuts), pgtest.ToClient)
			failures, err := x.RunStage(t.Context(), stage)
			for _, f := range failures {
				t.Fatalf("%v\n%s", f, f.SQL)
			}
			if done = err == nil; !done {
				if cuts++; !postgres.Retryable(err) {
					t.Fatalf("cut %d: %v is not retryable", cuts, err)
				}
			}
		}
	}
	if cuts < 3 {
		t.Errorf("only %d cuts", cuts)
	}
	compareStructure(t, pair)
}

// fencedJournal is a journal that another runner has taken over.
type fencedJournal struct{ tableJournal }

func (fencedJournal) Record(keys []string) (string, []any) {
	return `INSERT INTO slipway_test.journal SELECT k FROM pg_catalog.unnest($1::pg_catalog.text[]) AS k WHERE false`, []any{keys}
}

func TestExecutor_Fenced(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `CREATE TABLE t (id int PRIMARY KEY)`)
	plan := planFor(t, dump(t, pair.Source), pair.Target, schema.PlanOptions{})
	x := schema.NewExecutor(schema.ExecutorOptions{
		Plan: plan, Connect: connector(pair.Target), Journal: fencedJournal{newJournal(t, pair.Target)},
	})
	if failures, err := x.RunStage(t.Context(), schema.StagePreData); !errors.Is(err, schema.ErrFenced) || len(failures) > 0 {
		t.Errorf("failures %v, error %v", failures, err)
	}
	if n := pair.Target.Int(t, `SELECT count(*) FROM pg_class WHERE relname = 't'`); n != 0 {
		t.Error("the table was created without its record")
	}
}

// broken has objects that a target with some names taken refuses, among others that it accepts.
func broken(t *testing.T) (*pgtest.Pair, *schema.Plan) {
	t.Helper()
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int); CREATE TABLE c (id int); CREATE VIEW d AS SELECT * FROM c`)
	pair.Target.Exec(t, `CREATE TABLE b (other text)`)
	return pair, planFor(t, dump(t, pair.Source), pair.Target, schema.PlanOptions{})
}

func TestExecutor_FailureStops(t *testing.T) {
	pair, plan := broken(t)
	x := schema.NewExecutor(schema.ExecutorOptions{Plan: plan, Connect: connector(pair.Target), Journal: newJournal(t, pair.Target)})
	failures, err := x.RunStage(t.Context(), schema.StagePreData)
	if err != nil {
		t.Fatal(err)
	}
	if len(failures) != 1 || failures[0].Entry.String() != "TABLE public.b" || postgres.Code(failures[0]) != "42P07" ||
		!strings.Contains(failures[0].SQL, `CREATE TABLE "public"."b"`) {
		t.Fatalf("failures: %v", failures)
	}
	if n := pair.Target.Int(t, `SELECT count(*) FROM pg_class WHERE relname IN ('c', 'd')`); n != 0 {
		t.Error("the run went on after the failure")
	}
	// The cause is removed, and the same run completes.
	pair.Target.Exec(t, `DROP TABLE b`)
	runAll(t, x)
	compareStructure(t, pair)
}

func TestExecutor_FailureContinues(t *testing.T) {
	pair, plan := broken(t)
	var mu sync.Mutex
	events := map[string][]schema.EventState{}
	x := schema.NewExecutor(schema.ExecutorOptions{
		Plan: plan, Connect: connector(pair.Target), Journal: newJournal(t, pair.Target), OnError: schema.Continue,
		Progress: func(e schema.Event) {
			mu.Lock()
			defer mu.Unlock()
			events[e.Entry.String()] = append(events[e.Entry.String()], e.State)
		},
	})
	failures, err := x.RunStage(t.Context(), schema.StagePreData)
	if err != nil || len(failures) != 1 || failures[0].Entry.String() != "TABLE public.b" {
		t.Fatalf("failures %v, error %v", failures, err)
	}
	if n := pair.Target.Int(t, `SELECT count(*) FROM pg_class WHERE relname IN ('a', 'c', 'd')`); n != 3 {
		t.Errorf("%d of 3 other relations were created", n)
	}
	want := map[string][]schema.EventState{
		"TABLE public.a": {schema.EventStarted, schema.EventDone},
		"TABLE public.b": {schema.EventStarted, schema.EventFailed},
		"TABLE public.c": {schema.EventStarted, schema.EventDone},
		"VIEW public.d":  {schema.EventStarted, schema.EventDone},
	}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("events, want - got +:\n%s", diff)
	}
}

// TestExecutor_RunTable proves that the indexes of a partition do not wait for those of its parent, and that the rest
// of the stage completes what the tables left.
func TestExecutor_RunTable(t *testing.T) {
	pair, plan := resumable(t)
	x := schema.NewExecutor(schema.ExecutorOptions{
		Plan: plan, Connect: connector(pair.Target), Journal: newJournal(t, pair.Target), Jobs: 2,
		Large: map[schema.Name]bool{{Schema: "app", Name: "customers"}: true},
	})
	if _, err := x.RunStage(t.Context(), schema.StagePreData); err != nil {
		t.Fatal(err)
	}
	conn, err := connector(pair.Target)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, table := range []string{"events_2024_one", "customers", "customers", "dropped", "orders"} {
		failures, err := x.RunTable(t.Context(), conn, schema.Name{Schema: "app", Name: table})
		if err != nil || len(failures) > 0 {
			t.Fatalf("%s: failures %v, error %v", table, failures, err)
		}
	}
	got := pair.Target.Strings(t, `SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = ANY
		('{app.events_2024_one,app.orders,app.events}'::regclass[]) ORDER BY 1`)
	want := []string{"app.events_2024_one_at_idx", "app.events_2024_one_pkey", "app.only_here", "app.orders_note_key", "app.orders_pkey"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want - got +:\n%s", diff)
	}
	runAll(t, x)
	compareStructure(t, pair)
}

func TestExecutor_DryRun(t *testing.T) {
	pair := pgtest.NewPair(t)
	role := "only_on_source_" + strconv.FormatInt(time.Now().UnixNano(), 36)
	pair.Source.Exec(t, fmt.Sprintf(`CREATE ROLE %[1]s; CREATE TABLE t (id int); GRANT SELECT ON t TO %[1]s; CREATE TABLE u (id int);
		GRANT SELECT ON u TO PUBLIC; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END';
		CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()`, role))
	plan := planFor(t, dump(t, pair.Source), pair.Target, schema.PlanOptions{})
	x := schema.NewExecutor(schema.ExecutorOptions{Plan: plan, Connect: connector(pair.Target), Journal: newJournal(t, pair.Target)})
	if _, err := x.RunStage(t.Context(), schema.StagePreData); err != nil {
		t.Fatal(err)
	}
	conn, err := connector(pair.Target)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	failures, err := x.DryRun(t.Context(), conn, schema.StageLate)
	if err != nil || len(failures) != 1 || failures[0].Entry.String() != `ACL TABLE "t" in public` || postgres.Code(failures[0]) != "42704" {
		t.Errorf("failures %v, error %v", failures, err)
	}
	if n := pair.Target.Int(t, `SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal`); n != 0 {
		t.Error("the dry run left a trigger")
	}
	if n := pair.Target.Int(t, `SELECT count(*) FROM slipway_test.journal WHERE key LIKE 'TRIGGER%'`); n != 0 {
		t.Error("the dry run wrote to the journal")
	}
	// A table that is being written is waited for only briefly, and the error says that it may work later.
	writer := pair.Target.Connect(t)
	if _, err := writer.Exec(t.Context(), `BEGIN; LOCK t IN ROW EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	if _, err := x.DryRun(t.Context(), conn, schema.StageLate); !postgres.Retryable(err) {
		t.Errorf("locked table: error %v", err)
	}
}

// TestExecutor_Cancel proves that the server stops building an index when the run is stopped, and that the session
// can be used again.
func TestExecutor_Cancel(t *testing.T) {
	pair := pgtest.NewPair(t)
	const slow = `CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM pg_catalog.pg_sleep(300); RETURN 1; END'`
	pair.Source.Exec(t, slow, `CREATE TABLE t (id int); CREATE INDEX ON t (slow(id))`)
	plan := planFor(t, dump(t, pair.Source), pair.Target, schema.PlanOptions{})
	x := schema.NewExecutor(schema.ExecutorOptions{Plan: plan, Connect: connector(pair.Target), Journal: newJournal(t, pair.Target)})
	if failures, err := x.RunStage(t.Context(), schema.StagePreData); err != nil || len(failures) > 0 {
		t.Fatalf("failures %v, error %v", failures, err)
	}
	pair.Target.Exec(t, `INSERT INTO t VALUES (1)`)
	conn, err := connector(pair.Target)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("stopped by the user")
	result := make(chan error, 1)
	go func() {
		failures, err := x.RunTable(ctx, conn, schema.Name{Schema: "public", Name: "t"})
		if len(failures) > 0 {
			err = fmt.Errorf("failures %v", failures)
		}
		result <- err
	}()
	building := func() bool {
		return pair.Target.Int(t, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()`) > 0
	}
	pgtest.Eventually(t, 30*time.Second, "the index is being built", building)
	cancel(reason)
	if err := <-result; !errors.Is(err, reason) {
		t.Errorf("error %v", err)
	}
	pgtest.Eventually(t, 10*time.Second, "the index is no longer being built", func() bool { return !building() })
	var one int
	if err := conn.QueryRow(t.Context(), `SELECT 1`).Scan(&one); err != nil {
		t.Errorf("the session after the cancellation: %v", err)
	}
}

// TestExecutor_Secrets proves that the password of a user mapping is in no report.
func TestExecutor_Secrets(t *testing.T) {
	pair := pgtest.NewPair(t)
	role := "only_on_source_" + strconv.FormatInt(time.Now().UnixNano(), 36)
	pair.Source.Exec(t, fmt.Sprintf(`CREATE ROLE %s; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
		CREATE USER MAPPING FOR %[1]s SERVER s OPTIONS ("user" 'u', password 'planted-secret')`, role))
	plan := planFor(t, dump(t, pair.Source), pair.Target, schema.PlanOptions{})
	x := schema.NewExecutor(schema.ExecutorOptions{Plan: plan, Connect: connector(pair.Target), Journal: newJournal(t, pair.Target)})
	failures, err := x.RunStage(t.Context(), schema.StagePreData)
	if err != nil || len(failures) != 1 || failures[0].Entry.Desc != "USER MAPPING" {
		t.Fatalf("failures %v, error %v", failures, err)
	}
	if text := failures[0].Error() + failures[0].SQL; strings.Contains(text, "planted-secret") || !strings.Contains(text, "CREATE USER MAPPING") {
		t.Errorf("report: %s", text)
	}
}

// TestExecutor_PlainUser restores as a role that may create but does not own what the target already has.
func TestExecutor_PlainUser(t *testing.T) {
	pair := pgtest.NewPair(t)
	role := "plain_" + strconv.FormatInt(time.Now().UnixNano(), 36)
	pair.Target.Exec(t, fmt.Sprintf(`CREATE ROLE %[1]s LOGIN; GRANT CREATE ON DATABASE %[2]s TO %[1]s; GRANT CREATE ON SCHEMA public TO %[1]s;
		CREATE EXTENSION citext`, role, postgres.QuoteIdent(pair.Target.Name)))
	pair.Source.Exec(t, `CREATE EXTENSION citext; CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, name citext)`)
	plan := planFor(t, dump(t, pair.Source), pair.Target, schema.PlanOptions{NoOwner: true})
	journal := newJournal(t, pair.Target)
	pair.Target.Exec(t, fmt.Sprintf(`GRANT USAGE ON SCHEMA slipway_test TO %[1]s; GRANT ALL ON slipway_test.journal TO %[1]s`, role))
	endpoint, err := postgres.ParseEndpoint(strings.Replace(pair.Target.URI(), "postgres@", role+"@", 1))
	if err != nil {
		t.Fatal(err)
	}
	x := schema.NewExecutor(schema.ExecutorOptions{
		Plan: plan, Journal: journal,
		Connect: func(ctx context.Context) (*pgx.Conn, error) {
			return endpoint.Connect(ctx, postgres.Session{Name: "test"})
		},
	})
	var failures []schema.Failure
	for _, stage := range schema.Stages {
		more, err := x.RunStage(t.Context(), stage)
		if err != nil {
			t.Fatal(err)
		}
		failures = append(failures, more...)
	}
	if len(failures) != 1 || !failures[0].Tolerated || failures[0].Entry.String() != `COMMENT EXTENSION "citext"` {
		t.Errorf("failures %v", failures)
	}
	if owner := pair.Target.Strings(t, `SELECT relowner::regrole::text FROM pg_class WHERE relname = 't'`); !slices.Equal(owner, []string{role}) {
		t.Errorf("owner %v", owner)
	}
}

// TestExecutor_Versions moves structure up and down between majors and compares what is there afterwards.
func TestExecutor_Versions(t *testing.T) {
	for _, majors := range [][2]int{{10, 15}, {10, 18}, {13, 17}, {17, 15}, {18, 13}} {
		t.Run(fmt.Sprintf("%d to %d", majors[0], majors[1]), func(t *testing.T) {
			pair := pgtest.NewPairOf(t, majors[0], majors[1])
			makeRoles(t, pair)
			pair.Source.Exec(t, portable)
			plan := planFor(t, dump(t, pair.Source), pair.Target, schema.PlanOptions{})
			runAll(t, schema.NewExecutor(schema.ExecutorOptions{
				Plan: plan, Connect: connector(pair.Target), Journal: newJournal(t, pair.Target), Jobs: 2,
			}))
			// The same program reads both, so that only what differs between the servers can differ.
			tool := pgDump(t, max(majors[0], majors[1])).Path
			if diff := cmp.Diff(objects(t, pair.Source, tool), objects(t, pair.Target, tool)); diff != "" {
				t.Errorf("source - target +:\n%s", diff)
			}
		})
	}
}

func objects(t *testing.T, d *pgtest.Database, tool string) []string {
	t.Helper()
	archive, err := schema.Dump(t.Context(), schema.DumpOptions{Tool: tool, Source: d.Endpoint()})
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range archive.Entries {
		// The schema public has another owner and other privileges by default since 15.
		isPublic := strings.HasSuffix(e.Tag, "public") || strings.HasSuffix(e.Tag, `SCHEMA "public"`)
		if e.Schema != "slipway_test" && e.Tag != "slipway_test" && e.Desc != "DATABASE" && !isPublic {
			list = append(list, e.String()+" of "+e.Owner)
		}
	}
	slices.Sort(list)
	return list
}

// portable is structure that PostgreSQL 10 has too.
const portable = `
CREATE SCHEMA app AUTHORIZATION structure_owner;
CREATE EXTENSION citext;
CREATE TYPE app.mood AS ENUM ('a', 'b');
CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION app.add(a int, b int DEFAULT 1) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + b';
CREATE OPERATOR app.@+ (LEFTARG = int, RIGHTARG = int, PROCEDURE = app.add);
CREATE TABLE app.customers (id serial PRIMARY KEY, name citext NOT NULL, feeling app.mood, size app.positive,
	"system_user" text, n int GENERATED BY DEFAULT AS IDENTITY, CHECK (app.add(id) > 0));
CREATE INDEX ON app.customers (lower(name::text)) WHERE size > 1;
CREATE TABLE app.orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int REFERENCES app.customers);
CREATE TABLE app.events (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE app.events_1 PARTITION OF app.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE INDEX ON app.events_1 (at);
CREATE VIEW app.grouped AS SELECT c.id, c.name, count(*) FROM app.customers c JOIN app.orders o ON o.customer = c.id GROUP BY c.id;
CREATE MATERIALIZED VIEW app.kept AS SELECT id, name FROM app.customers GROUP BY id;
CREATE UNIQUE INDEX ON app.kept (id);
CREATE STATISTICS app.dep (dependencies) ON id, customer FROM app.orders;
CREATE TRIGGER touch BEFORE UPDATE ON app.customers FOR EACH ROW EXECUTE PROCEDURE app.touch();
ALTER TABLE app.customers ENABLE ALWAYS TRIGGER touch;
CREATE RULE quiet AS ON DELETE TO app.orders DO INSTEAD NOTHING;
ALTER TABLE app.customers ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON app.customers USING (name = current_user::text);
CREATE PUBLICATION pub FOR TABLE app.customers;
ALTER TABLE app.orders OWNER TO structure_owner;
GRANT SELECT ON app.customers TO structure_reader;
COMMENT ON TABLE app.customers IS E'a\nb';`
