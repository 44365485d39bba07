package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// runError runs a reader that is expected to refuse.
func runError(t *testing.T, config stream.Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return stream.New(config).Run(ctx)
}

func TestReader_RefusesASlotThatCannotGoOn(t *testing.T) {
	t.Parallel()
	db := pgtest.NewPair(t).Source
	db.Exec(t, `CREATE TABLE a (id int PRIMARY KEY)`)
	p := prepare(t, db, stream.Pgoutput, "a")

	missing := p.config()
	missing.Slot = "stream_test_missing"
	if err := runError(t, missing); !errors.Is(err, stream.ErrSlotMissing) {
		t.Errorf("missing slot: %v", err)
	}
	other := p.config()
	other.Plugin = stream.TestDecoding
	if err := runError(t, other); !errors.Is(err, stream.ErrSlotMismatch) {
		t.Errorf("other plugin: %v", err)
	}
	elsewhere := p.config()
	elsewhere.Endpoint = elsewhere.Endpoint.WithDatabase("postgres")
	if err := runError(t, elsewhere); !errors.Is(err, stream.ErrSlotMismatch) {
		t.Errorf("other database: %v", err)
	}

	r := follow(t, p.config())
	db.Exec(t, `INSERT INTO a VALUES (1)`)
	r.until(p.conn, nil)
	second := p.config()
	second.ActiveTimeout = 10 * time.Millisecond
	err := runError(t, second)
	var slotErr *stream.SlotError
	if !errors.Is(err, stream.ErrSlotActive) || !errors.As(err, &slotErr) || slotErr.PID != inspect(t, p).ActivePID {
		t.Errorf("slot in use: %v", err)
	}
	_ = r.stop()

	// The slot moves on behind our back: what lies between is gone.
	db.Exec(t, `INSERT INTO a VALUES (2)`, `SELECT pg_replication_slot_advance('`+p.name+`', pg_current_wal_flush_lsn())`)
	if err := runError(t, p.config()); !errors.Is(err, stream.ErrSlotAhead) {
		t.Errorf("advanced slot: %v", err)
	}
	if err := runError(t, p.config()); postgres.Retryable(err) {
		t.Errorf("%v is retryable", err)
	}
}

func TestReader_WaitsForTheSlotToBeFree(t *testing.T) {
	t.Parallel()
	db := pgtest.NewPair(t).Source
	db.Exec(t, `CREATE TABLE a (id int PRIMARY KEY)`)
	p := prepare(t, db, stream.Pgoutput, "a")
	first := follow(t, p.config())
	pgtest.Eventually(t, patience, "the slot is read", func() bool { return inspect(t, p).Active })
	second := follow(t, p.config())
	_ = first.stop()
	db.Exec(t, `INSERT INTO a VALUES (1)`)
	if lines := second.lines(p.conn); len(lines) != 3 {
		t.Errorf("events %q", lines)
	}
}

func TestReader_RefusesAnotherSource(t *testing.T) {
	t.Parallel()
	db := pgtest.NewPair(t).Source
	db.Exec(t, `CREATE TABLE a (id int PRIMARY KEY)`)
	p := prepare(t, db, stream.Pgoutput, "a")
	identity, err := stream.Identify(t.Context(), db.Endpoint())
	must(t, err)
	for _, c := range []struct {
		name   string
		change func(*stream.Config)
		want   error
	}{
		{"system", func(c *stream.Config) { c.Identity.SystemID += "1" }, stream.ErrSourceReplaced},
		{"timeline", func(c *stream.Config) { c.Identity.Timeline++ }, stream.ErrTimeline},
		{"log ends earlier than before", func(c *stream.Config) { c.Identity.Position += 1 << 40 }, stream.ErrSourceReplaced},
		{"log ends before the start", func(c *stream.Config) { c.Start += 1 << 40 }, stream.ErrSourceReplaced},
	} {
		config := p.config()
		config.Identity = identity
		c.change(&config)
		if err := runError(t, config); !errors.Is(err, c.want) || postgres.Retryable(err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	config := p.config()
	config.Identity = identity
	r := follow(t, config)
	db.Exec(t, `INSERT INTO a VALUES (1)`)
	r.until(p.conn, nil)
}

func TestReader_LostSlot(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{
		"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "48MB",
	}})
	db := server.NewDatabase(t, pgtest.DatabaseOptions{})
	db.Exec(t, `CREATE TABLE a (id int)`)
	p := prepare(t, db, stream.Pgoutput, "a")
	pgtest.Eventually(t, patience, "the slot is lost", func() bool {
		db.Exec(t, `INSERT INTO a SELECT generate_series(1, 100000)`, `SELECT pg_switch_wal()`, `CHECKPOINT`)
		info := inspect(t, p)
		return info.Lost() && info.Reason() != ""
	})
	if err := runError(t, p.config()); !errors.Is(err, stream.ErrSlotLost) {
		t.Errorf("lost slot: %v", err)
	}
}

// Rows that commit while the slot is being made are in the snapshot or in the stream, never in both or in neither;
// the position of a transaction's commit record tells which.
func TestCreateSlot_SnapshotMeetsStream(t *testing.T) {
	t.Parallel()
	for _, plugin := range []stream.Plugin{stream.Pgoutput, stream.TestDecoding} {
		t.Run(string(plugin), func(t *testing.T) {
			t.Parallel()
			db := pgtest.NewPair(t).Source
			db.Exec(t, `CREATE TABLE a (id int PRIMARY KEY)`)
			first := prepare(t, db, plugin, "a") // sees everything, for the comparison of positions
			ctx, stop := context.WithCancel(t.Context())
			writer, written, done := connect(t, db), 0, make(chan error, 1)
			half := make(chan struct{})
			go func() {
				defer close(done)
				for ; ctx.Err() == nil; written++ {
					if _, err := writer.Exec(t.Context(), `INSERT INTO public.a VALUES ($1)`, written); err != nil {
						done <- err
						return
					}
					if written == 50 {
						close(half)
					}
				}
			}()
			<-half
			second := prepare(t, db, plugin, "a")
			reader := connect(t, db)
			exec(t, reader, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
			exec(t, reader, `SET TRANSACTION SNAPSHOT `+postgres.QuoteLiteral(second.snapshot.Name))
			var copied int
			must(t, reader.QueryRow(t.Context(), `SELECT count(*) FROM public.a`).Scan(&copied))
			exec(t, reader, `COMMIT`)
			stop()
			must(t, <-done)

			below := 0
			var begin postgres.LSN
			follow(t, first.config()).until(first.conn, func(e stream.Event) {
				if e.Kind == stream.Begin {
					begin = e.LSN
				} else if e.Kind == stream.Insert && begin < second.snapshot.ConsistentPoint {
					below++
				}
			})
			streamed := 0
			follow(t, second.config()).until(second.conn, func(e stream.Event) {
				if e.Kind == stream.Insert {
					streamed++
				}
			})
			if copied+streamed != written || below != copied || copied == 0 {
				t.Errorf("%d rows written, %d in the snapshot, %d in the stream, %d begin below the consistent point", written, copied, streamed, below)
			}
		})
	}
}

// SNAP-5, SNAP-6: a slot waits for open and prepared transactions, says for which, and leaves nothing when cancelled.
func TestCreateSlot_TellsWhoBlocksAndCancels(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	db := server.NewDatabase(t, pgtest.DatabaseOptions{})
	db.Exec(t, `CREATE TABLE a (id int PRIMARY KEY)`)
	conn, open := connect(t, db), connect(t, db)
	exec(t, open, `BEGIN`)
	exec(t, open, `INSERT INTO public.a VALUES (1)`)
	db.Exec(t, `BEGIN; INSERT INTO a VALUES (2); PREPARE TRANSACTION 'pending'`)

	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped by the test")
	told := make(chan []stream.Blocker, 1)
	_, err := stream.CreateSlot(ctx, db.Endpoint(), "stream_test_blocked", stream.Pgoutput, stream.SlotOptions{
		WaitInterval: 20 * time.Millisecond,
		Waiting: func(blockers []stream.Blocker) {
			if len(blockers) == 2 {
				select {
				case told <- blockers:
				default:
				}
				cancel(stopped)
			}
		},
	})
	if !errors.Is(err, stopped) {
		t.Fatalf("CreateSlot returned %v", err)
	}
	blockers := <-told
	if b := blockers[0]; b.PID != int(open.PgConn().PID()) || b.User != "postgres" || b.Application != "slipway/test" ||
		b.Database != db.Name || b.State != "idle in transaction" || b.Began.IsZero() || b.QueryBegan.IsZero() || b.String() == "" {
		t.Errorf("blocker %+v", b)
	}
	if b := blockers[1]; b.GID != "pending" || b.User != "postgres" || b.Database != db.Name || b.Began.IsZero() {
		t.Errorf("blocker %+v", b)
	}
	info, err := stream.InspectSlot(t.Context(), conn, "stream_test_blocked")
	if err != nil || info.Exists {
		t.Errorf("a cancelled slot is left: %+v, %v", info, err)
	}

	// When they end, the slot comes by itself.
	exec(t, open, `ROLLBACK`)
	db.Exec(t, `ROLLBACK PREPARED 'pending'`)
	snapshot, err := stream.CreateSlot(t.Context(), db.Endpoint(), "stream_test_blocked", stream.Pgoutput, stream.SlotOptions{})
	must(t, err)
	must(t, snapshot.Close(t.Context()))
	must(t, stream.DropSlot(t.Context(), conn, "stream_test_blocked"))
}

func TestCreateSlot_ExistingSlotIsLeftAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.NewPair(t).Source
	p := prepare(t, db, stream.Pgoutput)
	_, err := stream.CreateSlot(t.Context(), db.Endpoint(), p.name, stream.Pgoutput, stream.SlotOptions{})
	if !errors.Is(err, stream.ErrSlotExists) || !inspect(t, p).Exists {
		t.Errorf("CreateSlot returned %v", err)
	}
	for _, name := range []string{"", "Upper", "quo\"te", "spa ce", fmt.Sprintf("%064d", 1)} {
		if _, err := stream.CreateSlot(t.Context(), db.Endpoint(), name, stream.Pgoutput, stream.SlotOptions{}); err == nil {
			t.Errorf("slot name %q was accepted", name)
		}
	}
}

func TestSnapshot_NoticesItsLoss(t *testing.T) {
	t.Parallel()
	db := pgtest.NewPair(t).Source
	conn := connect(t, db)
	snapshot, err := stream.CreateSlot(t.Context(), db.Endpoint(), "stream_test_temporary", stream.Pgoutput, stream.SlotOptions{
		Temporary: true, Session: "a job/slot",
	})
	must(t, err)
	info, err := stream.InspectSlot(t.Context(), conn, "stream_test_temporary")
	if err != nil || !info.Temporary || !info.Active || info.Plugin != stream.Pgoutput || info.Database != db.Name ||
		info.ConfirmedFlush != snapshot.ConsistentPoint || info.RestartLSN == 0 || info.WALStatus != "reserved" || info.Lost() {
		t.Errorf("slot %+v, %v", info, err)
	}
	select {
	case <-snapshot.Lost():
		t.Fatal("lost at once")
	default:
	}
	db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'slipway/a job/slot'`)
	select {
	case <-snapshot.Lost():
	case <-time.After(patience):
		t.Error("the loss is not noticed")
	}
	must(t, snapshot.Close(t.Context()))
	pgtest.Eventually(t, patience, "the temporary slot is gone", func() bool {
		info, err := stream.InspectSlot(t.Context(), conn, "stream_test_temporary")
		return err == nil && !info.Exists
	})
}

func TestDropSlot_EndsOurOwnSession(t *testing.T) {
	t.Parallel()
	db := pgtest.NewPair(t).Source
	p := prepare(t, db, stream.Pgoutput)
	r := follow(t, p.config())
	pgtest.Eventually(t, patience, "the slot is read", func() bool { return inspect(t, p).Active })
	must(t, stream.DropSlot(t.Context(), p.conn, p.name))
	if err := drain(t, r); !postgres.ConnectionLost(err) {
		t.Errorf("the reader ended with %v", err)
	}
	must(t, stream.DropSlot(t.Context(), p.conn, p.name)) // again
	if inspect(t, p).Exists {
		t.Error("the slot is still there")
	}
}

func TestVerifyPublication(t *testing.T) {
	t.Parallel()
	db := pgtest.NewPair(t).Source
	conn := connect(t, db)
	var tables []schema.Name
	ddl := `CREATE SCHEMA "s, ""x"; CREATE TABLE other (a int PRIMARY KEY); CREATE TABLE child () INHERITS (other);`
	for i := range 1100 {
		name := schema.Name{Schema: `s, "x`, Name: fmt.Sprintf(`t.%d "%%`, i)}
		ddl += "CREATE TABLE " + name.SQL() + " (a int PRIMARY KEY);"
		tables = append(tables, name)
	}
	tables = append(tables, schema.Name{Schema: "public", Name: "other"}) // without its child
	db.Exec(t, ddl)
	const name = `publication "of, a test`
	verify := func() error { return stream.VerifyPublication(t.Context(), conn, name, tables) }
	var wrong *stream.PublicationError
	if err := verify(); !errors.As(err, &wrong) || !wrong.Gone || !errors.Is(err, stream.ErrPublicationChanged) {
		t.Errorf("missing publication: %v", err)
	}
	must(t, stream.CreatePublication(t.Context(), conn, name, tables))
	must(t, verify())
	quoted := postgres.QuoteIdent(name)
	db.Exec(t, `ALTER TABLE `+tables[7].SQL()+` RENAME TO renamed`, `ALTER PUBLICATION `+quoted+` ADD TABLE child`,
		`ALTER PUBLICATION `+quoted+` DROP TABLE `+tables[8].SQL(), `ALTER PUBLICATION `+quoted+` SET (publish = 'insert', publish_via_partition_root = true)`)
	if !errors.As(verify(), &wrong) {
		t.Fatalf("an altered publication passes: %v", verify())
	}
	want := &stream.PublicationError{
		Publication: name, Missing: tables[7:9],
		Added:   []schema.Name{{Schema: "public", Name: "child"}, {Schema: `s, "x`, Name: "renamed"}},
		Altered: []string{"does not publish all operations", "publishes through the partition root"},
	}
	if diff := cmp.Diff(want, wrong); diff != "" || wrong.Error() == "" {
		t.Error(diff)
	}
	must(t, stream.DropPublication(t.Context(), conn, name))
	must(t, stream.DropPublication(t.Context(), conn, name))

	must(t, stream.CreatePublication(t.Context(), conn, name, tables[:1]))
	db.Exec(t, `ALTER PUBLICATION `+quoted+` SET TABLE `+tables[0].SQL()+` WHERE (a > 5), TABLES IN SCHEMA public`)
	err := stream.VerifyPublication(t.Context(), conn, name, tables[:1])
	if !errors.As(err, &wrong) || !slices.Equal(wrong.Altered, []string{"publishes whole schemas", "filters rows or columns of " + tables[0].String()}) {
		t.Errorf("filtered publication: %v", err)
	}
	must(t, stream.DropPublication(t.Context(), conn, name))
}

// Everything committed before a heartbeat lies below it, asynchronous commits too, and it can be read at once.
func TestHeartbeat_CoversAsynchronousCommits(t *testing.T) {
	t.Parallel()
	db := pgtest.NewPair(t).Source
	db.Exec(t, `CREATE TABLE a (id serial PRIMARY KEY)`)
	p := prepare(t, db, stream.Pgoutput, "a")
	writer := connect(t, db)
	exec(t, writer, `SET synchronous_commit = off`)
	r := follow(t, p.config())
	for range 20 {
		exec(t, writer, `INSERT INTO public.a DEFAULT VALUES`)
		if lines := r.lines(p.conn); len(lines) != 3 {
			t.Fatalf("up to the heartbeat came %q", lines)
		}
	}
}
