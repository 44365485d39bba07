package apply

import (
	"maps"
	"sync"
	"time"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// Counts are committed changes as the source made them, before folding.
type Counts struct {
	Inserts, Updates, Deletes, Truncates int64
}

// Changes is the number of all changes.
func (c Counts) Changes() int64 { return c.Inserts + c.Updates + c.Deletes + c.Truncates }

func (c *Counts) add(o Counts) {
	c.Inserts += o.Inserts
	c.Updates += o.Updates
	c.Deletes += o.Deletes
	c.Truncates += o.Truncates
}

// Stats tells how far an Applier has come since it was made.
type Stats struct {
	// Applied is the position up to which everything is committed on the target, Durable the one up to which it also
	// survives a crash of the target and is confirmed to the source.
	Applied, Durable postgres.LSN
	// CommitTime of the last applied transaction, by the source's clock; zero before the first.
	CommitTime   time.Time
	Transactions int64
	Counts
	// RowsPerSecond is the rate of the last seconds.
	RowsPerSecond float64
	// BatchBytes is the memory of the changes gathered and not yet written.
	BatchBytes int64
	// Replays is how often a batch had to be written change by change.
	Replays int64
}

// meter is the one place that the run's goroutine and readers of Stats share.
type meter struct {
	mu       sync.Mutex
	now      Stats
	perTable map[schema.Name]Counts

	rateSince time.Time // the window that RowsPerSecond is measured over, and the rows before it
	rateRows  int64
}

// rateWindow smooths RowsPerSecond.
const rateWindow = 2 * time.Second

func (m *meter) begin(start postgres.LSN) {
	m.now.Applied = start
	m.perTable = map[schema.Name]Counts{}
	m.rateSince = time.Now()
}

func (m *meter) stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.measure(time.Now())
	return m.now
}

// measure closes the rate's window when it is full. It runs at each look too, so that the rate of an idle stream
// falls to zero.
func (m *meter) measure(now time.Time) {
	elapsed := now.Sub(m.rateSince)
	if elapsed < rateWindow {
		return
	}
	rows := m.now.Changes()
	m.now.RowsPerSecond = float64(rows-m.rateRows) / elapsed.Seconds()
	m.rateSince, m.rateRows = now, rows
}

func (m *meter) tables() map[schema.Name]Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.perTable)
}

func (m *meter) gathered(bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.BatchBytes = int64(bytes)
}

func (m *meter) replayed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Replays++
}

func (m *meter) committed(b *batch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.BatchBytes = 0
	m.now.Transactions += int64(b.transactions)
	for name, counts := range b.counts {
		m.now.add(*counts)
		sum := m.perTable[name]
		sum.add(*counts)
		m.perTable[name] = sum
	}
	m.measure(time.Now())
}

func (m *meter) moved(k *marks) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Applied, m.now.Durable, m.now.CommitTime = k.applied, k.durable, k.appliedTime
}
