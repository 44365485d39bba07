package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// runner is one run of an Applier: it gathers events into batches and decides when a batch is written, when the
// target is made durable and when the end is reached. Everything below is touched by its goroutine only.
type runner struct {
	applier *Applier
	config  *Config
	session *session
	feed    *feed
	binder  *binder
	writer  *writer
	marks   *marks

	batch *batch
	tx    transaction
}

// transaction is the source transaction that is being received.
type transaction struct {
	open  bool
	begin postgres.LSN // where its commit record starts
	skip  bool         // it is on the target already
	first int          // of its changes in the batch; -1 when a part of it was written
}

// batch is what goes into the next target transaction.
type batch struct {
	changes      []change
	bytes        int
	transactions int // whole ones
	since        time.Time
	counts       map[schema.Name]*Counts
}

func newBatch() *batch { return &batch{counts: map[schema.Name]*Counts{}} }

func (b *batch) count(name schema.Name) *Counts {
	c, known := b.counts[name]
	if !known {
		c = &Counts{}
		b.counts[name] = c
	}
	return c
}

func (r *runner) run(ctx context.Context) error {
	r.batch = newBatch()
	for {
		if done, err := r.finish(ctx); done || err != nil {
			return err
		}
		events, err := r.receive(ctx)
		if err != nil {
			return err
		}
		if events == nil {
			if err := r.pause(ctx); err != nil {
				return err
			}
			continue
		}
		for i := range events {
			if err := r.handle(ctx, &events[i]); err != nil {
				return errors.Join(r.keepWhole(ctx, err), err)
			}
		}
		r.applier.meter.gathered(r.batch.bytes)
	}
}

// keepWhole commits what the batch holds of earlier transactions when the structure of a table has changed, so that the
// position stands right before the transaction that shows it: once the target has the same structure, it cannot take
// rows of the old one.
func (r *runner) keepWhole(ctx context.Context, cause error) error {
	if _, drifted := errors.AsType[*Drift](cause); !drifted || r.tx.first < 0 || r.batch.transactions == 0 {
		return nil
	}
	r.batch.changes = r.batch.changes[:r.tx.first]
	return r.commit(ctx)
}

// receive waits for events. It returns none when something else is to be looked at: a batch has waited long enough, a
// barrier is due, or the position to stop at has changed.
func (r *runner) receive(ctx context.Context) ([]stream.Event, error) {
	select {
	case events := <-r.feed.chunks: // what is there goes before any deadline
		return events, nil
	default:
	}
	var due <-chan time.Time
	if at, waiting := r.deadline(); waiting {
		timer := time.NewTimer(time.Until(at))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case events := <-r.feed.chunks:
		return events, nil
	case <-due:
		return nil, nil
	case <-r.applier.wake:
		return nil, nil
	case <-r.feed.done:
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("read the stream: %w", r.feed.err)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// deadline is when something has to be done although no event comes.
func (r *runner) deadline() (at time.Time, waiting bool) {
	switch {
	case r.tx.open: // the rest of the transaction comes first
		return time.Time{}, false
	case r.batch.transactions > 0:
		return r.batch.since.Add(r.config.BatchDelay), true
	case r.marks.unsettled():
		return r.marks.barrierAt.Add(r.config.BarrierInterval), true
	}
	return time.Time{}, false
}

// pause does what deadline had announced, if it is time.
func (r *runner) pause(ctx context.Context) error {
	at, waiting := r.deadline()
	if !waiting || time.Now().Before(at) {
		return nil
	}
	if r.batch.transactions > 0 {
		return r.commit(ctx)
	}
	return r.barrier(ctx)
}

// finish tells whether the position to stop at is reached, and makes it durable then.
func (r *runner) finish(ctx context.Context) (done bool, err error) {
	stop, set := r.applier.stopAt()
	if !set || r.tx.open || r.marks.received < stop {
		return false, nil
	}
	if r.batch.transactions > 0 {
		if err := r.commit(ctx); err != nil {
			return false, err
		}
	}
	if r.marks.unsettled() {
		if err := r.barrier(ctx); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (r *runner) handle(ctx context.Context, e *stream.Event) error {
	switch e.Kind {
	case stream.Begin:
		return r.begin(e)
	case stream.Commit:
		return r.end(ctx, e)
	case stream.Position:
		if r.tx.open {
			return fmt.Errorf("position %s inside a transaction: %w", e.LSN, ErrProtocol)
		}
		r.marks.position(e.LSN, r.batch.transactions == 0)
		r.applier.meter.moved(r.marks)
		return nil
	case stream.Insert, stream.Update, stream.Delete, stream.Truncate:
		if !r.tx.open {
			return fmt.Errorf("%s outside of a transaction: %w", kindName(e.Kind), ErrProtocol)
		}
		if r.tx.skip {
			return nil
		}
		return r.change(ctx, e)
	}
	return fmt.Errorf("%s: %w", kindName(e.Kind), ErrProtocol)
}

// begin decides whether the transaction is on the target already: its commit record starts below the position that we
// started at. As that position is a border between records, this says the same as the record's end, which is only
// known later.
func (r *runner) begin(e *stream.Event) error {
	if r.tx.open {
		return fmt.Errorf("a transaction begins at %s inside another: %w", e.LSN, ErrProtocol)
	}
	r.tx = transaction{open: true, begin: e.LSN, skip: e.LSN < r.config.Start, first: len(r.batch.changes)}
	return nil
}

func (r *runner) end(ctx context.Context, e *stream.Event) error {
	if !r.tx.open {
		return fmt.Errorf("commit at %s without a transaction: %w", e.LSN, ErrProtocol)
	}
	r.tx.open = false
	if r.tx.skip != (e.LSN <= r.config.Start) {
		return fmt.Errorf("the start position %s is inside of the commit record from %s to %s: %w",
			r.config.Start, r.tx.begin, e.LSN, ErrProtocol)
	}
	if r.tx.skip {
		return nil
	}
	if e.LSN <= r.marks.received {
		return fmt.Errorf("transaction that commits at %s comes after %s: %w", e.LSN, r.marks.received, ErrProtocol)
	}
	r.marks.commit(e.LSN, e.CommitTime)
	if r.batch.transactions == 0 && r.batch.since.IsZero() {
		r.batch.since = time.Now()
	}
	r.batch.transactions++
	if r.batch.transactions >= r.config.BatchTransactions || r.batch.bytes >= r.config.BatchBytes {
		return r.commit(ctx)
	}
	return nil
}

// change adds a change to the batch, and writes a piece of a large transaction when there is enough.
func (r *runner) change(ctx context.Context, e *stream.Event) error {
	added, err := r.bound(e)
	if err != nil || !added {
		return err
	}
	r.batch.bytes += max(e.Size, 1)
	if r.batch.bytes < r.config.BatchBytes {
		return nil
	}
	if err := r.write(ctx, nil); err != nil {
		return err
	}
	r.batch.changes, r.batch.bytes, r.tx.first = nil, 0, -1
	return nil
}

// bound binds a change and adds it, unless its table is ignored or its copy holds it already.
func (r *runner) bound(e *stream.Event) (added bool, err error) {
	if e.Kind == stream.Truncate {
		return r.truncate(e)
	}
	if e.Relation == nil {
		return false, fmt.Errorf("%s without a table: %w", kindName(e.Kind), ErrProtocol)
	}
	bind, err := r.binder.bind(e.Relation)
	if err != nil || bind == nil || r.tx.begin < bind.target.CopyLSN {
		return false, err
	}
	c, err := newChange(e, bind, r.tx.begin)
	if err != nil {
		return false, err
	}
	r.batch.changes = append(r.batch.changes, c)
	counts := r.batch.count(bind.target.source)
	switch e.Kind {
	case stream.Insert:
		counts.Inserts++
	case stream.Update:
		counts.Updates++
	case stream.Delete:
		counts.Deletes++
	}
	return true, nil
}

// truncate empties the chosen tables of the list and no others. A partitioned table has no rows of its own: its leaves
// are in the same list, unless it is a plain table on the source.
func (r *runner) truncate(e *stream.Event) (added bool, err error) {
	chosen, leaves := []*target{}, false
	for _, relation := range e.Relations {
		bind, err := r.binder.bind(relation)
		if err != nil {
			return false, err
		}
		if bind == nil {
			continue
		}
		leaves = leaves || bind.target.leaf
		if r.tx.begin >= bind.target.CopyLSN {
			chosen = append(chosen, bind.target)
		}
	}
	t := &truncation{restart: e.RestartIdentity}
	for _, target := range chosen {
		if target.partitioned && leaves {
			continue
		}
		t.tables = append(t.tables, target)
		r.batch.count(target.source).Truncates++
	}
	if len(t.tables) == 0 {
		return false, nil
	}
	r.batch.changes = append(r.batch.changes, change{kind: stream.Truncate, lsn: r.tx.begin, truncate: t})
	return true, nil
}

// write sends the changes gathered so far; with an end it commits.
func (r *runner) write(ctx context.Context, end *position) error {
	replayed, err := r.writer.write(ctx, r.batch.changes, end)
	if replayed {
		r.applier.meter.replayed()
	}
	return err
}

// commit ends the batch: its changes and its position in one target transaction, synchronous when a barrier is due.
func (r *runner) commit(ctx context.Context) error {
	if len(r.batch.changes) == 0 && !r.writer.open {
		return r.pass(ctx)
	}
	end := r.marks.end(r.config)
	if err := r.write(ctx, end); err != nil {
		return err
	}
	r.applier.meter.committed(r.batch)
	r.settle(end)
	r.batch = newBatch()
	return nil
}

// pass ends a batch of transactions that hold nothing for us (before PostgreSQL 15 the source sends all of them). They
// are treated like positions: their end is recorded by a barrier, not each time.
func (r *runner) pass(ctx context.Context) error {
	r.applier.meter.committed(r.batch)
	r.batch = newBatch()
	r.marks.pass()
	r.applier.meter.moved(r.marks)
	if r.marks.due(r.config) {
		return r.barrier(ctx)
	}
	return nil
}

// barrier records the position by itself and makes it and everything before it durable.
func (r *runner) barrier(ctx context.Context) error {
	end := r.marks.end(r.config)
	end.durable = true
	if _, err := r.writer.write(ctx, nil, end); err != nil {
		return err
	}
	r.settle(end)
	return nil
}

// settle moves the marks after a commit and confirms what has become durable.
func (r *runner) settle(end *position) {
	r.marks.committed(end)
	r.applier.meter.moved(r.marks)
	if end.durable {
		r.config.Source.Confirm(r.marks.durable)
	}
}

// marks are the positions of a run, each at most the one before it.
type marks struct {
	received postgres.LSN // end of the last whole transaction, or a position beyond it
	applied  postgres.LSN // everything up to here is committed on the target
	recorded postgres.LSN // what the target's record holds
	durable  postgres.LSN // what survives a crash of the target, and is confirmed

	commitTime  time.Time // of the last whole transaction received
	appliedTime time.Time // of the last one applied
	barrierAt   time.Time // of the last barrier
}

// newMarks starts from a record that may have been committed asynchronously by an earlier run, so the first barrier
// makes it durable even when nothing new comes.
func newMarks(start postgres.LSN) *marks {
	return &marks{received: start, applied: start, recorded: start, barrierAt: time.Now()}
}

// position moves on over what held nothing for us. With no transaction waiting it is applied at once, though it is only
// recorded with the next commit or barrier.
func (m *marks) position(lsn postgres.LSN, idle bool) {
	m.received = max(m.received, lsn)
	if idle {
		m.pass()
	}
}

func (m *marks) pass() { m.applied, m.appliedTime = m.received, m.commitTime }

// due tells whether it is time for a barrier.
func (m *marks) due(config *Config) bool { return time.Since(m.barrierAt) >= config.BarrierInterval }

func (m *marks) commit(lsn postgres.LSN, at time.Time) {
	m.received, m.commitTime = lsn, at
}

// unsettled tells whether a barrier would move anything: an idle stream with nothing new writes nothing.
func (m *marks) unsettled() bool { return m.applied > m.recorded || m.recorded > m.durable }

func (m *marks) end(config *Config) *position {
	return &position{
		lsn: m.received, commitTime: m.commitTime, recorder: config.Recorder,
		durable: m.due(config),
	}
}

func (m *marks) committed(end *position) {
	m.applied, m.recorded, m.appliedTime = end.lsn, end.lsn, end.commitTime
	if end.durable {
		m.durable, m.barrierAt = end.lsn, time.Now()
	}
}
