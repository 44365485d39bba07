package snapshot

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// DefaultRetryFor is how long a part is tried again after errors that may pass.
const DefaultRetryFor = 5 * time.Minute

// Config of a Copier.
type Config struct {
	// Source and Target name their databases.
	Source, Target postgres.Endpoint
	// Session is shown after "slipway/" as application_name of all sessions; default "copy".
	Session string
	// Snapshot is the exported snapshot that everything is read under. It has to live until the first session of the
	// Copier is inside it; from then on any one of them keeps it.
	Snapshot string
	// Parts are those that are not recorded yet, in any order; see PlanParts.
	Parts []Part
	// Recorder keeps the state of parts in the target database.
	Recorder Recorder
	// SameMajor tells that both servers are of one major version, which lets rows travel in binary where every column
	// allows it.
	SameMajor bool
	// Jobs is the number of workers, each with a session on either side; default 4.
	Jobs int
	// MaxRowsPerSecond holds all workers together to a speed; 0 is no limit.
	MaxRowsPerSecond int64
	// RetryFor bounds how long a part is tried again after errors that may pass; default DefaultRetryFor.
	RetryFor time.Duration
	// PartDone and TableDone are called after a commit, from the goroutine of a worker: a part with its rows and bytes,
	// and a table when the last of its Parts is in. Either may be nil.
	PartDone  func(p Part, rows, bytes int64)
	TableDone func(t *schema.Table)
}

// Copier copies the parts of a plan.
type Copier struct {
	config Config
	names  *names
	queue  *queue
	limit  *limiter
	stats  *counters

	mu    sync.Mutex
	files map[*schema.Table]string // where the rows of a split table were read from
}

// New makes a Copier; nothing happens before Run.
func New(config Config) (*Copier, error) {
	if config.Snapshot == "" || config.Recorder == nil {
		return nil, errors.New("snapshot: a Copier needs Snapshot and Recorder")
	}
	if config.Jobs <= 0 {
		config.Jobs = 4
	}
	if config.Session == "" {
		config.Session = "copy"
	}
	if config.RetryFor <= 0 {
		config.RetryFor = DefaultRetryFor
	}
	for _, p := range config.Parts {
		if p.Table == nil || p.Number < 1 || p.Number > p.Of || p.Of > 1 && !p.Plain {
			return nil, fmt.Errorf("snapshot: invalid part %d of %d", p.Number, p.Of)
		}
	}
	return &Copier{
		config: config,
		names:  &names{list: []string{config.Snapshot}},
		queue:  newQueue(makeItems(config.Parts), config.Jobs),
		limit:  newLimiter(config.MaxRowsPerSecond),
		stats:  newCounters(config.Parts),
		files:  map[*schema.Table]string{},
	}, nil
}

// SetJobs changes the number of workers. Surplus ones end after the part that they are at.
func (c *Copier) SetJobs(jobs int) { c.queue.setJobs(max(jobs, 1)) }

// SetMaxRowsPerSecond changes the limit; 0 is none.
func (c *Copier) SetMaxRowsPerSecond(rows int64) { c.limit.set(rows) }

// Run copies all parts and returns when they are committed and durable, or with the first error that does not pass: a
// *PartError, ErrSnapshotLost, or the cause of ctx. It runs once.
func (c *Copier) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.staff(ctx, group) })
	return group.Wait()
}

// staff keeps as many workers as are wanted until all parts are done.
func (c *Copier) staff(ctx context.Context, group *errgroup.Group) error {
	ended := make(chan int)
	running := map[int]bool{}
	defer func() {
		for len(running) > 0 {
			delete(running, <-ended)
		}
	}()
	for {
		wanted, changed := c.queue.wanted()
		if wanted == 0 {
			return nil
		}
		for id := range wanted {
			if !running[id] {
				running[id] = true
				group.Go(func() error {
					defer func() { ended <- id }()
					return c.work(ctx, id)
				})
			}
		}
		select {
		case id := <-ended:
			delete(running, id)
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// work is one worker: items from the queue until there are none for it.
func (c *Copier) work(ctx context.Context, id int) error {
	w := &worker{Copier: c, id: id}
	defer w.close(ctx)
	for {
		it, err := c.queue.take(ctx, id)
		if it == nil || err != nil {
			return err
		}
		if err := w.copy(ctx, it); err != nil {
			if err := w.retry(ctx, it, err); err != nil {
				return err
			}
			continue
		}
		c.finished(it)
	}
}

// finished tells everybody that the parts of an item are committed.
func (c *Copier) finished(it *item) {
	for i, p := range it.parts {
		last := c.stats.done(p, it.results[i])
		if c.config.PartDone != nil {
			c.config.PartDone(p, it.results[i].rows, it.results[i].bytes)
		}
		if last && c.config.TableDone != nil {
			c.config.TableDone(p.Table)
		}
	}
	c.queue.done()
}

// sameFile makes sure that all parts of a split table were read from one and the same file: after a rewrite in
// between, the rows are in other blocks.
func (c *Copier) sameFile(p Part, file string) error {
	if p.Of <= 1 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if first, ok := c.files[p.Table]; ok && first != file {
		return ErrRewritten
	}
	c.files[p.Table] = file
	return nil
}
