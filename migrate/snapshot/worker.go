package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// Pauses between attempts double from the first to the last.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// uniqueViolation is the SQLSTATE of a record that is there already.
const uniqueViolation = "23505"

// errUnknown marks a COMMIT whose answer did not come.
var errUnknown = errors.New("the connection was lost before the answer to COMMIT")

// worker owns one session on either side, opened when they are needed and after they were lost.
type worker struct {
	*Copier
	id       int
	source   *source
	target   *target
	failures int       // attempts in a row that found a server gone
	started  time.Time // of the present attempt
}

// close ends idle sessions.
func (w *worker) close(ctx context.Context) {
	if w.source != nil {
		w.names.remove(w.source.name)
		closeSession(ctx, w.source.conn)
	}
	if w.target != nil {
		closeSession(ctx, w.target.conn)
	}
}

// dropSource and dropTarget end sessions that may be in the middle of something.
func (w *worker) dropSource(ctx context.Context) {
	if w.source != nil {
		w.names.remove(w.source.name)
		abandon(ctx, w.source.conn)
		w.source = nil
	}
}

func (w *worker) dropTarget(ctx context.Context) {
	if w.target != nil {
		abandon(ctx, w.target.conn)
		w.target = nil
	}
}

// open makes sure of both sessions.
func (w *worker) open(ctx context.Context, first Part) (err error) {
	if w.source == nil {
		if w.source, err = openSource(ctx, w.config.Source, w.config.Session, w.names); err != nil {
			return &PartError{Part: first, Side: SourceSide, Err: err}
		}
	}
	if w.target == nil {
		if w.target, err = openTarget(ctx, w.config.Target, w.config.Session); err != nil {
			return &PartError{Part: first, Side: TargetSide, Err: err}
		}
	}
	return nil
}

// copy moves the parts of an item in one target transaction. When an earlier attempt ended in the dark, the target
// knows whether it came through.
func (w *worker) copy(ctx context.Context, it *item) error {
	w.started = time.Now()
	if err := w.open(ctx, it.parts[0]); err != nil {
		return err
	}
	w.failures = 0
	if it.unknown {
		if done, err := w.recorded(ctx, it); done || err != nil {
			return err
		}
	}
	err := w.transfer(ctx, it)
	if err == nil || !it.unknown || !errors.Is(err, ErrFenced) && postgres.Code(err) != uniqueViolation {
		return err
	}
	// The lost transaction was still about to commit when it was asked for; ours has waited for it.
	if openErr := w.open(ctx, it.parts[0]); openErr != nil {
		return openErr
	}
	if done, checkErr := w.recorded(ctx, it); done || checkErr != nil {
		return checkErr
	}
	return err
}

// transfer is one attempt. Afterwards the sessions are ready for the next item, or closed.
func (w *worker) transfer(ctx context.Context, it *item) error {
	flight := w.stats.begin(w.id, it)
	defer w.stats.end(w.id)
	err := w.begin(ctx, it)
	if err == nil {
		err = w.stream(ctx, it, flight)
	}
	if err == nil {
		err = w.record(ctx, it)
	}
	if err != nil {
		w.dropTarget(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return err
}

// begin opens the transaction on the target and empties the tables that take frozen rows.
func (w *worker) begin(ctx context.Context, it *item) error {
	statements := []string{"BEGIN"}
	if sql := truncate(it.parts); sql != "" {
		statements = append(statements, sql)
	}
	_, err := w.target.conn.PgConn().Exec(ctx, strings.Join(statements, "; ")).ReadAll()
	if err != nil {
		return &PartError{Part: it.parts[0], Side: TargetSide, Err: err}
	}
	return nil
}

// stream passes the rows. A failure of the target leaves the source inside its snapshot.
func (w *worker) stream(ctx context.Context, it *item, flight *progress) error {
	if err := w.source.wire.take(ctx, w.source.conn.PgConn()); err != nil {
		w.dropSource(ctx)
		return &PartError{Part: it.parts[0], Side: SourceSide, Err: err}
	}
	if err := w.target.wire.take(ctx, w.target.conn.PgConn()); err != nil {
		return &PartError{Part: it.parts[0], Side: TargetSide, Err: err}
	}
	s := &splice{source: w.source.wire, target: w.target.wire, parts: it.parts, limit: w.limit, progress: flight}
	sourceEncoding := w.source.conn.PgConn().ParameterStatus("server_encoding")
	targetEncoding := w.target.conn.PgConn().ParameterStatus("server_encoding")
	for _, p := range it.parts {
		s.formats = append(s.formats, chooseFormat(p.Table, w.config.SameMajor, sourceEncoding, targetEncoding))
	}
	if err := s.run(ctx); err != nil {
		if ctx.Err() != nil || s.drain(ctx, w.source.conn, err) != nil {
			w.dropSource(ctx)
		}
		return w.partError(it, err)
	}
	it.results = s.results
	for i, p := range it.parts {
		if err := w.sameFile(p, s.results[i].file); err != nil {
			return &PartError{Part: p, Side: SourceSide, Err: err}
		}
	}
	return nil
}

func (w *worker) partError(it *item, err error) error {
	if side, ok := errors.AsType[*sideError](err); ok {
		return &PartError{Part: it.parts[side.part], Side: side.side, Err: side.err}
	}
	return err
}

// record stores the parts as done and commits.
func (w *worker) record(ctx context.Context, it *item) error {
	batch := &pgx.Batch{}
	for i, p := range it.parts {
		sql, args := w.config.Recorder.RecordPart(p, it.results[i].rows, it.results[i].bytes)
		batch.Queue(sql, args...)
	}
	answers := w.target.conn.SendBatch(ctx, batch)
	for _, p := range it.parts {
		tag, err := answers.Exec()
		if err == nil && tag.RowsAffected() != 1 {
			err = ErrFenced
		}
		if err != nil {
			_ = answers.Close()
			return &PartError{Part: p, Side: TargetSide, Err: fmt.Errorf("record the part: %w", err)}
		}
	}
	if err := answers.Close(); err != nil {
		return &PartError{Part: it.parts[0], Side: TargetSide, Err: fmt.Errorf("record the part: %w", err)}
	}
	return w.commit(ctx, it)
}

func (w *worker) commit(ctx context.Context, it *item) error {
	tag, err := w.target.conn.Exec(ctx, "COMMIT")
	switch {
	case err == nil && tag.String() == "COMMIT":
		return nil
	case err == nil:
		err = fmt.Errorf("COMMIT was answered with %s", tag)
	case postgres.ConnectionLost(err) || ctx.Err() != nil:
		it.unknown = true
		err = fmt.Errorf("%w: %w", errUnknown, err)
	}
	return &PartError{Part: it.parts[0], Side: TargetSide, Err: err}
}

// recorded asks whether the transaction of an earlier attempt was committed. All parts of an item are in one.
func (w *worker) recorded(ctx context.Context, it *item) (bool, error) {
	done := 0
	for _, p := range it.parts {
		sql, args := w.config.Recorder.PartRecorded(p)
		var yes bool
		if err := w.target.conn.QueryRow(ctx, sql, args...).Scan(&yes); err != nil {
			w.dropTarget(ctx)
			return false, &PartError{Part: p, Side: TargetSide, Err: fmt.Errorf("read the record of the part: %w", err)}
		}
		if yes {
			done++
		}
	}
	if done != 0 && done != len(it.parts) {
		err := fmt.Errorf("%d of %d parts that were copied in one transaction are recorded", done, len(it.parts))
		return false, &PartError{Part: it.parts[0], Side: TargetSide, Err: err}
	}
	return done > 0, nil
}

// retry puts an item back when its error may pass, and returns the error when it does not or has lasted too long.
func (w *worker) retry(ctx context.Context, it *item, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	now := time.Now()
	// A connection that was lost after a long time of work says nothing about the attempts before.
	if it.failures == 0 || postgres.ConnectionLost(err) && now.Sub(w.started) > w.config.RetryFor {
		it.failedSince = now
	}
	it.failures++
	if !postgres.Retryable(err) || errors.Is(err, ErrSnapshotLost) || errors.Is(err, ErrFenced) {
		return err
	}
	if lasted := now.Sub(it.failedSince); lasted > w.config.RetryFor {
		return fmt.Errorf("gave up after %d attempts in %s: %w", it.failures, lasted.Round(time.Second), err)
	}
	w.stats.retried(err)
	if !postgres.ConnectionLost(err) {
		it.notBefore = now.Add(pauseAfter(it.failures))
		w.queue.putBack(it)
		return nil
	}
	// A server that is gone is gone for every part: this worker pauses, and others may try at once.
	w.queue.putBack(it)
	w.failures++
	timer := time.NewTimer(pauseAfter(w.failures))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func pauseAfter(failures int) time.Duration {
	return min(firstPause<<min(failures-1, 10), lastPause)
}
