package state

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// lockClass and lockObject name the advisory lock of a runner ("slip", "way" in ASCII).
const (
	lockClass  = 0x736c6970
	lockObject = 0x776179
)

// Runner is the one process that works on a job. It owns a session of the target that holds an advisory lock: when
// that session is lost, so is the lock, and every statement of the runner fails.
type Runner struct {
	Job   *Job
	Epoch int64

	mu   sync.Mutex // one statement at a time on conn
	conn *pgx.Conn
}

// takeoverWait is how long Take waits for a session of a dead runner to be noticed by its server.
const takeoverWait = 20 * time.Second

// Take makes this process the runner of the job: it takes the advisory lock, ends what sessions of a dead runner are
// left and raises the epoch. It answers ErrBusy when a living process holds the lock. The runner owns conn from then on.
func Take(ctx context.Context, conn *pgx.Conn, job *Job) (*Runner, error) {
	if err := lock(ctx, conn); err != nil {
		return nil, err
	}
	if err := EndSessions(ctx, conn, job.ID); err != nil {
		return nil, err
	}
	// What is removed from the source after one of our commits must never come before that commit is durable.
	_, err := conn.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`)
	if err != nil {
		return nil, fmt.Errorf("take the migration over: %w", err)
	}
	r := &Runner{Job: job, conn: conn}
	// The update waits for any transaction of an older runner that still holds the row.
	err = conn.QueryRow(ctx, `UPDATE slipway.progress SET epoch = epoch + 1 RETURNING epoch`).Scan(&r.Epoch)
	if err != nil {
		return nil, fmt.Errorf("take the migration over: %w", err)
	}
	_, err = conn.Exec(ctx, `UPDATE slipway.job SET error = ''`)
	return r, err
}

// lock waits a little: the server needs a moment to notice that the session of a killed runner is gone.
func lock(ctx context.Context, conn *pgx.Conn) error {
	deadline := time.Now().Add(takeoverWait)
	for {
		var locked bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1, $2)`, lockClass, lockObject).Scan(&locked); err != nil {
			return fmt.Errorf("take the migration's lock: %w", err)
		}
		if locked {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w (%s)", ErrBusy, holder(ctx, conn))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// holder names the session that holds the lock, for the message.
func holder(ctx context.Context, conn *pgx.Conn) string {
	var pid int32
	var address string
	err := conn.QueryRow(ctx, `SELECT l.pid, coalesce(host(a.client_addr), 'local') FROM pg_locks l
		JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted
		AND l.classid = $1 AND l.objid = $2 LIMIT 1`, lockClass, lockObject).Scan(&pid, &address)
	if err != nil {
		return "its session cannot be seen"
	}
	return fmt.Sprintf("its session on the target is pid %d from %s", pid, address)
}

// Running tells whether a process holds the job's lock right now.
func Running(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var held bool
	err := conn.QueryRow(ctx, `SELECT count(*) > 0 FROM pg_locks l
		JOIN pg_database d ON d.oid = l.database
		WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()
		AND l.classid = $1 AND l.objid = $2`, lockClass, lockObject).Scan(&held)
	if err != nil {
		return false, fmt.Errorf("look for a running process: %w", err)
	}
	return held, nil
}

// SessionName is the application_name (after "slipway/") of a session that works for a job.
func SessionName(jobID, role string) string { return jobID + "/" + role }

// EndSessions ends every session that a dead runner left on conn's server: a server process goes on with an index
// build or a sort although its client died, and would commit it behind the back of the new runner.
func EndSessions(ctx context.Context, conn *pgx.Conn, jobID string) error {
	for {
		var left int
		err := conn.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE application_name ~~ $1 AND pid <> pg_backend_pid()`,
			"slipway/"+jobID+"/%").Scan(&left)
		if err != nil {
			return fmt.Errorf("end sessions of an earlier run: %w", err)
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Close ends the session and with it the lock.
func (r *Runner) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // outlives the run's context on purpose
	defer cancel()
	_ = r.conn.Close(ctx)
}

// Do runs f in one transaction of the runner's session, as the current epoch: f's effects are lost with ErrFenced
// when another runner took over.
func (r *Runner) Do(ctx context.Context, f func(pgx.Tx) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return pgx.BeginFunc(ctx, r.conn, func(tx pgx.Tx) error {
		var current bool
		err := tx.QueryRow(ctx, `SELECT epoch = $1 FROM slipway.progress FOR SHARE`, r.Epoch).Scan(&current)
		if err != nil {
			return fmt.Errorf("check the epoch: %w", err)
		}
		if !current {
			return ErrFenced
		}
		return f(tx)
	})
}

// exec is Do for one statement.
func (r *Runner) exec(ctx context.Context, what, sql string, args ...any) error {
	err := r.Do(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sql, args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// SetPhase stores the phase before its work begins.
func (r *Runner) SetPhase(ctx context.Context, phase Phase) error {
	err := r.exec(ctx, "store the phase", `UPDATE slipway.job SET phase = $1`, string(phase))
	if err == nil {
		r.Job.Phase = phase
	}
	return err
}

// SaveStatus stores what `status` shows. It is called about once a second.
func (r *Runner) SaveStatus(ctx context.Context, status any) error {
	encoded, err := json.Marshal(status)
	if err != nil {
		return fmt.Errorf("store the status: %w", err)
	}
	return r.exec(ctx, "store the status", `UPDATE slipway.status SET status = $1, saved = clock_timestamp()`, encoded)
}

// SetError stores why the run stopped, for `status`. It works on a best effort: the target may be what failed.
func (r *Runner) SetError(ctx context.Context, message string) error {
	return r.exec(ctx, "store the error", `UPDATE slipway.job SET error = $1`, message)
}

// WantDone tells whether completion was asked for since.
func (r *Runner) WantDone(ctx context.Context) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var want bool
	if err := r.conn.QueryRow(ctx, `SELECT want_done FROM slipway.job`).Scan(&want); err != nil {
		return false, fmt.Errorf("read whether to complete: %w", err)
	}
	return want, nil
}

// Position reads the stream's position: everything up to it is on the target.
func (r *Runner) Position(ctx context.Context) (postgres.LSN, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Position(ctx, r.conn)
}

// Position reads the stream's position over any session of the target.
func Position(ctx context.Context, conn *pgx.Conn) (postgres.LSN, error) {
	var lsn postgres.LSN
	if err := conn.QueryRow(ctx, `SELECT lsn::text FROM slipway.progress`).Scan(&lsn); err != nil {
		return 0, fmt.Errorf("read the position: %w", err)
	}
	return lsn, nil
}

// Record is the statement by which apply stores its position in its own transaction. It affects one row, or none
// when another runner took over.
func (r *Runner) Record(lsn postgres.LSN, commitTime time.Time) (string, []any) {
	var stamp any
	if !commitTime.IsZero() {
		stamp = commitTime.UTC().Format("2006-01-02 15:04:05.999999Z07:00")
	}
	return `UPDATE slipway.progress SET lsn = $1::text::pg_lsn, commit_time = coalesce($2::text::timestamptz, commit_time) WHERE epoch = $3`,
		[]any{lsn.String(), stamp, r.Epoch}
}

// RecordPart is the statement by which the copy stores a finished part in its own transaction; see Record.
func (r *Runner) RecordPart(table schema.Name, number int, rows, bytes int64) (string, []any) {
	return `INSERT INTO slipway.part (schema, name, number, rows, bytes)
		SELECT $1, $2, $3, $4, $5 FROM (SELECT FROM slipway.progress WHERE epoch = $6 FOR SHARE) AS current`,
		[]any{table.Schema, table.Name, number, rows, bytes, r.Epoch}
}

// RecordFailure stores an archive entry that could not be created, for the report, so that it is not tried again.
func (r *Runner) RecordFailure(ctx context.Context, key, statement string, cause error) error {
	return r.exec(ctx, "store a failed object",
		`INSERT INTO slipway.entry (key, failure, statement) VALUES ($1, $2, $3) ON CONFLICT (key) DO NOTHING`,
		key, cause.Error(), statement)
}

// Announce tells whoever waits that the job is done, without removing its state.
func (r *Runner) Announce(ctx context.Context, report []byte) error {
	return r.exec(ctx, "announce the end", `SELECT pg_notify($1, $2)`, channel(r.Job.ID), string(report))
}

// Finish drops our schema and tells whoever waits for the end, in one transaction.
func (r *Runner) Finish(ctx context.Context, report []byte) error {
	err := r.Do(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_notify($1, $2)`, channel(r.Job.ID), string(report)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DROP SCHEMA slipway CASCADE`)
		return err
	})
	if err != nil {
		return fmt.Errorf("remove schema %s: %w", Schema, err)
	}
	return nil
}

// PartRecorded is the query that tells whether RecordPart was committed for a part.
func (r *Runner) PartRecorded(table schema.Name, number int) (string, []any) {
	return `SELECT count(*) > 0 FROM slipway.part WHERE schema = $1 AND name = $2 AND number = $3`,
		[]any{table.Schema, table.Name, number}
}
