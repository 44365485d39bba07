package migrate_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/pgtest"
)

// ledgerSchema holds rows whose loss, doubling or half application shows on the target alone: each transaction moves
// an amount between two accounts, writes it down on both sides, and counts itself in its client's row.
const ledgerSchema = `
CREATE SCHEMA ledger;
CREATE TABLE ledger.account (id int PRIMARY KEY, balance bigint NOT NULL, note text);
CREATE TABLE ledger.entry (client int, seq bigint, account int NOT NULL REFERENCES ledger.account, amount bigint NOT NULL,
	at timestamptz DEFAULT now(), PRIMARY KEY (client, seq, account));
CREATE TABLE ledger.client (id int PRIMARY KEY, seq bigint NOT NULL);
CREATE TABLE ledger.journal (line text); -- no key
ALTER TABLE ledger.journal REPLICA IDENTITY FULL;
CREATE SEQUENCE ledger.ticket;
INSERT INTO ledger.account SELECT i, 1000, repeat('x', 100) FROM generate_series(1, 200) i;
INSERT INTO ledger.client SELECT i, 0 FROM generate_series(1, 16) i;
`

// ledger writes to a source from several clients and remembers what was acknowledged.
type ledger struct {
	database *pgtest.Database
	stopping chan struct{}
	done     sync.WaitGroup

	mu    sync.Mutex
	acked map[int]int64 // last acknowledged seq by client
	tries map[int]int64
}

// startLedger begins to write; stop ends it.
func startLedger(t *testing.T, d *pgtest.Database, clients int) *ledger {
	t.Helper()
	l := &ledger{database: d, stopping: make(chan struct{}), acked: map[int]int64{}, tries: map[int]int64{}}
	for client := 1; client <= clients; client++ {
		l.done.Add(1)
		go func() {
			defer l.done.Done()
			l.write(client)
		}()
	}
	t.Cleanup(l.stop)
	return l
}

func (l *ledger) stop() {
	l.mu.Lock()
	select {
	case <-l.stopping:
	default:
		close(l.stopping)
	}
	l.mu.Unlock()
	l.done.Wait()
}

func (l *ledger) stopped() bool {
	select {
	case <-l.stopping:
		return true
	default:
		return false
	}
}

// writerPace keeps the writers from outrunning a machine that runs two servers, the engine and other tests.
const writerPace = 8 * time.Millisecond

// write goes on through lost connections: a transaction whose outcome is unknown is looked up by its client's row.
func (l *ledger) write(client int) {
	ctx := context.Background()
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(ctx)
		}
	}()
	seq := int64(0)
	pace := time.NewTicker(writerPace)
	defer pace.Stop()
	for !l.stopped() {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgx.Connect(ctx, l.database.URI()); err != nil {
				conn = nil
				select {
				case <-l.stopping:
				case <-time.After(20 * time.Millisecond):
				}
				continue
			}
			if err := conn.QueryRow(ctx, `SELECT seq FROM ledger.client WHERE id = $1`, client).Scan(&seq); err != nil {
				_ = conn.Close(ctx)
				continue
			}
		}
		if l.transact(ctx, conn, client, seq+1) != nil {
			_ = conn.Close(ctx)
			continue
		}
		seq++
		l.mu.Lock()
		l.acked[client] = seq
		l.mu.Unlock()
		<-pace.C
	}
}

func (l *ledger) transact(ctx context.Context, conn *pgx.Conn, client int, seq int64) error {
	from, to := int(seq*7+int64(client))%200+1, int(seq*13+int64(client)*3)%200+1
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		first, second := min(from, to), max(from, to) // in one order, so that writers do not deadlock
		batch.Queue(`UPDATE ledger.account SET balance = balance - $2 WHERE id = $1`, first, seq%5)
		if second != first {
			batch.Queue(`UPDATE ledger.account SET balance = balance + $2 WHERE id = $1`, second, seq%5)
			batch.Queue(`INSERT INTO ledger.entry VALUES ($1, $2, $3, $4), ($1, $2, $5, $6)`, client, seq, first, -(seq % 5), second, seq%5)
		}
		batch.Queue(`UPDATE ledger.client SET seq = $2 WHERE id = $1`, client, seq)
		batch.Queue(`INSERT INTO ledger.journal VALUES ($1)`, fmt.Sprintf("client %d line %d", client, seq/2)) // every line twice
		if seq%20 == 0 {
			batch.Queue(`DELETE FROM ledger.journal WHERE ctid = (SELECT ctid FROM ledger.journal WHERE line = $1 LIMIT 1)`,
				fmt.Sprintf("client %d line %d", client, seq/2-5))
		}
		batch.Queue(`SELECT nextval('ledger.ticket')`)
		return tx.SendBatch(ctx, batch).Close()
	})
}

// verify checks on the target alone that every acknowledged transaction is there, once and whole.
func (l *ledger) verify(t *testing.T, target *pgtest.Database) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for client, acked := range l.acked {
		if seq := target.Int(t, `SELECT seq FROM ledger.client WHERE id = $1`, client); seq < acked {
			t.Errorf("client %d: transaction %d was acknowledged, the target knows %d", client, acked, seq)
		}
	}
	if len(l.acked) == 0 {
		t.Error("no transaction was acknowledged: the writers did not run")
	}
	if half := target.Strings(t, `SELECT client, seq FROM ledger.entry GROUP BY 1, 2 HAVING sum(amount) <> 0 OR count(*) <> 2`); len(half) > 0 {
		t.Errorf("transactions applied by half: %v", half)
	}
	if sum := target.Int(t, `SELECT sum(a.balance - 1000 - coalesce(e.sum, 0))::bigint FROM ledger.account a
		LEFT JOIN (SELECT account, sum(amount) FROM ledger.entry GROUP BY 1) e ON e.account = a.id`); sum != l.unpaired(t, target) {
		t.Errorf("balances and entries differ by %d", sum)
	}
}

// unpaired is what transactions with one account only moved.
func (l *ledger) unpaired(t *testing.T, target *pgtest.Database) int64 {
	t.Helper()
	var sum int64
	for client := range 16 {
		seq := target.Int(t, `SELECT seq FROM ledger.client WHERE id = $1`, client+1)
		for s := int64(1); s <= seq; s++ {
			if (s*7+int64(client+1))%200 == (s*13+int64(client+1)*3)%200 {
				sum -= s % 5
			}
		}
	}
	return sum
}

// count is how many transactions were acknowledged so far.
func (l *ledger) count() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var sum int64
	for _, n := range l.acked {
		sum += n
	}
	return sum
}
