// Package migrate moves databases from one PostgreSQL server to another, from the first check to the cutover. It is
// the order of the stages and the resumption of them; each stage is a package below. It holds no SQL of its own and
// imports nothing of the control plane: it runs alone from the command line.
//
// Everything that has to survive a crash is in the target database (package state). A run is a loop of attempts: an
// attempt begins like a fresh process, reads how far the migration is, and goes on from there. A lost connection, a
// restarted server and kill -9 of this process are therefore one case.
package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/slipway-db/slipway/migrate/cutover"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/postgres"
)

// Result is what a run has done.
type Result struct {
	Databases []DatabaseResult `json:"databases"`
	// Roles were created. Notes tell what of roles and databases the target refused or cannot have.
	Roles []string `json:"roles,omitempty"`
	Notes []string `json:"notes,omitempty"`

	last []schema.Statement // for the end: what limits who may connect
}

// DatabaseResult is what a run has done with one database.
type DatabaseResult struct {
	Database Database        `json:"database"`
	Done     bool            `json:"done"`
	Status   Status          `json:"status"` // as it was last
	Cutover  *cutover.Report `json:"cutover,omitempty"`
	// Failures are objects that could not be created, when the run went on without them.
	Failures []state.Failure `json:"failures,omitempty"`
	// LeftOut are objects that were not created because of the selection, with the reason.
	LeftOut []string `json:"left_out,omitempty"`
	Seconds float64  `json:"seconds"`
}

// Validate tells what is wrong with the choices themselves, before any server is asked.
func (c Config) Validate() error {
	c.setDefaults()
	return c.validate()
}

// Run migrates until the end: of the copy for structure and full, of the completion for full + incremental. A run on
// a target that holds an unfinished migration goes on with it. When ctx is cancelled with ErrStopped, Run returns an
// error that is ErrStopped, and what is done is kept. The Result is never nil once the databases are known.
func Run(ctx context.Context, config Config) (*Result, error) {
	config.setDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	if err := findDatabases(ctx, &config); err != nil {
		return nil, stopped(ctx, err)
	}
	result := &Result{}
	if err := prepareInstance(ctx, &config, result); err != nil {
		return result, stopped(ctx, err)
	}
	if config.Jobs == 0 {
		config.Jobs = targetCores(ctx, &config)
	}
	runs, err := runAll(ctx, &config)
	for _, r := range runs {
		result.Databases = append(result.Databases, r.result())
	}
	if err == nil {
		err = finishInstance(ctx, &config, result)
	}
	for _, r := range runs {
		if err == nil {
			err = r.forget(ctx)
		}
	}
	return result, stopped(ctx, err)
}

// runAll runs the migrations of all databases. They load one after the other, each with all the jobs, and then follow
// side by side; when one fails, the others go on.
func runAll(ctx context.Context, config *Config) ([]*run, error) {
	runs, failed := make([]*run, len(config.Databases)), make([]error, len(config.Databases))
	loading := make(chan struct{}, 1)
	var group sync.WaitGroup
	for i, d := range config.Databases {
		r := newRun(config, d, loading)
		runs[i] = r
		group.Go(func() {
			if failed[i] = r.run(ctx); failed[i] != nil && ctx.Err() == nil && len(runs) > 1 {
				r.log.Error("this database failed, the others go on", "error", failed[i])
			}
		})
	}
	group.Wait()
	return runs, errors.Join(failed...)
}

// forget removes the state of a finished migration that was kept until those beside it had finished too: until then a
// run that is taken up again must find that this one is done.
func (r *run) forget(ctx context.Context) error {
	if len(r.config.Databases) == 1 {
		return nil // went with its last step
	}
	conn, err := r.target.Connect(ctx, postgres.Session{Name: "run"})
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return state.Drop(ctx, conn)
}

// stopped turns the many errors that a cancelled context causes into the one that says why.
func stopped(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), ErrStopped) {
		return ErrStopped
	}
	return err
}

// run is the migration of one database in this process.
type run struct {
	config   *Config
	database Database
	source   postgres.Endpoint
	target   postgres.Endpoint
	log      *slog.Logger
	loading  chan struct{} // holds one token: who has it loads
	tracker  *tracker
	started  time.Time
	jobID    string // once it is known: a job that vanishes is never begun anew

	cutover  *cutover.Report
	failures []state.Failure
	leftOut  []string
	done     bool
}

func newRun(config *Config, d Database, loading chan struct{}) *run {
	log := config.Log
	if len(config.Databases) > 1 {
		log = log.With("database", d.Source)
	}
	return &run{
		config: config, database: d, log: log, loading: loading, started: time.Now(),
		source:  config.Source.WithDatabase(d.Source),
		target:  config.Target.WithDatabase(d.Target),
		tracker: newTracker(Status{Database: d, Type: config.Type, Phase: state.Prepare, Started: time.Now()}),
	}
}

func (r *run) result() DatabaseResult {
	return DatabaseResult{
		Database: r.database, Done: r.done, Status: r.tracker.current(), Cutover: r.cutover,
		Failures: r.failures, LeftOut: r.leftOut, Seconds: time.Since(r.started).Seconds(),
	}
}

// Waiting times between attempts.
const (
	firstWait = 500 * time.Millisecond
	longWait  = 10 * time.Second
)

// run makes attempts until one ends the migration, fails for good, or nothing has worked for RetryFor.
func (r *run) run(ctx context.Context) error {
	reporting, stopReporting := context.WithCancel(ctx)
	reported := make(chan struct{})
	go func() { defer close(reported); r.report(reporting) }()
	defer func() { stopReporting(); <-reported; r.notify() }()

	wait, lastProgress := firstWait, time.Now()
	for {
		before := r.progressMark()
		err := r.attempt(ctx)
		if err == nil || ctx.Err() != nil || !retryable(err) {
			return r.explain(err)
		}
		if r.progressMark() != before {
			wait, lastProgress = firstWait, time.Now()
		}
		if time.Since(lastProgress) > r.config.RetryFor {
			return fmt.Errorf("gave up after trying for %s; everything done so far is kept, run the same command again to go on: %w",
				r.config.RetryFor, err)
		}
		r.tracker.set(func(s *Status) { s.LastError = err.Error(); s.Message = "trying again: " + shorten(err.Error(), 200) })
		r.log.Warn("interrupted, trying again", "error", err, "wait", wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, longWait)
	}
}

// progressMark changes whenever something was achieved, so that a long outage is told from slow work.
func (r *run) progressMark() [4]int64 {
	s := r.tracker.current()
	return [4]int64{int64(s.TablesCopied + s.TablesIndexed), s.Rows, int64(s.Applied), int64(len(s.Phase))}
}

// explain names the database when several move.
func (r *run) explain(err error) error {
	if err == nil || len(r.config.Databases) == 1 {
		return err
	}
	return fmt.Errorf("database %s: %w", r.database.Source, err)
}

const reportInterval = 200 * time.Millisecond

func (r *run) report(ctx context.Context) {
	ticker := time.NewTicker(reportInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			r.notify()
		}
	}
}

func (r *run) notify() {
	if r.config.OnStatus != nil {
		r.config.OnStatus(r.tracker.current())
	}
}
