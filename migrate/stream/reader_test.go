package stream_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// Eight writers whose transactions overlap: commits rise strictly, and every committed row comes once, in an order in
// which each writer's own rows follow each other.
func TestReader_CommitOrder(t *testing.T) {
	t.Parallel()
	const writers, transactions = 8, 60
	db := smallMemory(t)
	db.Exec(t, `CREATE TABLE w (who int, n int, k int, pad text, PRIMARY KEY (who, n, k))`)
	p := prepare(t, db, stream.Pgoutput, "w")
	var group errgroup.Group
	for who := range writers {
		conn := connect(t, db)
		group.Go(func() error {
			for n := range transactions {
				// Some are streamed, some are rolled back.
				rows, end := 1+n%3, "COMMIT"
				if n%10 == who {
					rows = 900
				}
				if n%7 == 6 {
					end = "ROLLBACK"
				}
				sql := fmt.Sprintf(`BEGIN; INSERT INTO public.w SELECT %d, %d, k, repeat('v', 100) FROM generate_series(1, %d) AS k; %s`, who, n, rows, end)
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					return err
				}
			}
			return nil
		})
	}
	r := follow(t, p.config())
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	var begin, last postgres.LSN
	var order [writers]int
	seen := map[string]bool{}
	r.until(p.conn, func(e stream.Event) {
		switch e.Kind {
		case stream.Begin:
			if begin != 0 || e.LSN < last {
				t.Fatalf("transaction begins at %s inside another, or before the end %s of the last one", e.LSN, last)
			}
			begin = e.LSN
		case stream.Commit, stream.Position:
			if e.LSN <= last || (e.Kind == stream.Position) != (begin == 0) || e.LSN <= begin {
				t.Fatalf("%c at %s after %s in a transaction of %s", e.Kind, e.LSN, last, begin)
			}
			begin, last = 0, e.LSN
		case stream.Insert:
			who, n := atoi(t, e.New.Values[0].Data), atoi(t, e.New.Values[1].Data)
			row := fmt.Sprintf("%d %d %s", who, n, e.New.Values[2].Data)
			if begin == 0 || n < order[who] || seen[row] {
				t.Fatalf("row %s out of order or twice", row)
			}
			order[who], seen[row] = n, true
		default:
			t.Fatalf("event %c", e.Kind)
		}
	})
	if stored := int(db.Int(t, `SELECT count(*) FROM w`)); len(seen) != stored {
		t.Errorf("%d rows were delivered, %d are stored", len(seen), stored)
	}
}

func atoi(t *testing.T, text []byte) int {
	t.Helper()
	n, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// An idle database moves on while only others are written to, and the slot lets go of the log.
func TestReader_PositionOfAnIdleDatabase(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	idle, busy := pair.Source, pgtest.NewPair(t).Source
	idle.Exec(t, `CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE unpublished (id int)`)
	busy.Exec(t, `CREATE TABLE b (id int)`)
	p := prepare(t, idle, stream.Pgoutput, "a")
	r := follow(t, p.config())
	for range 3 {
		busy.Exec(t, `INSERT INTO b SELECT generate_series(1, 5000)`)
		idle.Exec(t, `INSERT INTO unpublished SELECT generate_series(1, 5000)`)
		target, err := stream.SourcePosition(t.Context(), p.conn)
		if err != nil {
			t.Fatal(err)
		}
		for reached := postgres.LSN(0); reached < target; {
			for _, e := range r.next() {
				if e.Kind != stream.Position || e.LSN <= reached {
					t.Fatalf("event %c at %s after %s", e.Kind, e.LSN, reached)
				}
				reached = e.LSN
			}
			r.Confirm(reached)
		}
		pgtest.Eventually(t, patience, "the slot is confirmed", func() bool {
			return inspect(t, p).ConfirmedFlush >= target
		})
	}
	if stats := r.Stats(); stats.Transactions != 0 || stats.Received == 0 || stats.Server < stats.Received || stats.LastMessage.IsZero() {
		t.Errorf("stats %+v", stats)
	}
}

func inspect(t *testing.T, p *prepared) stream.SlotInfo {
	t.Helper()
	info, err := stream.InspectSlot(t.Context(), p.conn, p.name)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// A consumer that takes nothing for longer than the server's patience does not cost the connection, and the server
// sends no more than the queue takes.
func TestReader_BlockedConsumer(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"wal_sender_timeout": "2s"}})
	db := server.NewDatabase(t, pgtest.DatabaseOptions{})
	db.Exec(t, `CREATE TABLE a (id int PRIMARY KEY, x text)`)
	p := prepare(t, db, stream.Pgoutput, "a")
	config := p.config()
	config.QueueBytes = 4 << 20 // several chunks
	r := follow(t, config)
	const rows = 100_000
	db.Exec(t, fmt.Sprintf(`INSERT INTO a SELECT i, repeat('v', 100) FROM generate_series(1, %d) AS i`, rows))
	pgtest.Eventually(t, patience, "the queue is full", func() bool { return r.Stats().QueueBytes > 1<<20 })
	pid, since := inspect(t, p).ActivePID, time.Now()
	pgtest.Eventually(t, patience, "three times the server's patience has passed", func() bool {
		return time.Since(since) > 6*time.Second
	})
	if after := inspect(t, p).ActivePID; after != pid || pid == 0 {
		t.Errorf("the slot is read by process %d and then %d", pid, after)
	}
	if n := r.Stats().QueueBytes; n > 4<<20 { // no chunk here is larger than the bound
		t.Errorf("%d bytes in the queue", n)
	}
	inserts := 0
	r.until(p.conn, func(e stream.Event) {
		if e.Kind == stream.Insert {
			inserts++
		}
	})
	if inserts != rows {
		t.Errorf("%d inserts instead of %d", inserts, rows)
	}
}

// The walsender is killed again and again; a new reader at the last position that was confirmed or only recorded
// brings every transaction above it exactly once.
func TestReader_ResumesWithoutLossAfterItsWalsenderDies(t *testing.T) {
	t.Parallel()
	for _, plugin := range []stream.Plugin{stream.Pgoutput, stream.TestDecoding} {
		t.Run(string(plugin), func(t *testing.T) {
			t.Parallel()
			db := pgtest.NewPair(t).Source
			db.Exec(t, `CREATE TABLE a (id serial PRIMARY KEY)`)
			p := prepare(t, db, plugin, "a")
			config := p.config()
			applied := map[string]int{}
			for round := range 6 {
				r := follow(t, config)
				for range 20 {
					db.Exec(t, `INSERT INTO a DEFAULT VALUES`)
				}
				var open []string
				count, stopAt := 0, 7+3*round // in the middle of what is there
				for count < stopAt {
					for _, e := range r.next() {
						switch e.Kind {
						case stream.Insert:
							open = append(open, string(e.New.Values[0].Data))
						case stream.Commit:
							if count++; count > stopAt {
								continue // as if we had died before it
							}
							for _, id := range open {
								applied[id]++
							}
							config.Start = e.LSN
							if round%2 == 0 {
								r.Confirm(e.LSN)
							}
							open = nil
						case stream.Begin:
							open = nil
						}
					}
				}
				db.Exec(t, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active AND slot_name = '`+p.name+`'`)
				if err := drain(t, r); !postgres.Retryable(err) {
					t.Fatalf("after a killed walsender Next returned %v, which is not retryable", err)
				}
			}
			r := follow(t, config)
			r.until(p.conn, func(e stream.Event) {
				if e.Kind == stream.Insert {
					applied[string(e.New.Values[0].Data)]++
				}
			})
			for id, n := range applied {
				if n != 1 {
					t.Errorf("row %s was delivered %d times", id, n)
				}
			}
			if len(applied) != 120 {
				t.Errorf("%d rows instead of 120", len(applied))
			}
		})
	}
}

// drain reads to the end of a reader and gives its error.
func drain(t *testing.T, r *running) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	for {
		if _, err := r.Next(ctx); err != nil {
			if ctx.Err() != nil {
				t.Fatal("the reader does not end")
			}
			return err
		}
	}
}

func TestReader_NewRelationAfterDDL(t *testing.T) {
	t.Parallel()
	for _, plugin := range []stream.Plugin{stream.Pgoutput, stream.TestDecoding} {
		t.Run(string(plugin), func(t *testing.T) {
			t.Parallel()
			db := pgtest.NewPair(t).Source
			db.Exec(t, `CREATE TABLE a (id int PRIMARY KEY, x text)`)
			p := prepare(t, db, plugin, "a")
			r := follow(t, p.config())
			var relations []*stream.Relation
			step := func(sql ...string) *stream.Relation {
				db.Exec(t, sql...)
				r.until(p.conn, func(e stream.Event) {
					if e.Relation != nil {
						relations = append(relations, e.Relation)
					}
				})
				return relations[len(relations)-1]
			}
			one := step(`INSERT INTO a VALUES (1, 'x')`, `INSERT INTO a VALUES (2, 'x')`)
			if relations[0] != one {
				t.Error("another Relation although nothing changed")
			}
			two := step(`ALTER TABLE a ADD y int`, `INSERT INTO a VALUES (3, 'x', 1)`)
			three := step(`ALTER TABLE a ALTER y TYPE bigint`, `UPDATE a SET y = 2`)
			if one == two || two == three || len(one.Columns) != 2 || len(two.Columns) != 3 || three.Columns[2].TypeOID != 20 {
				t.Errorf("relations %+v, %+v, %+v", one, two, three)
			}
			if one.OID != two.OID || one.OID == 0 || !one.Columns[0].Key || one.Columns[1].Key || one.Identity != 'd' {
				t.Errorf("relations %+v, %+v", one, two)
			}
		})
	}
}

// A cut connection, a server that stops and a black hole all end Run with an error that may be tried again.
func TestReader_LostConnectionIsRetryable(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*testing.T, *pgtest.Server, *pgtest.Proxy){
		"cut":   func(_ *testing.T, _ *pgtest.Server, p *pgtest.Proxy) { p.Cut() },
		"stall": func(_ *testing.T, _ *pgtest.Server, p *pgtest.Proxy) { p.Stall() },
		"stop":  func(t *testing.T, s *pgtest.Server, _ *pgtest.Proxy) { must(t, s.Stop(t.Context(), postgres.Fast)) },
		"immediate": func(t *testing.T, s *pgtest.Server, _ *pgtest.Proxy) {
			must(t, s.Stop(t.Context(), postgres.Immediate))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := pgtest.Start(t, pgtest.Options{})
			db := server.NewDatabase(t, pgtest.DatabaseOptions{})
			db.Exec(t, `CREATE TABLE a (id serial PRIMARY KEY)`)
			p := prepare(t, db, stream.Pgoutput, "a")
			proxy := pgtest.NewProxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port())))
			endpoint, err := postgres.ParseEndpoint(db.URIVia(proxy.Addr()))
			must(t, err)
			config := p.config()
			config.Endpoint, config.SilenceTimeout = endpoint, time.Second
			r := follow(t, config)
			db.Exec(t, `INSERT INTO a DEFAULT VALUES`)
			r.until(p.conn, nil)
			fault(t, server, proxy)
			if err := drain(t, r); !postgres.Retryable(err) {
				t.Errorf("%v is not retryable", err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A silent server is left alone as long as it serves us.
func TestReader_SilenceAloneIsNoFault(t *testing.T) {
	t.Parallel()
	db := pgtest.NewPair(t).Source
	db.Exec(t, `CREATE TABLE a (id serial PRIMARY KEY)`)
	p := prepare(t, db, stream.Pgoutput, "a")
	config := p.config()
	config.SilenceTimeout = 50 * time.Millisecond
	r := follow(t, config)
	since := time.Now()
	pgtest.Eventually(t, patience, "ten times the timeout has passed", func() bool { return time.Since(since) > 500*time.Millisecond })
	db.Exec(t, `INSERT INTO a DEFAULT VALUES`)
	if lines := r.lines(p.conn); len(lines) != 3 {
		t.Errorf("events %q", lines)
	}
}

// Stopping frees the slot at once, and what was confirmed before is known to the server.
func TestReader_StopsInOrder(t *testing.T) {
	t.Parallel()
	db := pgtest.NewPair(t).Source
	db.Exec(t, `CREATE TABLE a (id serial PRIMARY KEY)`)
	p := prepare(t, db, stream.Pgoutput, "a")
	r := follow(t, p.config())
	db.Exec(t, `INSERT INTO a DEFAULT VALUES`)
	var end postgres.LSN
	r.until(p.conn, func(e stream.Event) {
		if e.Kind == stream.Commit {
			end = e.LSN
		}
	})
	if before := inspect(t, p).ConfirmedFlush; before != p.snapshot.ConsistentPoint {
		t.Errorf("the slot moved to %s although nothing was confirmed", before)
	}
	r.Confirm(end)
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v", err)
	}
	if err := drain(t, r); !errors.Is(err, context.Canceled) {
		t.Errorf("Next returned %v", err)
	}
	if info := inspect(t, p); info.Active || info.ConfirmedFlush != end {
		t.Errorf("slot %+v, confirmed was %s", info, end)
	}
}
