package state

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// channel is the notification channel on which the end of a job is told.
func channel(jobID string) string { return "slipway_" + jobID }

// RequestDone asks the running process to complete.
func RequestDone(ctx context.Context, conn *pgx.Conn) error {
	tag, err := conn.Exec(ctx, `UPDATE slipway.job SET want_done = true`)
	if err != nil {
		return fmt.Errorf("ask for completion: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return ErrNone
	}
	return nil
}

// Listen makes conn hear of the end of the job. It must come before RequestDone.
func Listen(ctx context.Context, conn *pgx.Conn, jobID string) error {
	if _, err := conn.Exec(ctx, "LISTEN "+postgres.QuoteIdent(channel(jobID))); err != nil {
		return fmt.Errorf("listen for the end: %w", err)
	}
	return nil
}

// WaitDone waits for the end of the job on a session that listens, at most for the given time. It returns the report
// of Finish, or nil when there was none yet.
func WaitDone(ctx context.Context, conn *pgx.Conn, atMost time.Duration) ([]byte, error) {
	waiting, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	n, err := conn.WaitForNotification(waiting)
	switch {
	case err == nil:
		return []byte(n.Payload), nil
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		return nil, nil
	}
	return nil, fmt.Errorf("wait for the end: %w", err)
}

// Seize ends the process that works on the job, if there is one, and keeps others out for as long as conn lives.
func Seize(ctx context.Context, conn *pgx.Conn, job *Job) error {
	if _, err := conn.Exec(ctx, `UPDATE slipway.progress SET epoch = epoch + 1`); err != nil {
		return fmt.Errorf("take the migration over: %w", err)
	}
	_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
		WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database() AND l.classid = $1 AND l.objid = $2`,
		lockClass, lockObject)
	if err != nil {
		return fmt.Errorf("end the running process: %w", err)
	}
	if err := lock(ctx, conn); err != nil {
		return err
	}
	return EndSessions(ctx, conn, job.ID)
}

// Databases lists the databases of a server that may hold a migration: those that conn's user may connect to.
func Databases(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	rows, err := conn.Query(ctx, `SELECT datname::text FROM pg_database
		WHERE datallowconn AND has_database_privilege(oid, 'CONNECT') ORDER BY datname`)
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", err)
	}
	return names, nil
}
