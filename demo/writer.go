package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-db/slipway/postgres"
)

const (
	// writers is how many sessions our own writer has, writerPace the time from one transaction of a session to the
	// next.
	writers    = 3
	writerPace = 15 * time.Millisecond
	// accounts and products are as many as shop.sql makes; toastEvery is the distance of products with a large
	// description.
	accounts, products, toastEvery = 400, 3000, 8
	// bulkRows is the size of the one large transaction.
	bulkRows = 50_000
)

// receiptKey names a transaction of the writer.
type receiptKey struct {
	writer int
	number int64
}

// receipt is what a transaction wrote into its row of shop.receipt.
type receipt struct {
	token  string
	amount int64
}

// writer plays the application: sessions whose transactions touch several tables, and the memory of every transaction
// that the source has acknowledged.
type writer struct {
	connect  func(ctx context.Context) (*pgx.Conn, error)
	group    *errgroup.Group
	stopping context.CancelFunc
	bulk     chan struct{} // a token makes the next transaction the large one
	failed   <-chan struct{}

	mu           sync.Mutex
	acknowledged map[receiptKey]receipt
}

// startWriter begins to write; stop ends it.
func startWriter(ctx context.Context, connect func(context.Context) (*pgx.Conn, error)) *writer {
	ctx, cancel := context.WithCancel(ctx)
	group, groupCtx := errgroup.WithContext(ctx)
	w := &writer{
		connect: connect, group: group, stopping: cancel, bulk: make(chan struct{}, 1), failed: groupCtx.Done(),
		acknowledged: map[receiptKey]receipt{},
	}
	for id := range writers {
		group.Go(func() error { return w.session(groupCtx, id) })
	}
	return w
}

// stop lets each session finish its transaction, and returns when all have. The error is the first that a session had.
func (w *writer) stop() error {
	w.stopping()
	return w.group.Wait()
}

// count is how many transactions were acknowledged so far.
func (w *writer) count() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int64(len(w.acknowledged))
}

// session writes until ctx ends. A transaction that has begun runs to its end, so that its outcome is known.
func (w *writer) session(ctx context.Context, id int) error {
	whole := context.WithoutCancel(ctx)
	conn, err := w.connect(ctx)
	if err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	defer conn.Close(whole)
	pace := time.NewTicker(writerPace)
	defer pace.Stop()
	for number := int64(1); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-pace.C:
		}
		r := receipt{token: rand.Text(), amount: number % 7}
		err := w.transact(whole, conn, receiptKey{id, number}, r)
		switch {
		case err == nil:
			w.remember(receiptKey{id, number}, r)
			number++
		case postgres.Retryable(err) && !postgres.ConnectionLost(err): // a deadlock: it has had no effect
		default:
			return fmt.Errorf("writer %d, transaction %d: %w", id, number, err)
		}
	}
}

func (w *writer) remember(key receiptKey, r receipt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acknowledged[key] = r
}

// transact moves an amount between two accounts, leaves a receipt, and does one more thing by its number.
func (w *writer) transact(ctx context.Context, conn *pgx.Conn, key receiptKey, r receipt) error {
	a, b := account(key.number*7+int64(key.writer)), account(key.number*13+200+int64(key.writer))
	batch := &pgx.Batch{}
	// In one order, so that sessions rarely wait for each other in a circle.
	batch.Queue(`UPDATE shop.account SET balance = balance - $2 WHERE id = $1`, min(a, b), r.amount)
	batch.Queue(`UPDATE shop.account SET balance = balance + $2 WHERE id = $1`, max(a, b), r.amount)
	batch.Queue(`INSERT INTO shop.receipt (writer, number, token, amount) VALUES ($1, $2, $3, $4)`, key.writer, key.number, r.token, r.amount)
	batch.Queue(`UPDATE shop.writer SET acted = $2 WHERE id = $1`, key.writer, key.number)
	select {
	case <-w.bulk:
		batch.Queue(`INSERT INTO shop.bulk (content) SELECT md5(i::text) FROM generate_series(1, $1::integer) i`, bulkRows)
		batch.Queue(`UPDATE shop.bulk SET content = content || ' changed' WHERE id % 10 = 0`)
	default:
		actions[key.number%int64(len(actions))](batch, key)
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return tx.SendBatch(ctx, batch).Close() })
}

func account(n int64) int64 { return n%accounts + 1 }

// hitAction is the place of hitOfTheDay in actions; every truncateEvery transactions it also empties the table.
const hitAction, truncateEvery = 8, 9 * 20

// actions are what a transaction does besides moving money, in turn. Each takes rows that no other session takes.
var actions = []func(*pgx.Batch, receiptKey){
	takeOrder, sellProduct, describeProduct, renameCoupon, deleteOrder, writeLog, visitPage, changeObject, hitOfTheDay,
}

// takeOrder inserts into two tables, with a trigger that updates the first.
func takeOrder(b *pgx.Batch, key receiptKey) {
	b.Queue(`WITH made AS (INSERT INTO shop.orders (customer) VALUES ($1) RETURNING id)
		INSERT INTO shop.order_line SELECT id, line, 1 + line * 7, line, 9.99 FROM made, generate_series(1, 3) line`, 1+key.number%1000)
}

// toasted is a product with a large description.
func toasted(key receiptKey) int64 {
	return toastEvery * (1 + (key.number*writers+int64(key.writer))%(products/toastEvery))
}

// sellProduct leaves the large column as it is: the stream does not carry its value.
func sellProduct(b *pgx.Batch, key receiptKey) {
	b.Queue(`UPDATE shop.product SET stock = stock - 1 WHERE id = $1`, toasted(key))
}

// describeProduct changes the large column.
func describeProduct(b *pgx.Batch, key receiptKey) {
	b.Queue(`UPDATE shop.product SET description = reverse(description) || $2 WHERE id = $1`, toasted(key), fmt.Sprint(key.number))
}

// renameCoupon changes a primary key.
func renameCoupon(b *pgx.Batch, key receiptKey) {
	b.Queue(`UPDATE shop.coupon SET code = $2, uses = uses + 1
		WHERE code = (SELECT min(code) FROM shop.coupon WHERE starts_with(code, $1))`,
		fmt.Sprintf("w%d/", key.writer), fmt.Sprintf("w%d/new %d", key.writer, key.number))
}

// deleteOrder takes the order's lines along.
func deleteOrder(b *pgx.Batch, key receiptKey) {
	b.Queue(`DELETE FROM shop.orders WHERE id = (SELECT min(id) FROM shop.orders WHERE id % $1 = $2)`, writers+1, key.writer)
}

// writeLog adds two equal rows to the table without a key and takes one away.
func writeLog(b *pgx.Batch, key receiptKey) {
	line := fmt.Sprintf("line %d", key.number)
	b.Queue(`INSERT INTO shop."event log" VALUES ('2026-03-01', $1, $2), ('2026-03-01', $1, $2)`, key.writer, line)
	b.Queue(`DELETE FROM shop."event log" WHERE ctid = (SELECT ctid FROM shop."event log" WHERE writer = $1 AND line = $2 LIMIT 1)`, key.writer, line)
}

// visitPage inserts into one partition and moves the row to another.
func visitPage(b *pgx.Batch, key receiptKey) {
	at := time.Date(2026, 7, 1+key.writer, 0, 0, 0, 0, time.UTC).Add(time.Duration(key.number) * time.Second)
	b.Queue(`INSERT INTO shop.visit VALUES ($1, $2, 'phone', '/new'), ($1, $2, 'tablet', NULL)`, key.number, at)
	b.Queue(`UPDATE shop.visit SET device = 'desktop' WHERE customer = $1 AND at = $2 AND device = 'phone'`, key.number, at)
}

// changeObject writes into a large object, which no stream carries, and into a row of every type.
func changeObject(b *pgx.Batch, key receiptKey) {
	b.Queue(`SELECT lo_put($1::oid, $2::bigint, $3)`, 910001+key.writer, key.number*10, []byte("changed"))
	b.Queue(`UPDATE shop.every_type SET c_jsonb = jsonb_build_object('n', c_integer), c_numeric = c_numeric + 1 WHERE id = $1`,
		1+(key.number*writers+int64(key.writer))%400)
}

// hitOfTheDay fills a small table and, now and then, empties it. One session does it: TRUNCATE locks the table.
func hitOfTheDay(b *pgx.Batch, key receiptKey) {
	if key.writer != 0 {
		return
	}
	if key.number%truncateEvery == hitAction {
		b.Queue(`TRUNCATE shop.todays_hit`)
	}
	b.Queue(`INSERT INTO shop.todays_hit VALUES ($1, $2)`, key.number, 1+key.number%products)
}

// errLost says that an acknowledged transaction is not on the target, or not as it was.
var errLost = errors.New("the target does not hold what the source had acknowledged")

// verify reads the target alone: every acknowledged transaction must be there, with the values that it wrote, and
// none beside them; and money must have moved, neither come nor gone.
func (w *writer) verify(ctx context.Context, target *pgx.Conn) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	rows, err := target.Query(ctx, `SELECT writer, number, token, amount FROM shop.receipt`)
	if err != nil {
		return err
	}
	found, wrong := 0, 0
	var key receiptKey
	var r receipt
	_, err = pgx.ForEachRow(rows, []any{&key.writer, &key.number, &r.token, &r.amount}, func() error {
		found++
		if w.acknowledged[key] != r {
			wrong++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if found != len(w.acknowledged) || wrong > 0 {
		return fmt.Errorf("%w: %d acknowledged, %d found, %d of them wrong", errLost, len(w.acknowledged), found, wrong)
	}
	var balance, bulk int64
	err = target.QueryRow(ctx, `SELECT (SELECT sum(balance)::bigint FROM shop.account), (SELECT count(*) FROM shop.bulk)`).Scan(&balance, &bulk)
	if err != nil {
		return err
	}
	if balance != accounts*1000 || bulk != bulkRows {
		return fmt.Errorf("%w: accounts hold %d of %d, the large transaction has %d of %d rows", errLost, balance, accounts*1000, bulk, bulkRows)
	}
	return nil
}
