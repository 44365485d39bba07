package schema

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-db/slipway/postgres"
)

// OnError says what happens after an object could not be created.
type OnError string

// The two ways.
const (
	Stop     OnError = "stop"     // end after the first failure
	Continue OnError = "continue" // go on and report all failures at the end
)

// Journal remembers in the target database which entries exist there. It is asked every time and nothing is
// remembered here, so that a commit whose answer was lost counts for what it is.
type Journal interface {
	// Done tells which of the keys are recorded, because the entry exists or was given up.
	Done(ctx context.Context, conn *pgx.Conn, keys []string) (map[string]bool, error)
	// Record is the statement that records the keys. It runs in the transaction that creates the entries, with an
	// empty search_path, so every name in it is qualified. It affects one row per key, or none when another runner
	// has taken over: then the transaction is rolled back with ErrFenced.
	Record(keys []string) (sql string, args []any)
}

// ErrFenced tells that nothing was created because the journal belongs to another runner now.
var ErrFenced = errors.New("another runner has taken over this migration")

// EventState is what happened to an entry.
type EventState string

// The states of an entry.
const (
	EventStarted   EventState = "started"
	EventDone      EventState = "done"
	EventFailed    EventState = "failed"
	EventTolerated EventState = "tolerated" // failed, and it does not matter
)

// Event tells the progress of one entry.
type Event struct {
	Stage Stage
	Entry *Entry
	State EventState
}

// Failure is an object that the target refused.
type Failure struct {
	Entry *Entry
	// SQL is the statement, without the options of foreign servers and user mappings, which hold passwords.
	SQL string
	Err error
	// Tolerated failures change nothing that matters and never stop a run: the comment of an extension, or of the
	// schema public, that the target's administrator owns.
	Tolerated bool
}

// Error is one line: the entry and what the server said. The statement is in SQL.
func (f Failure) Error() string { return f.Entry.String() + ": " + f.Err.Error() }

// Unwrap gives the server's error.
func (f Failure) Unwrap() error { return f.Err }

// ExecutorOptions say where and how a plan is executed.
type ExecutorOptions struct {
	Plan *Plan
	// Connect opens a session on the target (postgres.Endpoint.Connect). Sessions are closed by the executor.
	Connect func(context.Context) (*pgx.Conn, error)
	Journal Journal
	// Jobs is how many sessions build indexes and constraints at once; at least 1.
	Jobs int
	// OnError is Stop when empty.
	OnError OnError
	// Large names tables whose indexes and foreign keys take long, so that each gets a transaction and, where there
	// are several, a session of its own. Entries of other tables share transactions.
	Large map[Name]bool
	// Progress is called when an entry begins and ends, by several goroutines at once. May be nil.
	Progress func(Event)
}

// Executor creates the objects of a plan on the target. Its methods may run at the same time for different tables.
//
// Entries run in groups; each group and its record in the journal are one transaction, so that a run which died
// continues where it was. When a group fails, its entries run one by one and the guilty one is found. Errors that
// pass by themselves (a lost connection, a deadlock) are returned as errors: run the same again on a new connection.
type Executor struct {
	o            ExecutorOptions
	groupEntries int
}

// NewExecutor needs a plan, a journal and a way to connect.
func NewExecutor(o ExecutorOptions) *Executor {
	if o.Plan == nil || o.Journal == nil || o.Connect == nil {
		panic("schema: an executor needs a plan, a journal and a way to connect")
	}
	o.Jobs = max(1, o.Jobs)
	return &Executor{o: o, groupEntries: groupEntries}
}

// RunStage executes what is not yet done of a stage: indexes and constraints in parallel as their dependencies
// allow, everything else in order. Failures are objects that the target refused in this call.
func (x *Executor) RunStage(ctx context.Context, stage Stage) ([]Failure, error) {
	steps := x.o.Plan.stages[stage]
	if len(steps) == 0 {
		return nil, nil
	}
	conn, err := x.o.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", stage, err)
	}
	steps, err = x.remaining(ctx, conn, steps)
	jobs := 1
	if stage == StageIndexes || stage == StageConstraints {
		jobs = min(x.o.Jobs, len(steps))
	}
	q := x.queue(steps, jobs)
	// No shared context: when one session fails, the others end what they are at, which may be hours of an index.
	var group errgroup.Group
	group.Go(func() error {
		defer closeConn(ctx, conn)
		if err != nil {
			return err
		}
		return x.work(ctx, conn, q)
	})
	for i := 1; i < jobs; i++ {
		group.Go(func() error {
			conn, err := x.o.Connect(ctx)
			if err != nil {
				return err
			}
			defer closeConn(ctx, conn)
			return x.work(ctx, conn, q)
		})
	}
	if err := group.Wait(); err != nil {
		return q.failures, fmt.Errorf("create %s: %w", stage, err)
	}
	return q.failures, nil
}

// RunTable executes the indexes and unique constraints of one table as soon as its rows are there, on a session of
// the caller. What depends on another table that is not ready stays for RunStage(StageIndexes).
func (x *Executor) RunTable(ctx context.Context, conn *pgx.Conn, table Name) ([]Failure, error) {
	steps := x.o.Plan.tables[table]
	if len(steps) == 0 {
		return nil, nil
	}
	asked := slices.Clone(steps)
	for _, s := range steps {
		asked = append(asked, s.needs...)
	}
	left, err := x.remaining(ctx, conn, asked)
	if err != nil {
		return nil, fmt.Errorf("create indexes of %s: %w", table, err)
	}
	pending := make(map[*step]bool, len(left))
	for _, s := range left {
		pending[s] = true
	}
	q := x.queue(runnable(steps, pending), 1)
	if err := x.work(ctx, conn, q); err != nil {
		return q.failures, fmt.Errorf("create indexes of %s: %w", table, err)
	}
	return q.failures, nil
}

// runnable are the pending steps of one table whose needs are done or will be done before them.
func runnable(steps []*step, pending map[*step]bool) []*step {
	var list []*step
	chosen := map[*step]bool{}
	for _, s := range steps {
		waits := slices.ContainsFunc(s.needs, func(need *step) bool { return pending[need] && !chosen[need] })
		if pending[s] && !waits {
			chosen[s] = true
			list = append(list, s)
		}
	}
	return list
}

// remaining are the steps that are not recorded.
func (x *Executor) remaining(ctx context.Context, conn *pgx.Conn, steps []*step) ([]*step, error) {
	done, err := x.o.Journal.Done(ctx, conn, keys(steps))
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return slices.DeleteFunc(slices.Clone(steps), func(s *step) bool { return done[s.entry.key] }), nil
}

// work takes groups from the queue until it is empty or stopped.
func (x *Executor) work(ctx context.Context, conn *pgx.Conn, q *queue) error {
	defer context.AfterFunc(ctx, q.stop)()
	for group := q.take(); group != nil; group = q.take() {
		x.tell(group, EventStarted)
		failures, err := x.runGroup(ctx, conn, group)
		for _, f := range failures {
			q.report(f)
		}
		if err != nil || slices.ContainsFunc(failures, x.stops) {
			q.stop()
		}
		q.finish(group)
		if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

func (x *Executor) stops(f Failure) bool { return x.o.OnError != Continue && !f.Tolerated }

// runGroup runs the group in one transaction, or one by one to find which entry is refused.
func (x *Executor) runGroup(ctx context.Context, conn *pgx.Conn, group []*step) ([]Failure, error) {
	err := x.commit(ctx, conn, group)
	if err == nil {
		x.tell(group, EventDone)
		return nil, nil
	}
	if !refused(ctx, err) {
		return nil, err
	}
	if len(group) == 1 {
		return []Failure{x.fail(group[0], err)}, nil
	}
	var failures []Failure
	for i := range group {
		more, err := x.runGroup(ctx, conn, group[i:i+1])
		failures = append(failures, more...)
		if err != nil || slices.ContainsFunc(more, x.stops) {
			return failures, err
		}
	}
	return failures, nil
}

func (x *Executor) fail(s *step, err error) Failure {
	f := newFailure(s, err)
	state := EventFailed
	if f.Tolerated {
		state = EventTolerated
	}
	x.tell([]*step{s}, state)
	return f
}

func newFailure(s *step, err error) Failure {
	return Failure{Entry: s.entry, SQL: shown(s), Err: err, Tolerated: tolerated(s.entry, err)}
}

// insufficientPrivilege is the SQLSTATE for "must be owner".
const insufficientPrivilege = "42501"

func tolerated(e *Entry, err error) bool {
	return e.Desc == descComment && postgres.Code(err) == insufficientPrivilege &&
		(strings.HasPrefix(e.Tag, descExtension+" ") || e.isPublicComment())
}

func (x *Executor) tell(group []*step, state EventState) {
	if x.o.Progress == nil {
		return
	}
	for _, s := range group {
		x.o.Progress(Event{Stage: s.stage, Entry: s.entry, State: state})
	}
}

func keys(steps []*step) []string {
	list := make([]string, len(steps))
	for i, s := range steps {
		list[i] = s.entry.key
	}
	return list
}
