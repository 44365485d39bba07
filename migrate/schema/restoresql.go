package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/slipway-db/slipway/postgres"
)

// preamble begins a transaction in which pg_dump's statements mean what they meant to pg_dump: with an empty search
// path every name is qualified, and functions are not checked against objects that come later.
const preamble = `BEGIN;
SELECT pg_catalog.set_config('search_path', '', true);
SET LOCAL check_function_bodies = off;
SET LOCAL standard_conforming_strings = on;
SET LOCAL xmloption = content;
SET LOCAL row_security = off;
`

// commit runs the group and its record as one transaction. On error nothing of it remains.
func (x *Executor) commit(ctx context.Context, conn *pgx.Conn, group []*step) error {
	if err := execScript(ctx, conn, preamble+script(group)); err != nil {
		return errors.Join(err, rollback(ctx, conn))
	}
	sql, args := x.o.Journal.Record(keys(group))
	tag, err := conn.Exec(ctx, sql, args...)
	if err == nil && tag.RowsAffected() != int64(len(group)) {
		err = ErrFenced
	}
	if err != nil {
		return errors.Join(&journalError{err}, rollback(ctx, conn))
	}
	if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
		return errors.Join(err, rollback(ctx, conn))
	}
	return nil
}

// journalError keeps a journal that cannot be written from being taken for an object that was refused.
type journalError struct{ err error }

func (e *journalError) Error() string { return "record in journal: " + e.err.Error() }
func (e *journalError) Unwrap() error { return e.err }

// refused tells that the server understood and said no to the object, and would say so again.
func refused(ctx context.Context, err error) bool {
	var journal *journalError
	return ctx.Err() == nil && postgres.Code(err) != "" && !postgres.Retryable(err) && !errors.As(err, &journal)
}

func script(group []*step) string {
	var b strings.Builder
	for _, s := range group {
		b.WriteString(s.sql)
		b.WriteByte('\n')
	}
	return b.String()
}

// dryRunLockTimeout bounds how long a dry run waits for a table that is being written, and with it how long others
// wait behind the dry run.
const dryRunLockTimeout = "SET LOCAL lock_timeout = '3s';\n"

// DryRun executes what is not yet done of a stage in one transaction and rolls it back, to find out what the target
// will refuse before it matters. It locks the tables concerned until it ends; when a lock is not to be had in a few
// seconds it gives up with an error for which postgres.Retryable holds.
func (x *Executor) DryRun(ctx context.Context, conn *pgx.Conn, stage Stage) (failures []Failure, err error) {
	steps, err := x.remaining(ctx, conn, x.o.Plan.stages[stage])
	if err != nil || len(steps) == 0 {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, rollback(ctx, conn))
	}()
	if err := execScript(ctx, conn, preamble+dryRunLockTimeout); err != nil {
		return nil, fmt.Errorf("try %s: %w", stage, err)
	}
	for len(steps) > 0 {
		n := min(groupEntries, len(steps))
		more, err := tryGroup(ctx, conn, steps[:n])
		if err != nil {
			return failures, fmt.Errorf("try %s: %w", stage, err)
		}
		failures, steps = append(failures, more...), steps[n:]
	}
	return failures, nil
}

func tryGroup(ctx context.Context, conn *pgx.Conn, group []*step) ([]Failure, error) {
	// By itself: a message with an error of syntax is refused as a whole, and then there would be no savepoint.
	if err := execScript(ctx, conn, "SAVEPOINT entry"); err != nil {
		return nil, err
	}
	err := execScript(ctx, conn, script(group)+"RELEASE SAVEPOINT entry;")
	if err == nil {
		return nil, nil
	}
	if !refused(ctx, err) {
		return nil, err
	}
	if undo := execScript(ctx, conn, "ROLLBACK TO SAVEPOINT entry; RELEASE SAVEPOINT entry;"); undo != nil {
		return nil, undo
	}
	if len(group) == 1 {
		return []Failure{newFailure(group[0], err)}, nil
	}
	var failures []Failure
	for i := range group {
		more, err := tryGroup(ctx, conn, group[i:i+1])
		if err != nil {
			return failures, err
		}
		failures = append(failures, more...)
	}
	return failures, nil
}

// Bounds for what happens after a cancellation.
const (
	cancelTimeout   = 5 * time.Second
	rollbackTimeout = 10 * time.Second
)

// execScript sends several statements in one message. When ctx ends, the server is asked to cancel, and the
// connection survives: without that an index would go on being built by a server that nobody listens to, and its
// locks would stand in the way of the next run.
func execScript(ctx context.Context, conn *pgx.Conn, sql string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	inner, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	asked := make(chan struct{})
	disarm := context.AfterFunc(ctx, func() {
		defer close(asked)
		askToCancel(inner, conn.PgConn())
		end()
	})
	err := conn.PgConn().Exec(inner, sql).Close()
	if !disarm() {
		end()
		<-asked
		if err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
	}
	return err
}

// askToCancel returns when the statement has ended (inner is over) or the server did not react.
func askToCancel(inner context.Context, conn *pgconn.PgConn) {
	limited, release := context.WithTimeout(inner, cancelTimeout)
	defer release()
	if err := conn.CancelRequest(limited); err == nil {
		<-limited.Done()
	}
}

// rollback must happen after a cancellation too. A connection that is gone has rolled back by itself.
func rollback(ctx context.Context, conn *pgx.Conn) error {
	if conn.IsClosed() {
		return nil
	}
	ctx, release := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer release()
	if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil && !conn.IsClosed() {
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}

// closeConn says goodbye to the server even when ctx is over, for a short time.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, release := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer release()
	_ = conn.Close(ctx) // all work of the session is committed or rolled back
}

// shown is the statement for reports. Options of foreign servers hold passwords.
func shown(s *step) string {
	switch s.entry.Desc {
	case descUserMapping, descServer, descForeignDataWrapper:
		if head, _, found := strings.Cut(s.sql, " OPTIONS ("); found {
			return head + " OPTIONS (…);"
		}
	}
	return s.sql
}
