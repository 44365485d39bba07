package migrate_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/verify"
	"github.com/slipway-db/slipway/pgtest"
)

// fill gives the source tables that take the copy a moment, in parts too.
const fill = `
CREATE TABLE big (id bigint PRIMARY KEY, payload text, n numeric(20,4));
INSERT INTO big SELECT i, md5(i::text) || repeat('y', 200), i / 7.0 FROM generate_series(1, 60000) i;
CREATE INDEX big_n ON big (n);
CREATE TABLE wide (a int, b int, c text, PRIMARY KEY (b, a));
INSERT INTO wide SELECT i, i % 17, repeat('z', i % 300) FROM generate_series(1, 20000) i;
CREATE MATERIALIZED VIEW big_summary AS SELECT count(*) AS rows, sum(n) AS total FROM big;
SELECT lo_from_bytea(0, decode(repeat('ab', 50000), 'hex'));
`

// compareAll fails the test when structure or any row differs.
func compareAll(t *testing.T, c engineConfig) {
	t.Helper()
	config, err := c.config()
	if err != nil {
		t.Fatal(err)
	}
	reports, err := migrate.Compare(context.Background(), config, migrate.CompareOptions{Mode: verify.Full})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reports {
		if r.Report.Result == verify.Same {
			continue
		}
		for _, table := range r.Report.Tables {
			if table.Result != verify.Same && table.Result != verify.Skipped {
				t.Errorf("table %s: %s %s %s missing %d, extra %d, different %d: %v", table.Name, table.Result, table.Err, table.Reason,
					table.Missing, table.Extra, table.Different, table.Differences)
			}
		}
		for _, d := range r.Report.Structure {
			if d.Class == verify.ClassDifferent {
				t.Errorf("structure: %s %s %s: source %q, target %q", d.Kind, d.Object, d.Property, d.Source, d.Target)
			}
		}
		for _, s := range r.Report.Sequences {
			if s.Result != verify.Same {
				t.Errorf("sequence %s: %s %s", s.Name, s.Result, s.Reason)
			}
		}
		t.Errorf("database %s: %s %v", r.Database.Source, r.Report.Result, r.Report.Errors)
	}
}

// nothingLeft fails the test when slot, publication or our schema is still there.
func nothingLeft(t *testing.T, pair *pgtest.Pair) {
	t.Helper()
	left := pair.Source.Strings(t, `SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
		UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE pubname LIKE 'slipway%'`)
	left = append(left, pair.Target.Strings(t, `SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname = 'slipway'`)...)
	if len(left) > 0 {
		t.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}

func ledgerPair(t *testing.T) (*pgtest.Pair, engineConfig) {
	t.Helper()
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, ledgerSchema, fill)
	return pair, engineConfig{
		Source: pair.Source.URI(), Target: pair.Target.URI(), Type: migrate.FullIncremental, SplitBytes: 2 << 20, RetryFor: 30 * time.Second,
	}
}

// TestRun_KilledInEveryPhase kills the engine as it enters each phase, one after the other in one migration, with
// writers active until the cutover, and finds every row at the end.
func TestRun_KilledInEveryPhase(t *testing.T) {
	pair, config := ledgerPair(t)
	writers := startLedger(t, pair.Source, 4)
	for _, phase := range []state.Phase{state.Prepare, state.Structure, state.Copy, state.Constraints, state.Follow} {
		killed := config
		killed.KillAt = phase
		if code := startEngine(t, killed).wait(t); code != -1 {
			t.Fatalf("the engine was to be killed in phase %s and ended with %d", phase, code)
		}
	}
	follower := startEngine(t, config)
	follower.await(t, "in sync")
	follower.kill()
	writers.stop()
	for _, phase := range []state.Phase{state.Complete, state.Done} {
		killed := config
		killed.KillAt, killed.Complete = phase, true
		if code := startEngine(t, killed).wait(t); code != -1 {
			t.Fatalf("the engine was to be killed in phase %s and ended with %d", phase, code)
		}
	}
	mustFinish(t, config)
	writers.verify(t, pair.Target)
	compareAll(t, config)
	nothingLeft(t, pair)
}

// TestRun_KilledAtRandomTimes does the same at times that nobody chose, in the middle of work.
func TestRun_KilledAtRandomTimes(t *testing.T) {
	pair, config := ledgerPair(t)
	writers := startLedger(t, pair.Source, 4)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	config.RowsPerSecond = 100_000 // so that the copy lasts for several kills
	for range 10 {
		e := startEngine(t, config)
		select {
		case <-e.ended:
			t.Fatalf("the engine ended by itself:\n%s", strings.Join(e.output(), "\n"))
		case <-time.After(100*time.Millisecond + time.Duration(random.IntN(900))*time.Millisecond):
		}
		e.kill()
	}
	config.RowsPerSecond = 0
	writers.stop()
	mustFinish(t, config)
	writers.verify(t, pair.Target)
	compareAll(t, config)
	nothingLeft(t, pair)
}

// TestRun_LostSnapshotKeepsFinishedTables kills the engine when some tables are copied and others are not: the finished
// ones stay as they are, under their own consistent point, and the others come under a later one.
func TestRun_LostSnapshotKeepsFinishedTables(t *testing.T) {
	pair, config := ledgerPair(t)
	writers := startLedger(t, pair.Source, 2)
	config.RowsPerSecond, config.Jobs = 15_000, 1
	e := startEngine(t, config)
	e.await(t, "phase copy")
	pgtest.Eventually(t, time.Minute, "some of the tables to be copied", func() bool {
		return pair.Target.Int(t, `SELECT count(*) FROM slipway.relation WHERE copied`) >= 1
	})
	e.kill()
	const state = `SELECT name, copy_lsn FROM slipway.relation WHERE copied ORDER BY name`
	finished := pair.Target.Strings(t, state)
	left := pair.Target.Int(t, `SELECT count(*) FROM slipway.relation WHERE NOT copied`)
	if left == 0 {
		t.Fatal("all tables were copied before the kill: the test proves nothing")
	}
	first := pair.Target.Strings(t, `SELECT consistent FROM slipway.job`)[0]
	config.RowsPerSecond = 0
	again := startEngine(t, config)
	again.await(t, "in sync")
	again.kill()
	for _, was := range finished {
		name, _, _ := strings.Cut(was, "|")
		if now := pair.Target.Strings(t, `SELECT name, copy_lsn FROM slipway.relation WHERE name = '`+name+`'`)[0]; now != was {
			t.Errorf("a finished table was copied again: %s, then %s", was, now)
		}
	}
	if later := pair.Target.Int(t, `SELECT count(*) FROM slipway.relation WHERE copy_lsn > '`+first+`'`); later != left {
		t.Errorf("%d tables were copied under the later snapshot, want the %d unfinished ones", later, left)
	}
	writers.stop()
	mustFinish(t, config)
	writers.verify(t, pair.Target)
	compareAll(t, config)
	nothingLeft(t, pair)
}

// TestRun_FullAfterLostSnapshotCopiesEverythingAnew: without a stream two snapshots could not be made to agree.
func TestRun_FullAfterLostSnapshotCopiesEverythingAnew(t *testing.T) {
	pair, config := ledgerPair(t)
	config.Type, config.RowsPerSecond, config.Jobs = migrate.Full, 15_000, 1
	e := startEngine(t, config)
	e.await(t, "phase copy")
	pgtest.Eventually(t, time.Minute, "some of the tables to be copied", func() bool {
		return pair.Target.Int(t, `SELECT count(*) FROM slipway.relation WHERE copied`) >= 1
	})
	e.kill()
	// A change that both a table copied before and one copied later would show by half.
	pair.Source.Exec(t, `BEGIN; UPDATE big SET n = n + 1; UPDATE wide SET c = 'changed'; UPDATE ledger.account SET balance = 5; COMMIT; REFRESH MATERIALIZED VIEW big_summary`)
	config.RowsPerSecond = 0
	mustFinish(t, config)
	compareAll(t, config)
	nothingLeft(t, pair)
}

// TestRun_TableRenamedWhileTheCopyStoodStill: what was chosen at the start is copied or named, never forgotten.
func TestRun_TableRenamedWhileTheCopyStoodStill(t *testing.T) {
	pair, config := ledgerPair(t)
	killed := config
	killed.KillAt = state.Copy
	if code := startEngine(t, killed).wait(t); code != -1 {
		t.Fatalf("the engine was to be killed and ended with %d", code)
	}
	pair.Source.Exec(t, `ALTER TABLE wide RENAME TO elsewhere`)
	e := startEngine(t, config)
	if code := e.wait(t); code != 1 || !strings.Contains(strings.Join(e.output(), "\n"), "public.wide") {
		t.Fatalf("ended with %d, without naming the table:\n%s", code, strings.Join(e.output(), "\n"))
	}
	pair.Source.Exec(t, `ALTER TABLE elsewhere RENAME TO wide`)
	mustFinish(t, config)
	compareAll(t, config)
	nothingLeft(t, pair)
}
