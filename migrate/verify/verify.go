// Package verify proves that a target holds what its source holds: structure, row counts and every row. Fingerprints
// are computed inside the servers, differing chunks are narrowed to rows and columns, and a part that could not be
// compared is an error, never "same". While changes still stream, a row counts as different only with a proof that
// no change on its way can explain the difference.
//
// The package shares no code with the one that moves rows, so that a fault there cannot hide itself here.
package verify

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// Mode says how much is compared.
type Mode string

// The modes.
const (
	Full      Mode = "full"      // every row of every table
	Sample    Mode = "sample"    // a chosen share of the chunks of every table
	Rows      Mode = "rows"      // the number of rows of every table
	Structure Mode = "structure" // definitions only
)

// Connector opens a session with all settings of postgres.Endpoint.Connect; name becomes part of application_name.
type Connector func(ctx context.Context, name string) (*pgx.Conn, error)

// TablePair is one relation on both sides.
type TablePair struct {
	Source *schema.Table
	Target schema.Name
}

// Config says what is compared and how. Run fills the zero values with the defaults named here.
type Config struct {
	Source, Target Connector
	Tables         []TablePair
	Mode           Mode // default Full
	// SampleRate is the share of chunks to compare in percent, above 0 and up to 100; only for Sample.
	SampleRate float64
	// Seed chooses the chunks of a sample: the same seed on the same rows compares the same chunks. 0 takes one from
	// the clock; the report names it.
	Seed uint64
	// Threads is how many chunks are compared at a time, 1 to 8 (default the number of CPU cores, at most 4). Each
	// takes one session per side, and a second one while it looks into a difference.
	Threads int
	// ChunkRows is about how many rows one query reads (default 20,000).
	ChunkRows int

	// Applied reports the source position up to which the target has applied everything; false when the target does
	// not know one. It is read from the target and may be called from several goroutines, one at a time. Nil says that
	// nothing streams and both sides are at rest.
	Applied func(ctx context.Context) (postgres.LSN, bool, error)
	// Recheck is how many proofs a difference needs while changes stream (default 3), RecheckInterval the pause
	// between two looks at rows that are being written (default 500 ms).
	Recheck         int
	RecheckInterval time.Duration
	// ApplyTimeout bounds one wait for the target to apply what the source had (default 2 minutes). When it passes,
	// the chunk is an error.
	ApplyTimeout time.Duration

	// MaxDifferences is how many differences are listed per table (default 100); counting goes on.
	MaxDifferences int
	// Progress is told after each chunk, from one goroutine at a time. It must not block.
	Progress func(Progress)

	// Definitions compares the structure too; nil leaves it out. Mode Structure needs it.
	Definitions *Definitions
	// Sequences are compared by their values, with large objects, only when nothing streams, because a stream does not
	// carry them.
	Sequences    []SequencePair
	LargeObjects bool
}

// SequencePair is one sequence on both sides.
type SequencePair struct{ Source, Target schema.Name }

// Progress is what was done so far.
type Progress struct {
	// Table is the relation that a chunk was just compared of.
	Table                     schema.Name
	TablesDone, TablesTotal   int
	Chunks, Rows, Differences int64 // rows as counted on the source
}

const (
	maxThreads            = 8
	defaultChunkRows      = 20_000
	defaultRecheck        = 3
	defaultInterval       = 500 * time.Millisecond
	defaultApplyTimeout   = 2 * time.Minute
	defaultMaxDifferences = 100
)

// Validate tells what of the configuration cannot be, before anything is opened.
func (c *Config) Validate() error {
	switch {
	case c.Source == nil || c.Target == nil:
		return errors.New("compare needs a source and a target")
	case c.Threads < 0 || c.Threads > maxThreads:
		return fmt.Errorf("threads %d: want 1 to %d", c.Threads, maxThreads)
	case c.ChunkRows < 0 || c.Recheck < 0 || c.MaxDifferences < 0 || c.RecheckInterval < 0 || c.ApplyTimeout < 0:
		return errors.New("compare: a negative limit")
	}
	switch c.Mode {
	case "", Full, Rows:
	case Sample:
		if !(c.SampleRate > 0 && c.SampleRate <= 100) {
			return fmt.Errorf("sample rate %v: want more than 0 and at most 100 percent", c.SampleRate)
		}
	case Structure:
		if c.Definitions == nil {
			return errors.New("mode structure needs the definitions to compare")
		}
	default:
		return fmt.Errorf("unknown mode %q: want full, sample, rows or structure", c.Mode)
	}
	return nil
}

func (c *Config) setDefaults() {
	if c.Mode == "" {
		c.Mode = Full
	}
	if c.Threads == 0 {
		c.Threads = min(runtime.NumCPU(), 4)
	}
	if c.Seed == 0 {
		c.Seed = uint64(time.Now().UnixNano())
	}
	orDefault(&c.ChunkRows, defaultChunkRows)
	orDefault(&c.Recheck, defaultRecheck)
	orDefault(&c.RecheckInterval, defaultInterval)
	orDefault(&c.ApplyTimeout, defaultApplyTimeout)
	orDefault(&c.MaxDifferences, defaultMaxDifferences)
}

func orDefault[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}

// run is one comparison.
type run struct {
	Config
	source, target *side
	fence          *fence // nil when nothing streams
	queue          *queue

	mu       sync.Mutex // guards the fields below and every table's result
	progress Progress
}

// Run compares. The error is about the call itself (configuration, cancelled context, no session on one side); what
// could not be compared is in the report, whose Result is then Failed. With a cancelled context the report holds what
// was done, also as Failed.
func Run(ctx context.Context, config Config) (*Report, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	config.setDefaults()
	report := &Report{Mode: config.Mode, Live: config.Applied != nil, Started: time.Now()}
	if config.Mode == Sample {
		report.Seed, report.SampleRate = config.Seed, config.SampleRate
	}
	r := &run{Config: config}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	if config.Definitions != nil {
		r.compareStructure(ctx, report)
	}
	if config.Mode != Structure {
		r.compareTables(ctx, report)
		r.compareSequences(ctx, report)
		r.compareLargeObjects(ctx, report)
	}
	report.Finished = time.Now()
	report.conclude()
	if err := context.Cause(ctx); err != nil {
		report.Result = Failed
		return report, fmt.Errorf("compare: %w", err)
	}
	return report, nil
}

// open learns what both servers are.
func (r *run) open(ctx context.Context) error {
	r.source = &side{name: "source", connect: r.Source}
	r.target = &side{name: "target", connect: r.Target}
	for _, s := range []*side{r.source, r.target} {
		if err := s.identify(ctx); err != nil {
			return err
		}
	}
	if r.Applied != nil {
		r.fence = &fence{applied: r.Applied, timeout: r.ApplyTimeout}
	}
	return nil
}

// compareTables compares the rows of all tables with a pool of lanes that pull chunks from one queue.
func (r *run) compareTables(ctx context.Context, report *Report) {
	tables := make([]*table, len(r.Tables))
	for i, pair := range r.Tables {
		tables[i] = newTable(r, pair)
	}
	r.progress.TablesTotal = len(tables)
	if len(tables) == 0 {
		report.Errors = append(report.Errors, "no table was given to compare")
	}
	r.queue = newQueue()
	if err := r.describeTables(ctx, tables); err != nil {
		for _, t := range tables {
			t.fail(err)
		}
	} else {
		// The largest tables start first, so that no single one is left running at the end.
		for _, t := range bySize(tables) {
			t.plan()
		}
		r.queue.work(ctx, r.Threads, func() *lane { return newLane(r) })
	}
	for _, t := range tables {
		report.Tables = append(report.Tables, t.finish(context.Cause(ctx)))
	}
}

// tell adds one compared chunk to the progress.
func (r *run) tell(t *table, rows int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress.Table = t.source.name
	r.progress.Chunks++
	r.progress.Rows += rows
	if r.Progress != nil {
		r.Progress(r.progress)
	}
}
