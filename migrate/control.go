package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// JobStatus is a migration as its target database tells it, whether or not a process is working on it.
type JobStatus struct {
	Status
	ID       string          `json:"id"`
	Created  time.Time       `json:"created"`
	Saved    time.Time       `json:"saved"` // when the running process last stored its status
	Running  bool            `json:"running"`
	WantDone bool            `json:"completion_requested"`
	Error    string          `json:"error,omitempty"` // why the last run ended
	Source   state.Source    `json:"source"`
	Failures []state.Failure `json:"failures,omitempty"`
}

// ReadStatus reads the migrations on a target server. It answers ErrNothingToDo when there is none.
func ReadStatus(ctx context.Context, target postgres.Endpoint) ([]JobStatus, error) {
	var all []JobStatus
	err := visit(ctx, target, func(conn *pgx.Conn, _ postgres.Endpoint, job *state.Job) error {
		s, err := readStatus(ctx, conn, job)
		all = append(all, s)
		return err
	})
	return all, stopped(ctx, err)
}

func readStatus(ctx context.Context, conn *pgx.Conn, job *state.Job) (JobStatus, error) {
	s := JobStatus{
		ID: job.ID, Created: job.Created, Saved: job.StatusSaved, WantDone: job.WantDone, Error: job.Error, Source: job.Source,
	}
	if err := json.Unmarshal(job.Status, &s.Status); err != nil {
		return s, fmt.Errorf("read the status: %w", err)
	}
	var o options
	if err := json.Unmarshal(job.Options, &o); err != nil {
		return s, fmt.Errorf("read the options: %w", err)
	}
	s.Job, s.Phase, s.Database, s.Type = job.ID, job.Phase, o.Database, o.Type // the stored status may be a second old
	var err error
	if s.Running, err = state.Running(ctx, conn); err != nil {
		return s, err
	}
	if !s.Running {
		s.InSync, s.InFlight, s.RowsPerSecond, s.BytesPerSecond, s.TransactionsPerSec = false, nil, 0, 0, 0
	}
	_, s.Failures, err = state.Entries(ctx, conn)
	return s, err
}

// Complete asks the migration that target names, with all databases that move together with it, to drain and finish,
// and waits for the end. Leaving the wait does not take the request back.
func Complete(ctx context.Context, target postgres.Endpoint, onStatus func(Status)) ([]DatabaseResult, error) {
	var waits []*completion
	defer func() {
		for _, w := range waits {
			_ = w.conn.Close(context.WithoutCancel(ctx))
		}
	}()
	err := visitRun(ctx, target, func(conn *pgx.Conn, e postgres.Endpoint, job *state.Job) error {
		w, err := request(ctx, conn, e, job)
		if err == nil {
			waits = append(waits, w)
		}
		return err
	})
	if err != nil {
		return nil, stopped(ctx, err)
	}
	var results []DatabaseResult
	for _, w := range waits {
		result, err := w.wait(ctx, onStatus)
		if err != nil {
			return results, stopped(ctx, err)
		}
		results = append(results, *result)
	}
	return results, nil
}

// completion waits for the end of one job.
type completion struct {
	conn *pgx.Conn
	job  *state.Job
	name string
}

func request(ctx context.Context, conn *pgx.Conn, e postgres.Endpoint, job *state.Job) (*completion, error) {
	var o options
	if err := json.Unmarshal(job.Options, &o); err != nil {
		return nil, fmt.Errorf("read the options: %w", err)
	}
	if o.Type != FullIncremental {
		return nil, fmt.Errorf("the migration of %s is of type %s, which ends by itself", o.Database.Source, o.Type)
	}
	running, err := state.Running(ctx, conn)
	if err != nil {
		return nil, err
	}
	if !running {
		return nil, fmt.Errorf("no process is running the migration of %s: run the same slipway migrate run command again, then complete", o.Database.Source)
	}
	listener, err := e.Connect(ctx, postgres.Session{Name: "control"})
	if err != nil {
		return nil, err
	}
	if err = state.Listen(ctx, listener, job.ID); err == nil {
		err = state.RequestDone(ctx, listener)
	}
	if err != nil {
		_ = listener.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return &completion{conn: listener, job: job, name: o.Database.Source}, nil
}

// wait returns at the notification that is committed together with the end of the job, or when no process works on
// the job any more.
func (w *completion) wait(ctx context.Context, onStatus func(Status)) (*DatabaseResult, error) {
	var gone, idle time.Time // since when there is no job, or nobody works on it
	for {
		payload, err := state.WaitDone(ctx, w.conn, time.Second)
		if err != nil {
			return nil, err
		}
		if payload != nil {
			result := &DatabaseResult{}
			if err := json.Unmarshal(payload, result); err != nil {
				return nil, fmt.Errorf("read the result of %s: %w", w.name, err)
			}
			return result, nil
		}
		job, err := state.Read(ctx, w.conn)
		if errors.Is(err, state.ErrNone) || postgres.Code(err) == undefinedTable {
			// It has just ended, and the notification is on its way, or it was given up.
			if longerThan(&gone, 3*time.Second) {
				return nil, fmt.Errorf("the migration of %s was given up by somebody else", w.name)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		s, err := readStatus(ctx, w.conn, job)
		if postgres.Code(err) == undefinedTable {
			continue // it has ended between the two questions
		}
		if err != nil {
			return nil, err
		}
		if s.Running {
			idle = time.Time{}
		} else if longerThan(&idle, longWait+5*time.Second) { // it may be between two attempts
			return nil, w.ended(s.Error)
		}
		if onStatus != nil {
			onStatus(s.Status)
		}
	}
}

// longerThan notes when something began and tells whether that is longer ago than the limit.
func longerThan(since *time.Time, limit time.Duration) bool {
	if since.IsZero() {
		*since = time.Now()
	}
	return time.Since(*since) > limit
}

// ended says why nothing completes any more; the request stays with the job.
func (w *completion) ended(reason string) error {
	if reason == "" || reason == ErrStopped.Error() {
		return fmt.Errorf("the process that ran the migration of %s has ended: run the same slipway migrate run command again; it will complete", w.name)
	}
	return fmt.Errorf("the process that ran the migration of %s has ended: %s\nonce that is mended, the same slipway migrate run command completes", w.name, reason)
}

// undefinedTable is the SQLSTATE for a table of our state that has just been dropped.
const undefinedTable = "42P01"

// AbortReport says what giving a migration up has removed and what it leaves.
type AbortReport struct {
	Database string   `json:"database"`
	Removed  []string `json:"removed"`
	Left     []string `json:"left"`
}

// AbortOptions say how far giving up goes.
type AbortOptions struct {
	// DropCopied also drops what the migration created in the target database.
	DropCopied bool
	// SourceGone leaves the source alone, which is another server by now or does not answer.
	SourceGone bool
}

// Abort gives the migration that the target names up, with all databases that move together with it: slot and
// publication on the source and our schema on the target go. A running process is stopped by it.
func Abort(ctx context.Context, config Config, options AbortOptions) ([]AbortReport, error) {
	var reports []AbortReport
	err := visitRun(ctx, config.Target, func(conn *pgx.Conn, _ postgres.Endpoint, job *state.Job) error {
		report, err := abort(ctx, config.Source, conn, job, options)
		if report != nil {
			reports = append(reports, *report)
		}
		return err
	})
	return reports, stopped(ctx, err)
}

func abort(ctx context.Context, source postgres.Endpoint, target *pgx.Conn, job *state.Job, options AbortOptions) (*AbortReport, error) {
	report := &AbortReport{Database: job.Source.Database}
	if options.DropCopied && job.Phase == state.Done {
		return nil, fmt.Errorf("the migration of %s is complete, and the target may be in use: abort without --drop-copied removes what is left of it", job.Source.Database)
	}
	streams := job.Source.SystemID != "" // only such a migration leaves anything on the source
	source = source.WithDatabase(job.Source.Database)
	if streams && !options.SourceGone {
		if err := sameServer(ctx, source, job); err != nil {
			return nil, err
		}
	}
	// Its sessions first: a running process would otherwise make anew what is removed here.
	if err := state.Seize(ctx, target, job); err != nil {
		return nil, err
	}
	switch {
	case streams && options.SourceGone:
		report.Left = append(report.Left, fmt.Sprintf("slot %s and publication %s on the source: drop them there if it still exists, the slot holds back its log",
			job.Slot(), job.Publication()))
	case streams:
		if err := abandonSource(ctx, source, job, report); err != nil {
			return nil, err
		}
	}
	if err := abandonObjects(ctx, target, options.DropCopied, report); err != nil {
		return report, err
	}
	if err := state.Drop(ctx, target); err != nil {
		return report, err
	}
	report.Removed = append(report.Removed, "schema "+state.Schema+" in the target database")
	report.Left = append(report.Left, "roles and databases that were created on the target, if any")
	return report, nil
}

// abandonSource removes slot and publication from the source.
func abandonSource(ctx context.Context, source postgres.Endpoint, job *state.Job, report *AbortReport) error {
	conn, err := source.Connect(ctx, postgres.Session{Name: "control"})
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := state.EndSessions(ctx, conn, job.ID); err != nil {
		return err
	}
	if err := abandonSlots(ctx, conn, job, report); err != nil {
		return err
	}
	if job.Source.Version.AtLeast(10) {
		if err := stream.DropPublication(ctx, conn, job.Publication()); err != nil {
			return err
		}
		report.Removed = append(report.Removed, "publication "+job.Publication()+" on the source")
	}
	return nil
}

// abandonSlots drops the job's slots, and tells when there was none: it may be on another server and keep its log.
func abandonSlots(ctx context.Context, conn *pgx.Conn, job *state.Job, report *AbortReport) error {
	found, err := stream.InspectSlot(ctx, conn, job.Slot())
	if err != nil {
		return err
	}
	for _, slot := range []string{job.Slot(), copySlot(job)} {
		if err := stream.DropSlot(ctx, conn, slot); err != nil {
			return err
		}
	}
	switch {
	case found.Exists:
		report.Removed = append(report.Removed, "replication slot "+job.Slot()+" on the source")
	case job.Phase != state.Prepare && job.Consistent != 0:
		report.Left = append(report.Left, "replication slot "+job.Slot()+" was not on this source; where it is, it holds back the log until it is dropped")
	}
	return nil
}

// abandonObjects drops what the migration created on the target, or says that it stays.
func abandonObjects(ctx context.Context, target *pgx.Conn, drop bool, report *AbortReport) error {
	created, _, err := state.Entries(ctx, target)
	if err != nil || len(created) == 0 {
		return err
	}
	if !drop {
		report.Left = append(report.Left, fmt.Sprintf("%d objects that were created in the target database, with the rows copied so far (--drop-copied removes them)", len(created)))
		return nil
	}
	stored, err := state.Archive(ctx, target)
	if err != nil {
		return err
	}
	archive, err := schema.ReadArchive(stored)
	if err != nil {
		return err
	}
	dropped, kept, err := archive.Drop(ctx, target, created)
	report.Removed = append(report.Removed, fmt.Sprintf("%d objects in the target database, with their rows", dropped))
	report.Left = append(report.Left, kept...)
	return err
}

// sameServer refuses to drop a slot of the same name on another server.
func sameServer(ctx context.Context, source postgres.Endpoint, job *state.Job) error {
	if job.Source.SystemID == "" {
		return nil
	}
	identity, err := stream.Identify(ctx, source)
	if err != nil {
		return err
	}
	if identity.SystemID != job.Source.SystemID {
		return fmt.Errorf("%w: its system identifier was %s and is %s. Point --source to the right server, or give up without it: --source-gone",
			ErrSourceReplaced, job.Source.SystemID, identity.SystemID)
	}
	return nil
}
