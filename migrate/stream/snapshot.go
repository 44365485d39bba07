package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/slipway-db/slipway/postgres"
)

// SlotOptions of CreateSlot. The zero value makes a permanent slot.
type SlotOptions struct {
	// Temporary makes a slot that goes with the snapshot's session (PostgreSQL 10).
	Temporary bool
	// Failover lets standbys keep the slot in step (PostgreSQL 17); earlier versions ignore it.
	Failover bool
	// Session names the connections, see postgres.Session; empty means "slot".
	Session string
	// Waiting is called every few seconds while the server waits for transactions that began before the slot; the
	// list may be empty, for example on a standby that waits for its primary. Nil: nobody looks.
	Waiting func([]Blocker)
	// WaitInterval is how often Waiting is called; 0 means 3 s.
	WaitInterval time.Duration
}

// Snapshot is what the database looked like at the position where a new slot begins: transactions that committed
// before ConsistentPoint are in it, the others will come through the slot, and none does both.
type Snapshot struct {
	// Name is for SET TRANSACTION SNAPSHOT, as long as the Snapshot is not closed or lost. Transactions that have
	// taken it keep it beyond that.
	Name            string
	ConsistentPoint postgres.LSN
	Slot            string

	conn    *pgconn.PgConn
	lost    chan struct{}
	unwatch context.CancelFunc
}

// CreateSlot makes a slot in the endpoint's database and exports the snapshot that goes with it. It waits for all
// transactions that write at the moment to end. When ctx ends before, no slot is left.
func CreateSlot(ctx context.Context, e postgres.Endpoint, name string, plugin Plugin, options SlotOptions) (*Snapshot, error) {
	if err := validSlotName(name); err != nil {
		return nil, err
	}
	if options.Session == "" {
		options.Session = "slot"
	}
	control, err := e.Connect(ctx, postgres.Session{Name: options.Session})
	if err != nil {
		return nil, err
	}
	defer control.Close(context.WithoutCancel(ctx))
	// A slot that is there before us must not fall victim to our own cleaning up.
	before, err := InspectSlot(ctx, control, name)
	if err != nil {
		return nil, err
	}
	if before.Exists {
		return nil, &SlotError{Slot: name, State: ErrSlotExists}
	}
	version, err := postgres.ServerVersion(control)
	if err != nil {
		return nil, err
	}
	conn, err := e.ConnectReplication(ctx, options.Session)
	if err != nil {
		return nil, err
	}
	snapshot, err := createSlot(ctx, control, conn, creation{name, plugin, version, options})
	if err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	snapshot.watch()
	return snapshot, nil
}

// creation is what to create.
type creation struct {
	name    string
	plugin  Plugin
	version postgres.Version
	options SlotOptions
}

func (c creation) command() string {
	sql := "CREATE_REPLICATION_SLOT " + postgres.QuoteIdent(c.name)
	if c.options.Temporary {
		sql += " TEMPORARY"
	}
	sql += " LOGICAL " + postgres.QuoteIdent(string(c.plugin))
	switch {
	case c.version.AtLeast(17) && c.options.Failover && !c.options.Temporary:
		sql += " (SNAPSHOT 'export', FAILOVER true)"
	case c.version.AtLeast(15):
		sql += " (SNAPSHOT 'export')"
	case c.version.AtLeast(10):
		sql += " EXPORT_SNAPSHOT"
	}
	return sql // before 10 it always exports
}

func createSlot(ctx context.Context, control *pgx.Conn, conn *pgconn.PgConn, c creation) (*Snapshot, error) {
	if c.options.Temporary && !c.version.AtLeast(10) {
		return nil, fmt.Errorf("create slot %q: PostgreSQL %s has no temporary slots", c.name, c.version)
	}
	if err := pinWalsender(ctx, conn, c.version); err != nil {
		return nil, err
	}
	results, err := c.run(ctx, control, conn)
	if err != nil {
		return nil, err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 3 {
		return nil, fmt.Errorf("create slot %q: %w", c.name, ErrProtocol)
	}
	row := results[0].Rows[0]
	point, err := postgres.ParseLSN(string(row[1]))
	if err != nil {
		return nil, fmt.Errorf("create slot %q: %w", c.name, err)
	}
	return &Snapshot{Name: string(row[2]), ConsistentPoint: point, Slot: c.name, conn: conn, lost: make(chan struct{})}, nil
}

type execution struct {
	results []*pgconn.Result
	err     error
}

// run executes the command, tells who holds it up, and cancels it in the server when ctx ends: closing the
// connection alone would leave the server waiting, with the slot half made.
func (c creation) run(ctx context.Context, control *pgx.Conn, conn *pgconn.PgConn) ([]*pgconn.Result, error) {
	done := make(chan execution, 1)
	running := context.WithoutCancel(ctx)
	go func() {
		results, err := conn.Exec(running, c.command()).ReadAll()
		done <- execution{results, err}
	}()
	interval := c.options.WaitInterval
	if interval == 0 {
		interval = 3 * time.Second
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case x := <-done:
			if postgres.Code(x.err) == "42710" {
				return nil, &SlotError{Slot: c.name, State: ErrSlotExists, Err: x.err}
			}
			if x.err != nil {
				return nil, fmt.Errorf("create slot %q: %w", c.name, x.err)
			}
			return x.results, nil
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), c.cancel(running, control, conn, done))
		case <-tick.C:
			if c.options.Waiting == nil {
				continue
			}
			blockers, err := blockers(ctx, control, conn.PID())
			if err != nil && ctx.Err() == nil {
				return nil, errors.Join(err, c.cancel(running, control, conn, done))
			}
			c.options.Waiting(blockers)
		}
	}
}

// cancelPatience bounds how long cleaning up after a cancel may take.
const cancelPatience = 15 * time.Second

// cancel makes sure that no slot is left. It works after ctx has ended, with a deadline of its own.
func (c creation) cancel(ctx context.Context, control *pgx.Conn, conn *pgconn.PgConn, done <-chan execution) error {
	ctx, stop := context.WithTimeout(ctx, cancelPatience)
	defer stop()
	var x execution
	if err := conn.CancelRequest(ctx); err != nil {
		_ = conn.Conn().Close() // the way left to make the execution return
	}
	select {
	case x = <-done:
	case <-ctx.Done():
		_ = conn.Conn().Close()
		x = <-done
	}
	if x.err != nil && postgres.Code(x.err) != "" {
		return nil // the server took everything back
	}
	// It was made all the same, or the connection broke and nobody knows.
	_ = conn.Close(ctx)
	if control.IsClosed() {
		return fmt.Errorf("slot %q may be left behind: the connection is lost", c.name)
	}
	return DropSlot(ctx, control, c.name)
}

// watch notices the end of the session. It only listens: the next command on the connection would end the snapshot.
func (s *Snapshot) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	s.unwatch = cancel
	go func() {
		defer close(s.lost)
		for s.conn.WaitForNotification(ctx) == nil {
			continue // nobody notifies us, and it would not matter
		}
	}()
}

// Lost is closed when the exporting session has ended, by Close or because the connection or the server died: then
// the name can no longer be used, and a temporary slot is gone.
func (s *Snapshot) Lost() <-chan struct{} { return s.lost }

// Close ends the exporting session. A permanent slot stays.
func (s *Snapshot) Close(ctx context.Context) error {
	s.unwatch()
	<-s.lost
	if err := s.conn.Close(ctx); err != nil && !postgres.ConnectionLost(err) {
		return fmt.Errorf("close snapshot %q: %w", s.Name, err)
	}
	return nil
}
