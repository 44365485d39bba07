package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate/snapshot"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// backends lists our copying sessions of the database that asks.
const backends = `SELECT pid FROM pg_stat_activity WHERE application_name = 'slipway/copy' AND datname = current_database()`

// started is a copy that runs while the test disturbs it.
type started struct {
	*snapshot.Copier
	result chan error
}

func (j *job) start(t *testing.T) *started {
	t.Helper()
	s := &started{Copier: j.copier(t), result: make(chan error, 1)}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*long)
	go func() {
		defer cancel()
		s.result <- s.Run(ctx)
	}()
	return s
}

func (s *started) wait(t *testing.T) {
	t.Helper()
	if err := <-s.result; err != nil {
		t.Fatal(err)
	}
}

// moving waits until that many workers have moved some rows of what they are at.
func (s *started) moving(t *testing.T, workers int) {
	t.Helper()
	pgtest.Eventually(t, long, fmt.Sprintf("%d workers move rows", workers), func() bool {
		n := 0
		for _, f := range s.Stats().InFlight {
			if f.Rows > 0 {
				n++
			}
		}
		return n >= workers
	})
}

// failed waits until that many attempts have failed.
func (s *started) failed(t *testing.T, attempts int) {
	t.Helper()
	pgtest.Eventually(t, long, fmt.Sprintf("%d attempts failed", attempts), func() bool { return s.Stats().Retries >= attempts })
}

const noKey = `CREATE TABLE nokey (n int, t text)`

func fillNoKey(rows int) string {
	return fmt.Sprintf(`INSERT INTO nokey SELECT g, md5(g::text) FROM generate_series(1, %d) g`, rows)
}

// A table without a key would show every row that came twice.
func TestRun_TargetBackendKilledTwentyTimes(t *testing.T) {
	for _, split := range []bool{false, true} {
		t.Run(fmt.Sprintf("split=%t", split), func(t *testing.T) {
			j := setUp(t, noKey, fillNoKey(200000))
			options := snapshot.PlanOptions{}
			if split {
				options.SplitBytes = 1 << 20
			}
			j.plan(t, true, options)
			j.config.Jobs = 2
			j.config.MaxRowsPerSecond = 50000
			run := j.start(t)
			for kill := range 20 {
				if kill == 15 && split {
					run.SetMaxRowsPerSecond(200000)
				}
				run.moving(t, 1)
				j.pair.Target.Exec(t, `SELECT pg_terminate_backend(pid) FROM (`+backends+` ORDER BY random() LIMIT 1) b`)
			}
			run.SetMaxRowsPerSecond(0)
			run.wait(t)
			j.equal(t, contents("nokey"))
			if stats := run.Stats(); stats.Rows != 200000 || stats.Retries == 0 {
				t.Errorf("stats: %+v", stats)
			}
		})
	}
}

func viaProxy(t *testing.T, d *pgtest.Database) (*pgtest.Proxy, postgres.Endpoint) {
	t.Helper()
	proxy := pgtest.NewProxy(t, fmt.Sprintf("127.0.0.1:%d", d.Server.Port()))
	endpoint, err := postgres.ParseEndpoint(d.URIVia(proxy.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	return proxy, endpoint
}

// Cut source connections come back inside the same snapshot: rows that came later are not seen.
func TestRun_SourceCutContinuesInSnapshot(t *testing.T) {
	j := setUp(t, noKey, fillNoKey(100000))
	want := j.pair.Source.Strings(t, contents("nokey"))
	j.pair.Source.Exec(t, `UPDATE nokey SET n = -n WHERE n % 3 = 0; DELETE FROM nokey WHERE n % 7 = 0`, fillNoKey(1000))
	j.plan(t, true, snapshot.PlanOptions{SplitBytes: 1 << 20})
	proxy, endpoint := viaProxy(t, j.pair.Source)
	j.config.Source = endpoint
	j.config.MaxRowsPerSecond = 30000
	run := j.start(t)
	for range 5 {
		run.moving(t, 1)
		proxy.Cut()
	}
	run.SetMaxRowsPerSecond(0)
	run.wait(t)
	if diff := cmp.Diff(want, j.pair.Target.Strings(t, contents("nokey"))); diff != "" {
		t.Errorf("(-snapshot +target):\n%s", diff)
	}
	if run.Stats().Retries == 0 {
		t.Error("no attempt failed")
	}
}

// The session that exported the snapshot and all but one of ours end; that one brings the others back.
func TestRun_OneSessionKeepsTheSnapshot(t *testing.T) {
	j := setUp(t, noKey, fillNoKey(100000))
	want := j.pair.Source.Strings(t, contents("nokey"))
	j.plan(t, true, snapshot.PlanOptions{SplitBytes: 1 << 20})
	j.config.Jobs = 2
	j.config.MaxRowsPerSecond = 20000
	run := j.start(t)
	run.moving(t, 2)
	if err := j.exporter.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	j.pair.Source.Exec(t, `UPDATE nokey SET n = -n`)
	for kill := range 4 {
		run.moving(t, 2)
		j.pair.Source.Exec(t, `SELECT pg_terminate_backend(pid) FROM (`+backends+` ORDER BY random() LIMIT 1) b`)
		run.failed(t, kill+1)
	}
	run.SetMaxRowsPerSecond(0)
	run.wait(t)
	if diff := cmp.Diff(want, j.pair.Target.Strings(t, contents("nokey"))); diff != "" {
		t.Errorf("(-snapshot +target):\n%s", diff)
	}
}

func TestRun_SnapshotLost(t *testing.T) {
	j := setUp(t, noKey, fillNoKey(100000))
	j.plan(t, true, snapshot.PlanOptions{SplitBytes: 1 << 20})
	j.config.MaxRowsPerSecond = 20000
	run := j.start(t)
	run.moving(t, 3)
	if err := j.exporter.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	j.pair.Source.Exec(t, `SELECT pg_terminate_backend(pid) FROM (`+backends+`) b`)
	if err := <-run.result; !errors.Is(err, snapshot.ErrSnapshotLost) {
		t.Errorf("error: %v", err)
	}
	recorded := j.pair.Target.Int(t, `SELECT coalesce(sum(rows), 0) FROM records.part`)
	if n := j.pair.Target.Int(t, `SELECT count(*) FROM nokey`); n != recorded {
		t.Errorf("%d rows, %d of them recorded", n, recorded)
	}
}

// A cancelled statement on the source costs the part, not the snapshot, even when nobody else holds it.
func TestRun_SourceStatementCancelled(t *testing.T) {
	// More than the buffers between the servers hold, so that the source is still sending.
	j := setUp(t, noKey, `INSERT INTO nokey SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 60000) g`)
	want := j.pair.Source.Strings(t, contents("nokey"))
	j.plan(t, true, snapshot.PlanOptions{})
	j.config.Jobs = 1
	j.config.MaxRowsPerSecond = 5000
	run := j.start(t)
	run.moving(t, 1)
	if err := j.exporter.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	j.pair.Source.Exec(t, `UPDATE nokey SET n = -n`)
	pid := j.pair.Source.Strings(t, backends)
	for cancel := range 3 {
		run.moving(t, 1)
		j.pair.Source.Exec(t, `SELECT pg_cancel_backend(pid) FROM (`+backends+`) b`)
		run.failed(t, cancel+1)
	}
	if diff := cmp.Diff(pid, j.pair.Source.Strings(t, backends)); diff != "" {
		t.Errorf("the session was replaced:\n%s", diff)
	}
	run.SetMaxRowsPerSecond(0)
	run.wait(t)
	if diff := cmp.Diff(want, j.pair.Target.Strings(t, contents("nokey"))); diff != "" {
		t.Errorf("(-snapshot +target):\n%s", diff)
	}
}

func TestRun_Fenced(t *testing.T) {
	j := setUp(t, noKey+`; CREATE TABLE small (n int)`, fillNoKey(50000)+`; INSERT INTO small VALUES (1)`)
	j.config.Recorder = records{owner: "another runner"}
	j.plan(t, true, snapshot.PlanOptions{SplitBytes: 1 << 20})
	err := j.copier(t).Run(background(t))
	if !errors.Is(err, snapshot.ErrFenced) {
		t.Errorf("error: %v", err)
	}
	if n := j.pair.Target.Int(t, `SELECT (SELECT count(*) FROM nokey) + (SELECT count(*) FROM small)`); n != 0 {
		t.Errorf("%d rows were committed", n)
	}
}

// The connection breaks between COMMIT and its answer. Whether the transaction comes through before or after we ask for
// it, its rows are there once.
func TestRun_AnswerToCommitLost(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late=%t", late), func(t *testing.T) {
			j := setUp(t, noKey, fillNoKey(1000))
			j.pair.Target.Exec(t, `CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END';
				CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON records.part DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold()`)
			j.plan(t, true, snapshot.PlanOptions{})
			j.config.Parts[0].Plain = true
			proxy, endpoint := viaProxy(t, j.pair.Target)
			j.config.Target = endpoint
			holder := j.pair.Target.Connect(t)
			if _, err := holder.Exec(t.Context(), `SELECT pg_advisory_lock(1)`); err != nil {
				t.Fatal(err)
			}
			run := j.start(t)
			waiting := func(event string, n int64) {
				t.Helper()
				pgtest.Eventually(t, long, "backends wait for "+event, func() bool {
					return j.pair.Target.Int(t, `SELECT count(*) FROM (`+backends+` AND wait_event = '`+event+`') b`) == n
				})
			}
			release := func() {
				t.Helper()
				if _, err := holder.Exec(t.Context(), `SELECT pg_advisory_unlock(1)`); err != nil {
					t.Fatal(err)
				}
			}
			waiting("advisory", 1)
			proxy.Refuse()
			proxy.Cut()
			run.failed(t, 1) // by now the request to cancel what was lost has been refused, too
			if late {
				if err := proxy.Accept(); err != nil {
					t.Fatal(err)
				}
				waiting("transactionid", 1)
				release()
			} else {
				release()
				pgtest.Eventually(t, long, "the commit came through", func() bool {
					return j.pair.Target.Int(t, `SELECT count(*) FROM records.part`) == 1
				})
				if err := proxy.Accept(); err != nil {
					t.Fatal(err)
				}
			}
			run.wait(t)
			j.equal(t, contents("nokey"))
			if stats := run.Stats(); stats.Rows != 1000 || stats.TablesDone != 1 {
				t.Errorf("stats: %+v", stats)
			}
		})
	}
}

// What does not pass by itself ends the run at once and says which table, which side and why.
func TestRun_ErrorsNameTheTable(t *testing.T) {
	for _, c := range []struct{ name, change, side, code string }{
		{"column dropped on the source", `ALTER TABLE nokey DROP COLUMN t`, "source", "42703"},
		{"table dropped on the source", `DROP TABLE nokey`, "source", "42P01"},
		{"table truncated on the source", `TRUNCATE nokey`, "source", ""},
		{"table replaced on the source", `DROP TABLE nokey; CREATE TABLE nokey (n int, t text)`, "source", ""},
		{"row refused by the target", ``, "target", "23514"},
		{"table missing on the target", ``, "target", "42P01"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := setUp(t, noKey, fillNoKey(200000))
			j.plan(t, true, snapshot.PlanOptions{SplitBytes: 4 << 20})
			if c.change != "" {
				j.pair.Source.Exec(t, c.change)
			}
			switch c.code {
			case "23514":
				j.pair.Target.Exec(t, `ALTER TABLE nokey ADD CHECK (n <> 100)`)
			case "42P01":
				j.pair.Target.Exec(t, `DROP TABLE nokey`)
			}
			err := j.copier(t).Run(background(t))
			part, ok := errors.AsType[*snapshot.PartError](err)
			if !ok || string(part.Side) != c.side && c.code != "42P01" || postgres.Code(err) != c.code || !strings.Contains(err.Error(), "public.nokey") {
				t.Errorf("error: %v", err)
			}
			if c.code == "" && !errors.Is(err, snapshot.ErrRewritten) {
				t.Errorf("error: %v", err)
			}
		})
	}
}

// VACUUM FULL keeps what older snapshots see, so a table that was not begun yet is copied all the same.
func TestRun_VacuumFullBeforeCopy(t *testing.T) {
	j := setUp(t, noKey, fillNoKey(1000))
	j.plan(t, true, snapshot.PlanOptions{})
	j.pair.Source.Exec(t, `DELETE FROM nokey WHERE n > 500`)
	j.pair.Source.Exec(t, `VACUUM FULL nokey`)
	j.run(t)
	if n := j.pair.Target.Int(t, `SELECT count(*) FROM nokey`); n != 1000 {
		t.Errorf("%d rows", n)
	}
}

// Between two parts rows have moved to other blocks: the table cannot be put together any more.
func TestRun_RewrittenBetweenParts(t *testing.T) {
	j := setUp(t, noKey, fillNoKey(100000))
	j.plan(t, true, snapshot.PlanOptions{SplitBytes: 1 << 20})
	j.config.Jobs = 1
	once := false
	j.config.PartDone = func(snapshot.Part, int64, int64) {
		if !once {
			once = true
			j.pair.Source.Exec(t, `VACUUM FULL nokey`)
		}
	}
	if err := j.copier(t).Run(background(t)); !errors.Is(err, snapshot.ErrRewritten) {
		t.Errorf("error: %v", err)
	}
}

// A locked table waits; the others do not, and nobody waits for us after a part is read.
func TestRun_LockedTableGoesLast(t *testing.T) {
	j := setUp(t, noKey+`; CREATE TABLE other (n int, t text)`, fillNoKey(100000)+`; INSERT INTO other SELECT * FROM nokey LIMIT 50000`)
	j.plan(t, true, snapshot.PlanOptions{})
	j.config.Jobs = 1
	holder := j.pair.Source.Connect(t)
	if _, err := holder.Exec(t.Context(), `BEGIN; LOCK TABLE nokey`); err != nil {
		t.Fatal(err)
	}
	run := j.start(t)
	pgtest.Eventually(t, long, "the other table is done", func() bool { return run.Stats().TablesDone == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	if _, err := holder.Exec(ctx, `LOCK TABLE other; COMMIT`); err != nil {
		t.Errorf("the copied table is still locked: %v", err)
	}
	run.wait(t)
	j.equal(t, contents("nokey"))
	j.equal(t, contents("other"))
}

// An error that may pass, but does not, is reported when its time is over.
func TestRun_GivesUpAfterRetryFor(t *testing.T) {
	j := setUp(t, noKey, fillNoKey(10))
	j.plan(t, true, snapshot.PlanOptions{})
	proxy, endpoint := viaProxy(t, j.pair.Target)
	j.config.Target = endpoint
	j.config.RetryFor = 300 * time.Millisecond
	proxy.Refuse()
	err := j.copier(t).Run(background(t))
	part, ok := errors.AsType[*snapshot.PartError](err)
	if !ok || part.Side != snapshot.TargetSide || !strings.Contains(err.Error(), "gave up after") || !postgres.Retryable(err) {
		t.Errorf("error: %v", err)
	}
}

func TestRun_CancelEndsBothSides(t *testing.T) {
	j := setUp(t, noKey, fillNoKey(100000))
	j.plan(t, true, snapshot.PlanOptions{SplitBytes: 1 << 20})
	j.config.MaxRowsPerSecond = 1000
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	copier := j.copier(t)
	result := make(chan error, 1)
	go func() { result <- copier.Run(ctx) }()
	(&started{Copier: copier}).moving(t, 3)
	cancel(stop)
	if err := <-result; !errors.Is(err, stop) {
		t.Errorf("error: %v", err)
	}
	for _, d := range []*pgtest.Database{j.pair.Source, j.pair.Target} {
		pgtest.Eventually(t, long, "no session is left", func() bool { return len(d.Strings(t, backends)) == 0 })
	}
	recorded := j.pair.Target.Int(t, `SELECT coalesce(sum(rows), 0) FROM records.part`)
	if n := j.pair.Target.Int(t, `SELECT count(*) FROM nokey`); n != recorded {
		t.Errorf("%d rows, %d of them recorded", n, recorded)
	}
}

// The limit holds all workers together, and both it and their number change while they run.
func TestRun_LimitAndJobsChange(t *testing.T) {
	j := setUp(t, noKey, fillNoKey(100000))
	j.plan(t, true, snapshot.PlanOptions{SplitBytes: 1 << 20})
	j.config.Jobs = 1
	j.config.MaxRowsPerSecond = 1
	run := j.start(t)
	run.moving(t, 1)
	if sessions := j.pair.Target.Strings(t, backends); len(sessions) != 1 {
		t.Errorf("%d sessions for one job", len(sessions))
	}
	run.SetJobs(4)
	run.moving(t, 4)
	if rows := run.Stats().Rows; rows > 60 {
		t.Errorf("%d rows passed at one per second", rows)
	}
	run.SetJobs(2)
	run.SetMaxRowsPerSecond(20000)
	pgtest.Eventually(t, long, "two workers remain", func() bool {
		stats := run.Stats()
		return len(stats.InFlight) <= 2 && stats.PartsDone > 2 && len(j.pair.Target.Strings(t, backends)) == 2
	})
	run.SetMaxRowsPerSecond(0)
	run.wait(t)
	j.equal(t, contents("nokey"))
}

// A role that may not see all rows gets an error, not fewer rows.
func TestRun_RowSecurity(t *testing.T) {
	j := setUp(t, noKey, fillNoKey(100)+`; DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'copy_reader') THEN CREATE ROLE copy_reader LOGIN; END IF; END $$;
		GRANT SELECT ON nokey TO copy_reader; ALTER TABLE nokey ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON nokey USING (n < 10)`)
	endpoint, err := postgres.ParseEndpoint(strings.Replace(j.pair.Source.URI(), "postgres@", "copy_reader@", 1))
	if err != nil {
		t.Fatal(err)
	}
	j.plan(t, true, snapshot.PlanOptions{})
	j.config.Source = endpoint
	if err := j.copier(t).Run(background(t)); postgres.Code(err) != "42501" {
		t.Errorf("error: %v", err)
	}
}

// Under the snapshot of a slot, which is how a migration that follows changes begins.
func TestRun_SlotSnapshot(t *testing.T) {
	j := setUp(t, noKey, fillNoKey(1000))
	slot, err := j.pair.Source.Endpoint().ConnectReplication(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	results, err := slot.Exec(t.Context(), `CREATE_REPLICATION_SLOT snapshot_test TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT`).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	j.config.Snapshot = string(results[0].Rows[0][2])
	j.pair.Source.Exec(t, `DELETE FROM nokey`)
	j.plan(t, true, snapshot.PlanOptions{})
	j.run(t)
	if err := slot.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := j.pair.Target.Int(t, `SELECT count(*) FROM nokey`); n != 1000 {
		t.Errorf("%d rows", n)
	}
	pgtest.Eventually(t, long, "the slot is gone", func() bool {
		return j.pair.Source.Int(t, `SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'snapshot_test'`) == 0
	})
}

// Within leaves the session as it was, whatever f does.
func TestWithin(t *testing.T) {
	j := setUp(t, noKey, fillNoKey(10))
	conn := j.pair.Source.Connect(t)
	failure := errors.New("failure")
	err := snapshot.Within(t.Context(), conn, j.config.Snapshot, func() error {
		_, err := conn.Exec(t.Context(), `DELETE FROM nokey`)
		if postgres.Code(err) != "25006" {
			t.Errorf("writing: %v", err)
		}
		return failure
	})
	if !errors.Is(err, failure) || conn.PgConn().TxStatus() != 'I' {
		t.Errorf("error %v, status %c", err, conn.PgConn().TxStatus())
	}
	if err := snapshot.Within(t.Context(), conn, "00000000-00000000-1", func() error { return nil }); !errors.Is(err, snapshot.ErrSnapshotLost) {
		t.Errorf("error: %v", err)
	}
	if conn.PgConn().TxStatus() != 'I' {
		t.Errorf("status %c", conn.PgConn().TxStatus())
	}
}
