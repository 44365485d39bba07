package state_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var ctx = context.Background()

func connect(t *testing.T, d *pgtest.Database, name string) *pgx.Conn {
	t.Helper()
	conn, err := d.Endpoint().Connect(ctx, postgres.Session{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(ctx) })
	return conn
}

func newJob() *state.Job {
	return &state.Job{
		ID: "0123abcd", Phase: state.Prepare, Options: []byte(`{"type": "full"}`), Plugin: "pgoutput",
		Source: state.Source{SystemID: "7", Timeline: 1, Database: "app", Version: 150018, Endpoint: "me@h:1/app"},
	}
}

// begin makes a job and takes it.
func begin(t *testing.T, d *pgtest.Database) *state.Runner {
	t.Helper()
	if err := state.Create(ctx, connect(t, d, "run"), newJob()); err != nil {
		t.Fatal(err)
	}
	return take(t, d)
}

func take(t *testing.T, d *pgtest.Database) *state.Runner {
	t.Helper()
	conn := connect(t, d, "run")
	job, err := state.Read(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	r, err := state.Take(ctx, conn, job)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestRead_NoneThenWhatWasCreated(t *testing.T) {
	d := pgtest.NewPair(t).Target
	conn := connect(t, d, "run")
	if _, err := state.Read(ctx, conn); !errors.Is(err, state.ErrNone) {
		t.Fatalf("empty database: %v", err)
	}
	want := newJob()
	if err := state.Create(ctx, conn, want); err != nil {
		t.Fatal(err)
	}
	got, err := state.Read(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	got.Created, got.StatusSaved, got.Status, got.Format = time.Time{}, time.Time{}, nil, 0
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := state.Create(ctx, conn, newJob()); err == nil {
		t.Error("a second job was created in the same database")
	}
	d.Exec(t, `UPDATE slipway.job SET format = 99`)
	if _, err := state.Read(ctx, conn); err == nil {
		t.Error("a job of an unknown format was read")
	}
	if err := state.Drop(ctx, conn); err != nil {
		t.Fatal(err)
	}
	if _, err := state.Read(ctx, conn); !errors.Is(err, state.ErrNone) {
		t.Errorf("after drop: %v", err)
	}
}

// TestTake_OneAtATime proves that a living runner keeps others out, and that a dead one does not.
func TestTake_OneAtATime(t *testing.T) {
	d := pgtest.NewPair(t).Target
	first := begin(t, d)
	conn := connect(t, d, "run")
	limited, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := state.Take(limited, conn, first.Job); err == nil {
		t.Fatal("two runners at a time")
	}
	if running, err := state.Running(ctx, connect(t, d, "look")); err != nil || !running {
		t.Errorf("Running() = %v, %v", running, err)
	}
	first.Close()
	second := take(t, d)
	if second.Epoch <= first.Epoch {
		t.Errorf("epoch %d after %d", second.Epoch, first.Epoch)
	}
}

// TestTake_EndsSessionsOfTheDeadRunner leaves a session of an earlier run in the middle of a long statement.
func TestTake_EndsSessionsOfTheDeadRunner(t *testing.T) {
	d := pgtest.NewPair(t).Target
	begin(t, d).Close()
	left := connect(t, d, state.SessionName("0123abcd", "index"))
	other := connect(t, d, state.SessionName("ffffffff", "index"))
	ended := make(chan error, 1)
	go func() {
		_, err := left.Exec(ctx, `SELECT pg_sleep(600)`)
		ended <- err
	}()
	pgtest.Eventually(t, 10*time.Second, "the session to be busy", func() bool {
		return d.Int(t, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'slipway/0123abcd/index' AND state = 'active'`) == 1
	})
	take(t, d)
	if err := <-ended; postgres.Code(err) != "57P01" {
		t.Errorf("the old session was not ended: %v", err)
	}
	if err := other.Ping(ctx); err != nil {
		t.Errorf("a session of another job was ended: %v", err)
	}
}

// TestFencing proves that nothing of an older runner takes effect: each kind of record affects no row.
func TestFencing(t *testing.T) {
	d := pgtest.NewPair(t).Target
	old := begin(t, d)
	old.Close()
	current := take(t, d)
	table := schema.Name{Schema: "public", Name: "t"}
	records := func(r *state.Runner) map[string]func() (string, []any) {
		return map[string]func() (string, []any){
			"position": func() (string, []any) { return r.Record(7, time.Now()) },
			"part":     func() (string, []any) { return r.RecordPart(table, 1, 5, 50) },
			"entry":    func() (string, []any) { return r.RecordKeys([]string{"TABLE public.t"}) },
		}
	}
	conn := connect(t, d, "work")
	for name, record := range records(old) {
		sql, args := record()
		if tag, err := conn.Exec(ctx, sql, args...); err != nil || tag.RowsAffected() != 0 {
			t.Errorf("%s of the old runner: %d rows, %v", name, tag.RowsAffected(), err)
		}
	}
	for name, record := range records(current) {
		sql, args := record()
		if tag, err := conn.Exec(ctx, sql, args...); err != nil || tag.RowsAffected() != 1 {
			t.Errorf("%s of the current runner: %d rows, %v", name, tag.RowsAffected(), err)
		}
	}
	if lsn, err := current.Position(ctx); err != nil || lsn != 7 {
		t.Errorf("position %s, %v", lsn, err)
	}
}

// TestDo_FencedWhileItsSessionLives raises the epoch under a runner that still holds its session.
func TestDo_FencedWhileItsSessionLives(t *testing.T) {
	d := pgtest.NewPair(t).Target
	r := begin(t, d)
	d.Exec(t, `UPDATE slipway.progress SET epoch = epoch + 1`)
	if err := r.SetPhase(ctx, state.Copy); !errors.Is(err, state.ErrFenced) {
		t.Errorf("SetPhase: %v", err)
	}
	if phase := d.Strings(t, `SELECT phase FROM slipway.job`)[0]; phase != string(state.Prepare) {
		t.Errorf("phase %s", phase)
	}
}

// TestTables goes through the life of a table's state, with a copy that is begun anew.
func TestTables(t *testing.T) {
	d := pgtest.NewPair(t).Target
	r := begin(t, d)
	a, b := schema.Name{Schema: "s p", Name: `a"b`}, schema.Name{Schema: "public", Name: "b"}
	archive := make([]byte, 40<<20)
	for i := range archive {
		archive[i] = byte(i * 7)
	}
	if err := r.Begin(ctx, 100, archive, []*schema.Table{{Name: a, OID: 11}, {Name: b, OID: 12}}); err != nil {
		t.Fatal(err)
	}
	stored, err := r.Archive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(archive)+1)
	n, _ := stored.Read(got)
	if n != len(archive) || string(got[:n]) != string(archive) {
		t.Errorf("the archive came back with %d bytes of %d, or changed", n, len(archive))
	}
	if position, err := r.Position(ctx); err != nil || position != 100 {
		t.Errorf("position %s, %v: the stream must start at the consistent point", position, err)
	}
	nothing := func(*pgx.Conn) error { return nil }
	if err := r.BeginCopy(ctx, map[schema.Name]int{a: 2, b: 0}, 100, nothing); err != nil {
		t.Fatal(err)
	}
	record := func(number int) {
		sql, args := r.RecordPart(a, number, 10, 100)
		if _, err := connect(t, d, "copy").Exec(ctx, sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	record(1)
	if err := r.SetCopied(ctx, a); err == nil {
		t.Error("a table counts as copied with one of two parts")
	}
	if err := r.SetIndexed(ctx, a); err == nil {
		t.Error("a table counts as indexed before it is copied")
	}
	if err := r.SetCopied(ctx, b); err != nil {
		t.Errorf("a table without parts: %v", err)
	}
	if err := r.BeginCopy(ctx, map[schema.Name]int{a: 1}, 200, nothing); err != nil {
		t.Fatal(err)
	}
	record(1)
	if err := r.SetCopied(ctx, a); err != nil {
		t.Error(err)
	}
	relations, err := r.Relations(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := map[schema.Name]state.Relation{
		a: {OID: 11, CopyLSN: 200, Parts: 1, Copied: true}, b: {OID: 12, CopyLSN: 100, Copied: true},
	}
	if diff := cmp.Diff(want, relations); diff != "" {
		t.Error(diff)
	}
	if rows, bytes, err := r.Totals(ctx); err != nil || rows != 10 || bytes != 100 {
		t.Errorf("totals %d, %d, %v: the parts of the first copy must be forgotten", rows, bytes, err)
	}
}

// TestFinish_TellsWhoeverWaits proves that the end of the state and its announcement are one.
func TestFinish_TellsWhoeverWaits(t *testing.T) {
	d := pgtest.NewPair(t).Target
	r := begin(t, d)
	waiting := connect(t, d, "control")
	if err := errors.Join(state.Listen(ctx, waiting, r.Job.ID), state.RequestDone(ctx, waiting)); err != nil {
		t.Fatal(err)
	}
	if want, err := r.WantDone(ctx); err != nil || !want {
		t.Fatalf("WantDone() = %v, %v", want, err)
	}
	if payload, err := state.WaitDone(ctx, waiting, 50*time.Millisecond); err != nil || payload != nil {
		t.Fatalf("told of an end that was none: %s, %v", payload, err)
	}
	if err := r.Finish(ctx, []byte(`{"done": true}`)); err != nil {
		t.Fatal(err)
	}
	payload, err := state.WaitDone(ctx, waiting, 10*time.Second)
	if err != nil || string(payload) != `{"done": true}` {
		t.Errorf("payload %s, %v", payload, err)
	}
	if _, err := state.Read(ctx, waiting); !errors.Is(err, state.ErrNone) {
		t.Errorf("the state is still there: %v", err)
	}
}

// TestSeize ends a running process's lock and keeps it out.
func TestSeize(t *testing.T) {
	d := pgtest.NewPair(t).Target
	r := begin(t, d)
	conn := connect(t, d, "control")
	if err := state.Seize(ctx, conn, r.Job); err != nil {
		t.Fatal(err)
	}
	if err := r.SetPhase(ctx, state.Copy); err == nil {
		t.Error("the seized runner still works")
	}
}
