package migrate

import (
	"context"
	"fmt"
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
	todo := a.uncopied(relations)
	if a.snapshot == nil && len(todo) > 0 {
		if todo, err = a.newSnapshot(ctx, todo); err != nil {
			return err
		}
	}
	indexes := newIndexing(relations, todo)
	group, groupCtx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(groupCtx, indexes.end)
	defer stop()
	group.Go(func() error {
		defer indexes.end()
		return a.copyTables(groupCtx, todo, indexes)
	})
	for range a.config.Jobs {
		group.Go(func() error { return a.indexTables(groupCtx, indexes) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return a.copyRest(ctx)
}

// uncopied are the chosen tables whose rows are not all on the target, with partitioned parents, which have none.
func (a *attempt) uncopied(relations map[schema.Name]state.Relation) []*schema.Table {
	var todo []*schema.Table
	for _, t := range a.catalog.Tables {
		if r, chosen := relations[t.Name]; chosen && !r.Copied {
			todo = append(todo, t)
		}
	}
	return todo
}

// newSnapshot opens a snapshot in place of one that was lost with an earlier attempt. With a stream, tables that are
// finished stay: the others get a snapshot with a position of its own, up to which the stream is skipped for them.
// Without a stream nothing could make the tables agree again, so all of them are copied anew.
func (a *attempt) newSnapshot(ctx context.Context, todo []*schema.Table) ([]*schema.Table, error) {
	if a.config.Type == FullIncremental {
		a.log.Info("the snapshot of the earlier run is gone: copying unfinished tables under a new one", "tables", len(todo))
		if err := a.exportSlot(ctx, copySlot(a.runner.Job), true); err != nil {
			return nil, err
		}
	} else {
		a.log.Info("the snapshot of the earlier run is gone: copying all tables anew, so that they agree")
		if err := a.exportPlain(ctx); err != nil {
			return nil, err
		}
		todo = a.catalog.Tables
	}
	// Definitions as the new snapshot sees them.
	chosen := map[schema.Name]bool{}
	for _, t := range todo {
		chosen[t.Name] = true
	}
	if err := a.readCatalog(ctx); err != nil {
		return nil, err
	}
	todo = todo[:0:0]
	for _, t := range a.catalog.Tables {
		if chosen[t.Name] {
			todo = append(todo, t)
			delete(chosen, t.Name)
		}
	}
	for name := range chosen {
		return nil, fmt.Errorf("table %s was dropped or renamed on the source before it was copied: give up with slipway migrate abort and start anew", name)
	}
	return todo, nil
}

func (a *attempt) copyTables(ctx context.Context, todo []*schema.Table, indexes *indexing) error {
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
		if t.Kind == schema.Ordinary { // a partitioned parent cannot be emptied alone, and has nothing of its own
			names = append(names, t.Name)
		}
	}
	for _, p := range parts {
		counts[p.Table.Name] = p.Of
	}
	// First forget, then empty: after a crash in between the tables count as not copied.
	if err := a.runner.BeginCopy(ctx, counts, a.snapshot.lsn); err != nil {
		return err
	}
	if err := a.emptyTables(ctx, names); err != nil {
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

func (a *attempt) emptyTables(ctx context.Context, names []schema.Name) error {
	conn, err := a.connectTarget(ctx, "copy")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return snapshot.Empty(ctx, conn, names)
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
