package snapshot

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/slipway-db/slipway/migrate/schema"
)

// Stats is the state of a copy at one moment. Rows and bytes are those of the COPY streams, what is in flight
// included.
type Stats struct {
	Rows, Bytes        int64
	Parts, PartsDone   int
	Tables, TablesDone int
	// Size and SizeDone are estimated bytes on the source's disk, for the share that is done.
	Size, SizeDone int64
	InFlight       []InFlight
	// Retries counts attempts that failed with errors that pass; LastError is the latest of them.
	Retries   int
	LastError error
}

// InFlight is what a worker copies now: one part, or several small tables of which First is one.
type InFlight struct {
	Worker      int
	First       Part
	Parts       int
	Rows, Bytes int64
	Since       time.Time
}

// TableStats is the committed part of one table.
type TableStats struct {
	Table            *schema.Table
	Rows, Bytes      int64
	Parts, PartsDone int
}

// counters are what Stats is made of.
type counters struct {
	mu       sync.Mutex
	tables   map[*schema.Table]*TableStats
	order    []*schema.Table
	inFlight map[int]*flight
	total    Stats
}

type flight struct {
	progress
	item  *item
	since time.Time
}

func newCounters(parts []Part) *counters {
	c := &counters{tables: map[*schema.Table]*TableStats{}, inFlight: map[int]*flight{}}
	for _, p := range parts {
		t := c.tables[p.Table]
		if t == nil {
			t = &TableStats{Table: p.Table}
			c.tables[p.Table] = t
			c.order = append(c.order, p.Table)
		}
		t.Parts++
		c.total.Size += p.Bytes
	}
	c.total.Parts, c.total.Tables = len(parts), len(c.order)
	return c
}

// begin counts an attempt until end takes it back; what it has committed comes by done.
func (c *counters) begin(worker int, it *item) *progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &flight{item: it, since: time.Now()}
	c.inFlight[worker] = f
	return &f.progress
}

func (c *counters) end(worker int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.inFlight, worker)
}

// done counts a committed part and tells whether it was the last one of its table.
func (c *counters) done(p Part, r result) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tables[p.Table]
	t.Rows += r.rows
	t.Bytes += r.bytes
	t.PartsDone++
	c.total.Rows += r.rows
	c.total.Bytes += r.bytes
	c.total.SizeDone += p.Bytes
	c.total.PartsDone++
	if t.PartsDone < t.Parts {
		return false
	}
	c.total.TablesDone++
	return true
}

func (c *counters) retried(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total.Retries++
	c.total.LastError = err
}

// Stats may be called at any time from any goroutine; it is cheap.
func (c *Copier) Stats() Stats {
	c.stats.mu.Lock()
	defer c.stats.mu.Unlock()
	s := c.stats.total
	for worker, f := range maps.All(c.stats.inFlight) {
		now := InFlight{
			Worker: worker, First: f.item.parts[0], Parts: len(f.item.parts), Since: f.since,
			Rows: f.rows.Load(), Bytes: f.bytes.Load(),
		}
		s.InFlight = append(s.InFlight, now)
		s.Rows += now.Rows
		s.Bytes += now.Bytes
	}
	slices.SortFunc(s.InFlight, func(a, b InFlight) int { return cmp.Compare(a.Worker, b.Worker) })
	return s
}

// TableStats lists what is committed of each table, in the order of Config.Parts.
func (c *Copier) TableStats() []TableStats {
	c.stats.mu.Lock()
	defer c.stats.mu.Unlock()
	list := make([]TableStats, len(c.stats.order))
	for i, t := range c.stats.order {
		list[i] = *c.stats.tables[t]
	}
	return list
}
