package stream_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/pgtest"
)

// smallMemory is a server that streams every transaction above 64 kB.
func smallMemory(t *testing.T) *pgtest.Database {
	t.Helper()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"logical_decoding_work_mem": "64kB"}})
	return server.NewDatabase(t, pgtest.DatabaseOptions{})
}

func exec(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
}

// Large transactions that run at the same time arrive in pieces, with pieces of subtransactions that are rolled back
// later, and of transactions that are. test_decoding, which sends everything at the commit, is the judge.
func TestPgoutput_StreamedTransactions(t *testing.T) {
	t.Parallel()
	db := smallMemory(t)
	db.Exec(t, `CREATE TABLE a (id bigserial PRIMARY KEY, who int, x text); CREATE TABLE b (id bigserial PRIMARY KEY, who int, x text);
		CREATE TABLE late (id bigserial PRIMARY KEY, x text)`)
	p := prepare(t, db, stream.Pgoutput, "a", "b", "late")
	q := prepare(t, db, stream.TestDecoding)
	const sessions = 4
	conns := make([]*pgx.Conn, sessions)
	for i := range conns {
		conns[i] = connect(t, db)
		exec(t, conns[i], `BEGIN`)
	}
	fill := func(i int, table string, rows int) {
		exec(t, conns[i], fmt.Sprintf(`INSERT INTO public.%s (who, x) SELECT %d, repeat('v', 100) FROM generate_series(1, %d)`, table, i, rows))
	}
	for round := range 6 {
		for i := range conns {
			fill(i, "a", 700)
			exec(t, conns[i], fmt.Sprintf(`SAVEPOINT s%d`, round))
			fill(i, "b", 700)
			switch (round + i) % 3 {
			case 0:
				exec(t, conns[i], fmt.Sprintf(`ROLLBACK TO s%d`, round))
			case 1:
				exec(t, conns[i], fmt.Sprintf(`RELEASE s%d`, round))
			}
		}
		// A small transaction commits in between.
		db.Exec(t, `INSERT INTO b (who, x) VALUES (99, 'between')`)
	}
	// The first to use this table in its transaction is a subtransaction that is rolled back; then the table changes
	// in one that is rolled back, and is used again as it was.
	exec(t, conns[2], `SAVEPOINT l`)
	exec(t, conns[2], `INSERT INTO public.late (x) SELECT repeat('w', 100) FROM generate_series(1, 2000)`)
	exec(t, conns[2], `ROLLBACK TO l`)
	exec(t, conns[2], `INSERT INTO public.late (x) SELECT repeat('w', 100) FROM generate_series(1, 2000)`)
	exec(t, conns[2], `SAVEPOINT m`)
	exec(t, conns[2], `ALTER TABLE public.late ADD y int DEFAULT 5`)
	exec(t, conns[2], `INSERT INTO public.late (x) SELECT repeat('w', 100) FROM generate_series(1, 2000)`)
	exec(t, conns[2], `ROLLBACK TO m`)
	exec(t, conns[2], `INSERT INTO public.late (x) VALUES ('after')`)
	exec(t, conns[3], `COMMIT`)
	exec(t, conns[0], `ROLLBACK`)
	exec(t, conns[2], `COMMIT`)
	exec(t, conns[1], `PREPARE TRANSACTION 'streamed'`)
	db.Exec(t, `INSERT INTO late (x) VALUES ('last')`, `COMMIT PREPARED 'streamed'`)

	config := p.config()
	config.SpoolDir = t.TempDir()
	config.QueueBytes = 1 << 20
	r := follow(t, config)
	sawSpool := false
	var list []record
	r.until(p.conn, func(e stream.Event) {
		sawSpool = sawSpool || r.Stats().SpoolBytes > 0
		if e.Kind == stream.Begin || e.Kind == stream.Commit {
			list = append(list, record{Text: render(e), XID: e.XID, LSN: e.LSN.String(), Time: e.CommitTime.String()})
		} else if e.Kind != stream.Position {
			list = append(list, record{Text: render(e)})
		}
	})
	if !sawSpool {
		t.Error("no transaction was spooled to disk: the test does not test what it should")
	}
	if n := r.Stats().SpoolBytes; n != 0 {
		t.Errorf("%d bytes are left in spools", n)
	}
	plain := records(t, q, q.config())
	for i := range plain {
		plain[i].Table = ""
	}
	sameRecords(t, list, plain)
}

// A description that a streamed transaction brought must not outlive its rollback, nor replace a later one.
func TestPgoutput_DescriptionsInStreamedTransactions(t *testing.T) {
	t.Parallel()
	db := smallMemory(t)
	db.Exec(t, `CREATE TABLE a (id bigserial PRIMARY KEY, x text); CREATE TABLE filler (x text)`)
	p := prepare(t, db, stream.Pgoutput, "a", "filler")
	many := `INSERT INTO public.filler SELECT repeat('v', 100) FROM generate_series(1, 2000)`
	first, second := connect(t, db), connect(t, db)

	// Streamed, altered, rolled back.
	exec(t, first, `BEGIN`)
	exec(t, first, many)
	exec(t, first, `ALTER TABLE public.a ADD y int DEFAULT 5`)
	exec(t, first, `INSERT INTO public.a (x) VALUES ('never')`)
	exec(t, first, many)
	exec(t, first, `ROLLBACK`)
	db.Exec(t, `INSERT INTO a (x) VALUES ('one')`)

	// One transaction describes the table and stays open; meanwhile another one makes the server describe it anew,
	// in a form that the first does not see.
	exec(t, first, `BEGIN`)
	exec(t, first, `INSERT INTO public.a (x) VALUES ('two')`)
	exec(t, first, many)
	exec(t, second, `ALTER PUBLICATION `+p.name+` SET (publish = 'insert, update, delete, truncate')`) // no strong lock
	exec(t, second, `INSERT INTO public.a (x) VALUES ('three')`)
	exec(t, first, `COMMIT`)
	db.Exec(t, `ALTER TABLE a RENAME x TO z`, `INSERT INTO a (z) VALUES ('four')`)

	// Streamed, altered, committed.
	exec(t, first, `BEGIN`)
	exec(t, first, many)
	exec(t, first, `ALTER TABLE public.a ADD w int DEFAULT 5`)
	exec(t, first, `INSERT INTO public.a (z) VALUES ('five')`)
	exec(t, first, `COMMIT`)
	db.Exec(t, `INSERT INTO a (z) VALUES ('six')`)

	var found []string
	follow(t, p.config()).until(p.conn, func(e stream.Event) {
		if e.Kind == stream.Insert && e.Relation.Name == "a" {
			found = append(found, renderTuple(e.Relation, e.New))
		}
	})
	want := []string{
		"(id=2 x=one)", "(id=4 x=three)", "(id=3 x=two)", "(id=5 z=four)", "(id=6 z=five w=5)", "(id=7 z=six w=5)",
	}
	if fmt.Sprint(found) != fmt.Sprint(want) {
		t.Errorf("found %v, want %v", found, want)
	}
}

// 1,000,000 rows in one transaction go through memory that does not grow with them.
func TestReader_MemoryDoesNotGrowWithTheTransaction(t *testing.T) {
	t.Parallel()
	for plugin, rows := range map[stream.Plugin]int{stream.Pgoutput: 1_000_000, stream.TestDecoding: 300_000} {
		t.Run(string(plugin), func(t *testing.T) {
			db := pgtest.NewPair(t).Source
			db.Exec(t, `CREATE TABLE many (id int PRIMARY KEY, x text)`)
			p := prepare(t, db, plugin, "many")
			db.Exec(t, fmt.Sprintf(`INSERT INTO many SELECT i, repeat('v', 100) FROM generate_series(1, %d) AS i`, rows))
			config := p.config()
			config.SpoolDir = t.TempDir()
			config.QueueBytes = 8 << 20
			r := follow(t, config)
			var peak uint64
			inserts := 0
			r.until(p.conn, func(e stream.Event) {
				if e.Kind != stream.Insert {
					return
				}
				if inserts++; inserts%100_000 == 0 {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					peak = max(peak, m.HeapInuse)
				}
			})
			if inserts != rows {
				t.Errorf("%d inserts instead of %d", inserts, rows)
			}
			if limit := uint64(96 << 20); peak > limit {
				t.Errorf("heap of %d MiB, want at most %d MiB", peak>>20, limit>>20)
			}
		})
	}
}

// A single row above every bound passes, and what it took is given back.
func TestReader_HugeRow(t *testing.T) {
	t.Parallel()
	db := pgtest.NewPair(t).Source
	db.Exec(t, `CREATE TABLE huge (id int PRIMARY KEY, x text, y text)`)
	p := prepare(t, db, stream.Pgoutput, "huge")
	db.Exec(t, `INSERT INTO huge SELECT i, repeat('v', 20000000), 'w' FROM generate_series(1, 3) AS i`)
	config := p.config()
	config.QueueBytes = 1 << 20
	r := follow(t, config)
	lengths := []int{}
	r.until(p.conn, func(e stream.Event) {
		if e.Kind == stream.Insert {
			lengths = append(lengths, len(e.New.Values[1].Data), len(e.New.Values[2].Data))
		}
	})
	if fmt.Sprint(lengths) != "[20000000 1 20000000 1 20000000 1]" {
		t.Errorf("lengths %v", lengths)
	}
	if n := r.Stats().QueueBytes; n > 1<<20 {
		t.Errorf("%d bytes in an empty queue", n)
	}
	if err := r.stop(); err != context.Canceled {
		t.Errorf("Run returned %v", err)
	}
}
