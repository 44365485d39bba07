// Package apply writes the transactions of a stream to the target, each exactly once.
//
// One target transaction holds the effects of one or more whole source transactions together with the statement that
// records their position, so that both are there or neither is. Consecutive changes are folded per row and written as
// one statement per table and kind; when such a statement does not do exactly what it should, the batch is rolled back
// and written change by change, in the source's order, so that the change at fault is named. Nothing is skipped: a
// change that cannot be applied stops the Applier with a *Conflict or a *Drift.
package apply

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// Table says where the changes of one source table go.
type Table struct {
	Target schema.Name
	// Identity and IdentityColumns are the replica identity on the source. They are needed where the stream does not
	// tell (test_decoding); what the stream tells counts more.
	Identity        schema.Identity
	IdentityColumns []string
	// CopyLSN is the consistent point of the snapshot that the table was copied under: transactions whose commit
	// record begins below it are in the copy, and their changes of this table are passed over.
	CopyLSN postgres.LSN
}

// Recorder stores the position in the target's own transaction.
type Recorder interface {
	// Record returns the statement that stores the position and the time of the last commit (zero when there was
	// none yet). It must affect exactly one row; anything else means that another runner took over.
	Record(lsn postgres.LSN, commitTime time.Time) (sql string, args []any)
}

// Source delivers the changes in commit order; stream.Reader is one.
type Source interface {
	// Next blocks until there is at least one event. The events are valid until the next call.
	Next(ctx context.Context) ([]stream.Event, error)
	// Confirm says that everything up to the position is durable on the target.
	Confirm(lsn postgres.LSN)
}

// Config of an Applier. Connect, Tables, Recorder and Source are required.
type Config struct {
	// Connect opens the target session, with the settings of postgres.Endpoint.Connect pinned. It is called once.
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// Tables by the name on the source. A change of a table that is neither here nor in Ignore stops the Applier.
	Tables map[schema.Name]Table
	Ignore map[schema.Name]bool

	Recorder Recorder
	Source   Source

	// Start is the position that the target's record holds: transactions up to it are on the target, and when the
	// source sends them again they are passed over.
	Start postgres.LSN
	// ReplicaRole says that the target session may set session_replication_role to replica, so that triggers, rules
	// and foreign keys do not fire. Without it a table with enabled triggers or rules is refused.
	ReplicaRole bool

	// BatchTransactions (default 1000) and BatchBytes (default 4 MiB) bound what one target transaction gathers. A
	// source transaction above BatchBytes is written in pieces within one target transaction.
	BatchTransactions int
	BatchBytes        int
	// SetFrom (default 32) is how many rows of a table it takes in a batch for them to be written as sets; fewer are
	// cheaper one by one, with statements that are planned already.
	SetFrom int
	// BatchDelay (default 10 ms) is how long a batch may wait for more.
	BatchDelay time.Duration
	// BarrierInterval (default 1 s) is how often what was committed is made durable and confirmed to the source.
	BarrierInterval time.Duration
}

const (
	defaultBatchTransactions = 1000
	defaultBatchBytes        = 4 << 20
	defaultSetFrom           = 32
	defaultBatchDelay        = 10 * time.Millisecond
	defaultBarrierInterval   = time.Second
)

func (c *Config) setDefaults() {
	if c.BatchTransactions <= 0 {
		c.BatchTransactions = defaultBatchTransactions
	}
	if c.BatchBytes <= 0 {
		c.BatchBytes = defaultBatchBytes
	}
	if c.SetFrom <= 0 {
		c.SetFrom = defaultSetFrom
	}
	if c.BatchDelay <= 0 {
		c.BatchDelay = defaultBatchDelay
	}
	if c.BarrierInterval <= 0 {
		c.BarrierInterval = defaultBarrierInterval
	}
}

// Applier applies one stream to one target database. Run may be called once; after an error the caller reads the
// recorded position and makes a new Applier with it as Start.
type Applier struct {
	config Config
	meter  meter

	mu   sync.Mutex
	stop *postgres.LSN // nil: until the context ends
	wake chan struct{} // holds a token when stop has changed
}

// New returns an Applier that has not begun yet.
func New(config Config) *Applier {
	config.setDefaults()
	a := &Applier{config: config, wake: make(chan struct{}, 1)}
	a.meter.begin(config.Start)
	return a
}

// StopAt asks Run to return nil once everything up to lsn is applied, durable and confirmed. It may be called before
// or while Run runs, and again with another position.
func (a *Applier) StopAt(lsn postgres.LSN) {
	a.mu.Lock()
	a.stop = &lsn
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default: // a token is waiting already
	}
}

func (a *Applier) stopAt() (lsn postgres.LSN, set bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stop == nil {
		return 0, false
	}
	return *a.stop, true
}

// Stats is a snapshot of the counters, safe to call at any time.
func (a *Applier) Stats() Stats { return a.meter.stats() }

// TableStats counts the committed changes per source table, safe to call at any time.
func (a *Applier) TableStats() map[schema.Name]Counts { return a.meter.tables() }

// Run applies until the position of StopAt is reached (nil), the context ends (its cause) or something fails. What was
// not committed by then leaves no trace on the target. postgres.Retryable tells whether a new Applier may succeed.
func (a *Applier) Run(ctx context.Context) error {
	session, err := openSession(ctx, &a.config)
	if err != nil {
		return err
	}
	defer session.close(ctx)
	targets, err := loadTargets(ctx, session.conn, a.config.Tables, a.config.ReplicaRole)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	feed := startFeed(ctx, a.config.Source)
	defer feed.wait()
	defer cancel()
	r := &runner{
		applier: a, config: &a.config, session: session, feed: feed,
		binder: newBinder(&a.config, targets),
		writer: newWriter(session, a.config.SetFrom),
		marks:  newMarks(a.config.Start),
	}
	return r.run(ctx)
}
