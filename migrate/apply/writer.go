package apply

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/slipway-db/slipway/postgres"
)

// writer writes batches into target transactions.
type writer struct {
	session *session
	setFrom int // fewer rows are written one by one
	// orderedFor holds, per table whose sets failed while its single changes went through, for how many more batches
	// it is written change by change: an order-sensitive load (unique values that wander between rows) tends to go on.
	orderedFor map[*target]int
	open       bool // a target transaction is open, with earlier pieces of a large source transaction
	saved      bool // and the last of them is under a savepoint

	pending []query
	bytes   int
}

// orderedBatches is how long a table stays with single changes.
const orderedBatches = 100

// windowBytes and windowQueries bound what is sent before its results are read.
const (
	windowBytes   = 2 << 20
	windowQueries = 2000
)

func newWriter(s *session, setFrom int) *writer {
	return &writer{session: s, setFrom: setFrom, orderedFor: map[*target]int{}}
}

// position is what the end of a batch records.
type position struct {
	lsn        postgres.LSN
	commitTime time.Time
	recorder   Recorder
	durable    bool // commit synchronously, which makes everything before durable too
}

// write writes the changes into the open target transaction, or a new one. With an end it records the position and
// commits. It tells whether the changes had to be written one by one.
func (w *writer) write(ctx context.Context, changes []change, end *position) (replayed bool, err error) {
	p := w.begin()
	steps := fold(changes, w.isOrdered)
	err = w.attempt(ctx, p.before, end, func() error { return w.addSteps(ctx, steps) })
	failed, isFailure := errors.AsType[*failure](err)
	if isFailure && failed.query.target != nil && !postgres.Retryable(failed.err) {
		replayed = true
		if _, err := w.session.exec(ctx, p.undo); err != nil {
			return replayed, fmt.Errorf("roll back a batch: %w", err)
		}
		err = w.attempt(ctx, p.again, end, func() error { return w.addSingly(ctx, changes) })
		if err == nil {
			w.orderedFor[failed.query.target] = orderedBatches
		}
	}
	if err != nil {
		return replayed, w.explain(err)
	}
	w.ageOrdered()
	if end == nil {
		return replayed, nil
	}
	return replayed, w.commit(ctx)
}

// piece is what one call of write sends before its changes, takes them back with, and sends before it repeats them.
type piece struct {
	before, again []string
	undo          string
}

// begin opens a target transaction. A later piece of a large source transaction comes under a savepoint instead, so
// that it alone is repeated when its sets fail; the savepoint before it is given up only then, for until its results
// are read nobody knows whether it is needed.
func (w *writer) begin() piece {
	if !w.open {
		return piece{before: []string{"BEGIN"}, again: []string{"BEGIN"}, undo: "ROLLBACK"}
	}
	before := []string{"SAVEPOINT slipway"}
	if w.saved {
		before = []string{"RELEASE SAVEPOINT slipway", "SAVEPOINT slipway"}
	}
	w.saved = true
	return piece{before: before, undo: "ROLLBACK TO SAVEPOINT slipway"}
}

// attempt sends what opens the piece, the queries that add adds and, at the end of a batch, the record of the position.
func (w *writer) attempt(ctx context.Context, before []string, end *position, add func() error) error {
	record := query{}
	if end != nil {
		var err error
		// It may have to be prepared, which happens outside of the pipeline and so before anything of it is sent.
		if record, err = w.session.recordQuery(ctx, end); err != nil {
			return err
		}
	}
	w.pending, w.bytes = nil, 0
	for _, sql := range before {
		w.pending = append(w.pending, query{sql: sql, rows: anyRows})
	}
	if err := add(); err != nil {
		return err
	}
	if end != nil {
		if end.durable {
			w.pending = append(w.pending, query{sql: "SET LOCAL synchronous_commit = on", rows: anyRows})
		}
		w.pending = append(w.pending, record)
	}
	return w.flush(ctx)
}

func (w *writer) addSteps(ctx context.Context, steps []*step) error {
	for _, s := range steps {
		if err := w.addAll(ctx, w.stepQueries(s)); err != nil {
			return err
		}
	}
	return nil
}

// stepQueries are the queries of a step, in order, each as soon as it is asked for: one per change, or per net effect
// on a row, or per set.
func (w *writer) stepQueries(s *step) iter.Seq[query] {
	return func(yield func(query) bool) {
		switch {
		case s.group != nil && len(s.group.order) < w.setFrom:
			for _, c := range s.group.effects(s.bind) {
				q := w.session.rowQuery(c)
				// The change is ours: when it fails, the batch is repeated as the source sent it.
				q.change, q.target = nil, s.bind.target
				if !yield(q) {
					return
				}
			}
		case s.group != nil || len(s.inserts) >= w.setFrom:
			for _, q := range setQueries(s) {
				if !yield(q) {
					return
				}
			}
		default:
			for _, c := range append(s.inserts, s.ordered...) {
				if !yield(w.session.rowQuery(c)) {
					return
				}
			}
		}
	}
}

func (w *writer) addAll(ctx context.Context, queries iter.Seq[query]) error {
	for q := range queries {
		if err := w.add(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) addSingly(ctx context.Context, changes []change) error {
	for i := range changes {
		if err := w.add(ctx, w.session.rowQuery(&changes[i])); err != nil {
			return err
		}
	}
	return nil
}

// add queues a query and sends the window when it is full.
func (w *writer) add(ctx context.Context, q query) error {
	w.pending = append(w.pending, q)
	for _, v := range q.values {
		w.bytes += len(v)
	}
	if w.bytes < windowBytes && len(w.pending) < windowQueries {
		return nil
	}
	return w.flush(ctx)
}

func (w *writer) flush(ctx context.Context) error {
	if len(w.pending) == 0 {
		return nil
	}
	err := w.session.run(ctx, w.pending)
	// A failure points into the queries, so they are left to it.
	w.pending, w.bytes, w.open = nil, 0, true
	return err
}

// explain turns the failure of a query into what the caller can act on.
func (w *writer) explain(err error) error {
	failed, isFailure := errors.AsType[*failure](err)
	switch {
	case !isFailure:
		return err
	case postgres.Retryable(failed.err):
		return fmt.Errorf("apply: %w", failed.err)
	case failed.query.record && failed.err == nil:
		return ErrFenced
	case failed.query.record:
		return fmt.Errorf("record the position: %w", failed.err)
	case failed.query.change != nil:
		return failed.query.change.conflict(failed.rows, failed.err)
	}
	return fmt.Errorf("apply: %w", err)
}

// commit ends the target transaction. When the connection is lost here, the outcome is not known; the recorded
// position tells it to whoever reads it next.
func (w *writer) commit(ctx context.Context) error {
	tag, err := w.session.exec(ctx, "COMMIT")
	if err == nil && tag != "COMMIT" {
		err = fmt.Errorf("the target answered %s", tag)
	}
	if err != nil {
		return fmt.Errorf("commit a batch: %w", err)
	}
	w.open, w.saved = false, false
	return nil
}

func (w *writer) isOrdered(t *target) bool { return w.orderedFor[t] > 0 }

func (w *writer) ageOrdered() {
	for t, left := range w.orderedFor {
		if left <= 1 {
			delete(w.orderedFor, t)
		} else {
			w.orderedFor[t] = left - 1
		}
	}
}
