package apply_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-db/slipway/migrate/apply"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// running is an Applier in the background.
type running struct {
	*apply.Applier
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func start(t *testing.T, c apply.Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Applier: apply.New(c), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = r.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-r.done
	})
	return r
}

func (r *running) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(time.Minute):
		t.Fatal("the run does not end")
	}
	return r.err
}

// A unique column whose values wander between rows cannot be written as sets: the batch is written change by change,
// comes out right, and the table stays with that for a while.
func TestRun_WanderingUniqueValues(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE u (id int PRIMARY KEY, code int UNIQUE); CREATE TABLE o (id int PRIMARY KEY);
		INSERT INTO u VALUES (1, 1), (2, 2)`)
	h := newHistory(t, target)
	for range 3 {
		h.begin().insert("o", fmt.Sprint(int(h.lsn))).update("u", nil, "1", nil).update("u", nil, "2", "1").update("u", nil, "1", "2").
			update("u", nil, "2", nil).update("u", nil, "1", "1").update("u", nil, "2", "2").commit()
		h.begin().update("u", nil, "1", nil).update("u", nil, "2", "1").update("u", nil, "1", "2").commit()
		h.begin().update("u", nil, "1", nil).update("u", nil, "2", "2").update("u", nil, "1", "1").commit()
		h.begin().update("u", nil, "1", nil).update("u", nil, "2", "1").update("u", nil, "1", "2").commit()
		h.begin().update("u", nil, "2", nil).update("u", nil, "1", "1").update("u", nil, "2", "2").commit()
		h.begin().update("u", nil, "1", "7").update("u", nil, "2", "1").update("u", nil, "1", "2").commit()
		h.begin().update("u", nil, "1", "7").update("u", nil, "2", "2").update("u", nil, "1", "1").commit()
		h.begin().delete("u", "1", absent{}).update("u", nil, "2", "1").insert("u", "1", "2").commit()
		h.begin().update("u", nil, "2", "9").update("u", nil, "1", "1").update("u", nil, "2", "2").commit()
	}
	stats, err := h.applyWith(t, func(c *apply.Config) { c.BatchTransactions = 4 }, "u", "o")
	if err != nil {
		t.Fatal(err)
	}
	want(t, target, `SELECT u::text FROM u ORDER BY id`, "(1,1)", "(2,2)")
	want(t, target, `SELECT count(*) FROM o`, "3")
	if stats.Replays != 1 {
		t.Errorf("%d batches failed as sets, want 1: the first, after which the table is written in order", stats.Replays)
	}
}

// A transaction above the batch size is written in pieces within one target transaction; a piece that fails as a set
// is repeated alone, and one that fails for good takes the whole transaction with it.
func TestRun_LargeTransactionInPieces(t *testing.T) {
	for _, bad := range []bool{false, true} {
		target := pgtest.NewPair(t).Target
		setUp(t, target, `CREATE TABLE a (id int PRIMARY KEY, code int UNIQUE)`)
		h := newHistory(t, target)
		h.begin().insert("a", "0", "0").commit()
		h.begin()
		for i := 1; i <= 500; i++ {
			h.insert("a", fmt.Sprint(i), fmt.Sprint(i))
		}
		for i := 1; i < 500; i += 2 { // swaps two codes, which no set can
			one, two := fmt.Sprint(i), fmt.Sprint(i+1)
			h.update("a", nil, one, nil).update("a", nil, two, one).update("a", nil, one, two)
		}
		if bad {
			h.delete("a", "501", absent{})
		}
		h.commit()
		source := newScript()
		source.chunks <- h.events[:400]
		c := config(t, target, source, "a")
		c.BatchBytes = 2000
		r := start(t, c)
		r.StopAt(h.lsn)
		pgtest.Eventually(t, 30*time.Second, "a piece to be written", func() bool {
			return target.Int(t, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'`) == 1
		})
		want(t, target, `SELECT count(*) FROM a`, "0") // the batch began with the small transaction before it
		source.chunks <- h.events[400:]
		if err := r.wait(t); bad {
			wantConflict(t, err, stream.Delete, 0)
			want(t, target, `SELECT count(*) FROM a`, "0")
		} else if err != nil {
			t.Fatal(err)
		} else {
			want(t, target, `SELECT count(*) || ' ' || count(*) FILTER (WHERE code = id) FROM a`, "501 1")
			want(t, target, `SELECT writes FROM slipway.progress`, "2") // the batch, and the last barrier
		}
	}
}

// Changes that a table's copy holds already are passed over, those of other tables of the same transaction are not.
func TestRun_CopyLSNSkipsPerTable(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE early (id int PRIMARY KEY); CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1), (2)`)
	h := newHistory(t, target)
	h.begin().insert("early", "1").insert("late", "1").commit()
	h.begin().truncate(false, "early", "late").insert("early", "2").insert("late", "2").commit()
	copied := h.lsn
	h.lsn -= 0x10 // the next commit record starts exactly at the consistent point
	h.begin().insert("early", "3").insert("late", "3").commit()
	_, err := h.applyWith(t, func(c *apply.Config) {
		name := schema.Name{Schema: "public", Name: "late"}
		table := c.Tables[name]
		table.CopyLSN = copied
		c.Tables[name] = table
	}, "early", "late")
	if err != nil {
		t.Fatal(err)
	}
	want(t, target, `SELECT id FROM early ORDER BY id`, "2", "3")
	want(t, target, `SELECT id FROM late ORDER BY id`, "1", "2", "3")
}

// TXN-8, NET-3: after a reconnect the source sends transactions again that are on the target.
func TestRun_ResumePassesOverWhatIsThere(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE a (id int PRIMARY KEY)`)
	h := newHistory(t, target)
	h.begin().insert("a", "1").commit()
	h.begin().insert("a", "2").commit()
	if err := h.apply(t, "a"); err != nil {
		t.Fatal(err)
	}
	middle := recorded(t, target)
	h.begin().insert("a", "3").commit()
	if _, err := h.applyWith(t, func(c *apply.Config) { c.Start = middle }, "a"); err != nil {
		t.Fatal(err)
	}
	want(t, target, `SELECT id FROM a ORDER BY id`, "1", "2", "3")
	// A start inside of a commit record cannot come from us.
	if _, err := h.applyWith(t, func(c *apply.Config) { c.Start = middle - 1 }, "a"); !errors.Is(err, apply.ErrProtocol) {
		t.Errorf("got %v, want ErrProtocol", err)
	}
}

// A runner that was taken over commits nothing any more, neither changes nor a barrier.
func TestRun_Fenced(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE a (id int PRIMARY KEY); UPDATE slipway.progress SET epoch = 2`)
	h := newHistory(t, target)
	h.begin().insert("a", "1").commit()
	if err := h.apply(t, "a"); !errors.Is(err, apply.ErrFenced) {
		t.Fatalf("got %v, want ErrFenced", err)
	}
	want(t, target, `SELECT count(*) FROM a`, "0")
	h = newHistory(t, target)
	h.position()
	if err := h.apply(t, "a"); !errors.Is(err, apply.ErrFenced) {
		t.Fatalf("got %v, want ErrFenced", err)
	}
}

// Nothing of the stream is dropped for being unknown; what is to be ignored has to be said.
func TestRun_UnknownTableStops(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)`)
	for _, truncate := range []bool{false, true} {
		h := newHistory(t, target)
		h.begin().insert("a", "1")
		if truncate {
			h.truncate(false, "b")
		} else {
			h.insert("b", "1")
		}
		h.commit()
		if err := h.apply(t, "a"); !errors.Is(err, apply.ErrUnknownTable) || !strings.Contains(err.Error(), "public.b") {
			t.Fatalf("got %v, want ErrUnknownTable for public.b", err)
		}
	}
	h := newHistory(t, target)
	h.begin().insert("a", "1").insert("b", "1").commit()
	_, err := h.applyWith(t, func(c *apply.Config) { c.Ignore = map[schema.Name]bool{{Schema: "public", Name: "b"}: true} }, "a")
	if err != nil {
		t.Fatal(err)
	}
	want(t, target, `SELECT (SELECT count(*) FROM a) || ' ' || (SELECT count(*) FROM b)`, "1 0")
}

// Triggers and rules would write things that the stream brings too.
func TestRun_RefusesTriggersAndRules(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE log (id int); CREATE TABLE a (id int PRIMARY KEY);
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.log VALUES (NEW.id); RETURN NEW; END $$;
		CREATE TRIGGER note AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION note();
		CREATE RULE twice AS ON INSERT TO a DO ALSO INSERT INTO log VALUES (NEW.id)`)
	h := newHistory(t, target)
	h.begin().insert("a", "1").commit()
	plain := func(c *apply.Config) { c.ReplicaRole = false }
	if _, err := h.applyWith(t, plain, "a"); err == nil || !strings.Contains(err.Error(), "public.a") {
		t.Fatalf("got %v, want a refusal of public.a", err)
	}
	if err := h.apply(t, "a"); err != nil { // in the replica role they do not fire
		t.Fatal(err)
	}
	want(t, target, `SELECT count(*) FROM log`, "0")
	for _, enable := range []string{`ENABLE ALWAYS TRIGGER note`, `ENABLE REPLICA TRIGGER note`, `ENABLE ALWAYS RULE twice`} {
		target.Exec(t, `ALTER TABLE a DISABLE TRIGGER note; ALTER TABLE a DISABLE RULE twice; ALTER TABLE a `+enable)
		if err := h.apply(t, "a"); err == nil || !strings.Contains(err.Error(), "public.a") {
			t.Errorf("%s: got %v, want a refusal of public.a", enable, err)
		}
	}
	target.Exec(t, `ALTER TABLE a DISABLE TRIGGER note; ALTER TABLE a DISABLE RULE twice; DELETE FROM a`)
	if _, err := h.applyWith(t, plain, "a"); err != nil {
		t.Fatal(err)
	}
}

// An idle source moves on: its positions are recorded and confirmed, at most once per interval, and without new ones
// nothing is written.
func TestRun_IdlePositions(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE a (id int PRIMARY KEY)`)
	h := newHistory(t, target)
	source := newScript()
	c := config(t, target, source, "a")
	c.BarrierInterval = 50 * time.Millisecond
	r := start(t, c)
	for range 3 {
		h.events = nil
		h.position()
		source.chunks <- h.events
		pgtest.Eventually(t, 30*time.Second, "the position to be confirmed", func() bool { return source.lastConfirmed() == h.lsn })
		if recorded(t, target) != h.lsn {
			t.Fatalf("confirmed %s but recorded %s", h.lsn, recorded(t, target))
		}
	}
	writes := target.Int(t, `SELECT writes FROM slipway.progress`)
	// The same position again moves nothing; a transaction after it proves that it has been looked at.
	h.events = h.events[:1]
	h.begin().insert("a", "1").commit()
	source.chunks <- h.events
	r.StopAt(h.lsn)
	if err := r.wait(t); err != nil {
		t.Fatal(err)
	}
	if got := target.Int(t, `SELECT writes FROM slipway.progress`); got-writes > 2 {
		t.Errorf("%d writes for one transaction, want at most its own and a barrier", got-writes)
	}
	if source.lastConfirmed() != h.lsn {
		t.Errorf("confirmed %s at the end, want %s", source.lastConfirmed(), h.lsn)
	}
}

// Transactions that hold nothing for us cost the target no write each, and move the position all the same.
func TestRun_EmptyTransactionsAreNotWritten(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int)`)
	h := newHistory(t, target)
	for range 50 {
		h.begin().commit()
		h.begin().insert("b", "1").commit()
	}
	stats, err := h.applyWith(t, func(c *apply.Config) {
		c.BatchTransactions = 1
		c.BarrierInterval = time.Hour
		c.Ignore = map[schema.Name]bool{{Schema: "public", Name: "b"}: true}
	}, "a")
	if err != nil {
		t.Fatal(err)
	}
	want(t, target, `SELECT writes FROM slipway.progress`, "1")
	if stats.Transactions != 100 || stats.Durable != h.lsn || recorded(t, target) != h.lsn {
		t.Errorf("stats %+v, recorded %s, want 100 transactions up to %s", stats, recorded(t, target), h.lsn)
	}
}

// A resumed run makes the position that it starts from durable and confirms it, although nothing comes.
func TestRun_ConfirmsItsStart(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target)
	source := newScript()
	c := config(t, target, source)
	c.Start = 0x5000
	a := apply.New(c)
	a.StopAt(0x4000)
	if err := a.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if source.lastConfirmed() != c.Start || recorded(t, target) != c.Start {
		t.Errorf("confirmed %s, recorded %s, want %s", source.lastConfirmed(), recorded(t, target), c.Start)
	}
}

// A small transaction does not wait for a full batch.
func TestRun_CommitsWhenTheSourceHasNothingMore(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE a (id int PRIMARY KEY)`)
	h := newHistory(t, target)
	h.begin().insert("a", "1").commit()
	source := newScript()
	source.chunks <- h.events
	r := start(t, config(t, target, source, "a"))
	pgtest.Eventually(t, 30*time.Second, "the row to be visible", func() bool { return target.Int(t, `SELECT count(*) FROM a`) == 1 })
	pgtest.Eventually(t, 30*time.Second, "the statistics to tell", func() bool { return r.Stats().Applied == h.lsn })
	name := schema.Name{Schema: "public", Name: "a"}
	if got := r.TableStats()[name]; got != (apply.Counts{Inserts: 1}) {
		t.Errorf("counted %+v for the table", got)
	}
	r.cancel()
	if err := r.wait(t); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's end", err)
	}
}

// What breaks the contract of the stream stops the run.
func TestRun_OutOfOrderEvents(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE a (id int PRIMARY KEY)`)
	relation := describe(t, target, "a")
	cases := map[string][]stream.Event{
		"change outside":  {{Kind: stream.Insert, Relation: relation, New: tuple("1")}},
		"commit alone":    {{Kind: stream.Commit, LSN: 9}},
		"nested":          {{Kind: stream.Begin, LSN: 1}, {Kind: stream.Begin, LSN: 2}},
		"position inside": {{Kind: stream.Begin, LSN: 1}, {Kind: stream.Position, LSN: 2}},
		"going back": {
			{Kind: stream.Begin, LSN: 10},
			{Kind: stream.Commit, LSN: 11},
			{Kind: stream.Begin, LSN: 5},
			{Kind: stream.Commit, LSN: 6},
		},
		"unknown kind": {{Kind: 'X'}},
		"no row":       {{Kind: stream.Begin, LSN: 1}, {Kind: stream.Insert, Relation: relation}},
		"other width":  {{Kind: stream.Begin, LSN: 1}, {Kind: stream.Insert, Relation: relation, New: tuple("1", "2")}},
		"no table":     {{Kind: stream.Begin, LSN: 1}, {Kind: stream.Insert, New: tuple("1")}},
	}
	for name, events := range cases {
		t.Run(name, func(t *testing.T) {
			source := newScript()
			source.chunks <- events
			if err := apply.New(config(t, target, source, "a")).Run(context.Background()); !errors.Is(err, apply.ErrProtocol) {
				t.Errorf("got %v, want ErrProtocol", err)
			}
		})
	}
	want(t, target, `SELECT count(*) FROM a`, "0")
}

// Names are data.
func TestRun_HostileNames(t *testing.T) {
	target := pgtest.NewPair(t).Target
	table, column := `a"b.c %s; DROP TABLE canary; -- $1`, "line\nbreak \\ 'q' \"é\""
	setUp(t, target, `CREATE TABLE canary (); CREATE TABLE `+postgres.QuoteIdent(table)+` (`+postgres.QuoteIdent(column)+` int PRIMARY KEY, "select" text)`)
	h := newHistory(t, target)
	h.begin().insert(table, "1", `'; \ "`).insert(table, "2", "x").commit()
	h.begin().update(table, nil, "1", "$2").delete(table, "2", absent{}).commit()
	h.begin().truncate(false, table).insert(table, "3", `{"a",NULL}`).commit()
	if err := h.apply(t, table); err != nil {
		t.Fatal(err)
	}
	want(t, target, `SELECT "select" FROM `+postgres.QuoteIdent(table), `{"a",NULL}`)
}
