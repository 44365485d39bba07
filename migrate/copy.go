package migrate

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/snapshot"
	"github.com/slipway-db/slipway/migrate/state"
)

// recorder stores finished parts of the copy in the target's own transactions.
type recorder struct{ *state.Runner }

func (r recorder) RecordPart(p snapshot.Part, rows, bytes int64) (string, []any) {
	return r.Runner.RecordPart(p.Table.Name, p.Number, rows, bytes)
}

func (r recorder) PartRecorded(p snapshot.Part) (string, []any) {
	return r.Runner.PartRecorded(p.Table.Name, p.Number)
}

// copyData copies every table that is not copied yet, builds the indexes of each as soon as its rows are there, and
// aligns large objects and rows of extensions.
func (a *attempt) copyData(ctx context.Context) error {
	relations, err := a.runner.Relations(ctx)
	if err != nil {
		return err
	}
	fresh := a.snapshot != nil // nothing was copied before
	todo := a.uncopied(relations)
	if !fresh && len(todo) > 0 {
		if todo, err = a.newSnapshot(ctx, relations, todo); err != nil {
			return err
		}
	}
	tables, err := a.definitions(todo)
	if err != nil {
		return err
	}
	indexes := newIndexing(relations, tables)
	group, groupCtx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(groupCtx, indexes.end)
	defer stop()
	group.Go(func() error {
		defer indexes.end()
		return a.copyTables(groupCtx, tables, fresh, indexes)
	})
	for range a.config.Jobs {
		group.Go(func() error { return a.indexTables(groupCtx, indexes) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := a.requireLoaded(ctx); err != nil {
		return err
	}
	return a.copyRest(ctx)
}

// uncopied are the tables of the migration whose rows are not all on the target, with partitioned parents, which have
// none. What counts is what was chosen at the start, not what the source holds by now.
func (a *attempt) uncopied(relations map[schema.Name]state.Relation) []schema.Name {
	var names []schema.Name
	for name, r := range relations {
		if !r.Copied && !a.missing[name] {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, schema.CompareNames)
	return names
}

// definitions are the tables as the open snapshot sees them. One that is gone cannot be copied, and is not forgotten.
func (a *attempt) definitions(names []schema.Name) ([]*schema.Table, error) {
	tables := make([]*schema.Table, 0, len(names))
	for _, name := range names {
		t := a.tables[name]
		if t == nil {
			return nil, fmt.Errorf("table %s was dropped or renamed on the source before it was copied: "+
				"undo that and run again, or give up with slipway migrate abort and start anew", name)
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// requireLoaded is the gate behind the copy: nothing goes on while a table is not whole.
func (a *attempt) requireLoaded(ctx context.Context) error {
	if a.config.Type == StructureOnly {
		return nil
	}
	relations, err := a.runner.Relations(ctx)
	if err != nil {
		return err
	}
	for name, r := range relations {
		if (!r.Copied || !r.Indexed) && !a.missing[name] {
			return fmt.Errorf("table %s is not completely on the target: give up with slipway migrate abort and start anew", name)
		}
	}
	return nil
}

// newSnapshot opens a snapshot in place of one that was lost with an earlier attempt. With a stream, tables that are
// finished stay: the others get a snapshot with a position of its own, up to which the stream is skipped for them.
// Without a stream nothing could make the tables agree again, so all of them are copied anew.
func (a *attempt) newSnapshot(ctx context.Context, relations map[schema.Name]state.Relation, todo []schema.Name) ([]schema.Name, error) {
	if a.config.Type == FullIncremental {
		a.log.Info("the snapshot of the earlier run is gone: copying unfinished tables under a new one", "tables", len(todo))
		if err := a.exportSlot(ctx, copySlot(a.runner.Job), true); err != nil {
			return nil, err
		}
		return todo, a.readCatalog(ctx)
	}
	a.log.Info("the snapshot of the earlier run is gone: copying all tables anew, so that they agree")
	if err := a.exportPlain(ctx); err != nil {
		return nil, err
	}
	all := make([]schema.Name, 0, len(relations))
	for name := range relations {
		if !a.missing[name] {
			all = append(all, name)
		}
	}
	slices.SortFunc(all, schema.CompareNames)
	return all, a.readCatalog(ctx)
}

// copyTables copies the tables under the open snapshot. Unless they are fresh, rows of an earlier copy go first.
func (a *attempt) copyTables(ctx context.Context, todo []*schema.Table, fresh bool, indexes *indexing) error {
	if len(todo) == 0 {
		return nil
	}
	parts, err := a.planParts(ctx, todo)
	if err != nil {
		return err
	}
	counts := make(map[schema.Name]int, len(todo))
	names := make([]schema.Name, 0, len(todo))
	for _, t := range todo {
		counts[t.Name] = 0
		if t.Kind == schema.Ordinary && !fresh { // a partitioned parent cannot be emptied alone, and has nothing of its own
			names = append(names, t.Name)
		}
	}
	for _, p := range parts {
		counts[p.Table.Name] = p.Of
	}
	empty := func(conn *pgx.Conn) error { return snapshot.Empty(ctx, conn, names) }
	if err := a.runner.BeginCopy(ctx, counts, a.snapshot.lsn, empty); err != nil {
		return err
	}
	for _, t := range todo {
		if counts[t.Name] == 0 {
			indexes.add(t.Name) // a partitioned parent has no rows of its own
		}
	}
	return a.runCopier(ctx, parts, indexes)
}

func (a *attempt) planParts(ctx context.Context, tables []*schema.Table) ([]snapshot.Part, error) {
	conn, err := a.connectSource(ctx, "copy")
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return snapshot.PlanParts(ctx, conn, tables, snapshot.PlanOptions{
		SourceVersion: a.sourceVersion, SplitBytes: a.config.SplitBytes, Jobs: a.config.Jobs,
	})
}

func (a *attempt) runCopier(ctx context.Context, parts []snapshot.Part, indexes *indexing) error {
	rows, bytes, err := a.runner.Totals(ctx)
	if err != nil {
		return err
	}
	copier, err := snapshot.New(snapshot.Config{
		Source: a.source, Target: a.target, Session: state.SessionName(a.runner.Job.ID, "copy"),
		Snapshot: a.snapshot.name, Parts: parts, Recorder: recorder{a.runner},
		Jobs: a.config.Jobs, MaxRowsPerSecond: a.config.MaxRowsPerSecond,
		SameMajor: a.sourceVersion.Major() == a.targetVersion.Major(), RetryFor: min(a.config.RetryFor, time.Minute),
		TableDone: func(t *schema.Table) { indexes.add(t.Name) },
	})
	if err != nil {
		return err
	}
	a.tracker.copying(copier.Stats, rows, bytes)
	return copier.Run(ctx)
}

// indexing is the queue of tables whose rows are on the target: they are noted as copied and their indexes are built,
// beside the copy, by one worker per job.
type indexing struct {
	mu    sync.Mutex
	queue []schema.Name
	more  *sync.Cond
	ended bool
}

// newIndexing begins with the tables that earlier runs had copied but not indexed and that are not copied anew.
func newIndexing(relations map[schema.Name]state.Relation, anew []*schema.Table) *indexing {
	x := &indexing{}
	x.more = sync.NewCond(&x.mu)
	again := map[schema.Name]bool{}
	for _, t := range anew {
		again[t.Name] = true
	}
	for name, r := range relations {
		if r.Copied && !r.Indexed && !again[name] {
			x.queue = append(x.queue, name)
		}
	}
	return x
}

func (x *indexing) add(table schema.Name) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.queue = append(x.queue, table)
	x.more.Signal()
}

// end lets the workers return when the queue is empty.
func (x *indexing) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = true
	x.more.Broadcast()
}

// next blocks until there is a table or nothing more will come.
func (x *indexing) next() (schema.Name, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(x.queue) == 0 && !x.ended {
		x.more.Wait()
	}
	if len(x.queue) == 0 {
		return schema.Name{}, false
	}
	table := x.queue[0]
	x.queue = x.queue[1:]
	return table, true
}

func (a *attempt) indexTables(ctx context.Context, x *indexing) error {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	for {
		table, more := x.next()
		if !more || ctx.Err() != nil {
			return ctx.Err()
		}
		if err := a.runner.SetCopied(ctx, table); err != nil {
			return err
		}
		a.tracker.set(func(s *Status) { s.TablesCopied++ })
		if len(a.plan.TableEntries(table)) > 0 {
			if conn == nil {
				var err error
				if conn, err = a.connectRestore(ctx); err != nil {
					return err
				}
			}
			if err := a.indexTable(ctx, conn, table); err != nil {
				return err
			}
		}
		if err := a.runner.SetIndexed(ctx, table); err != nil {
			return err
		}
		a.tracker.set(func(s *Status) { s.TablesIndexed++ })
	}
}

func (a *attempt) indexTable(ctx context.Context, conn *pgx.Conn, table schema.Name) error {
	end := a.tracker.work("indexes of " + table.String())
	defer end()
	failures, err := a.executor(nil).RunTable(ctx, conn, table)
	return a.keepFailures(ctx, failures, err)
}

// copyRest brings what is no table of the user: large objects and the rows that extensions keep for the user.
func (a *attempt) copyRest(ctx context.Context) error {
	if _, err := a.alignLargeObjects(ctx); err != nil {
		return err
	}
	_, err := a.alignConfigTables(ctx)
	return err
}
