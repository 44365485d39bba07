package migrate

import (
	"context"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/cutover"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/state"
)

// readPlan reads the stored structure and the catalog of the source, under the snapshot when it is still open, else as
// it is now: names, keys and columns of the chosen tables.
func (a *attempt) readPlan(ctx context.Context) error {
	stored, err := a.runner.Archive(ctx)
	if err != nil {
		return err
	}
	archive, err := schema.ReadArchive(stored)
	if err != nil {
		return err
	}
	if err := a.readCatalog(ctx); err != nil {
		return err
	}
	a.plan, err = archive.Plan(schema.PlanOptions{
		Selection: a.config.Selection, Relations: a.catalog.Relations, Target: a.targetVersion,
		NoOwner: a.config.NoOwner, NoPrivileges: a.config.NoPrivileges,
		Ignore: func(e *schema.Entry) bool { return e.Desc == "PUBLICATION" && e.Tag == a.runner.Job.Publication() },
	})
	if err != nil {
		return err
	}
	if err := a.readMissing(ctx); err != nil {
		return err
	}
	a.leftOut = nil
	for _, left := range a.plan.LeftOut {
		a.leftOut = append(a.leftOut, left.String())
	}
	return nil
}

// readMissing reads which tables were given up because they could not be created.
func (a *attempt) readMissing(ctx context.Context) error {
	done, _, err := a.runner.Entries(ctx)
	if err != nil {
		return err
	}
	a.missing = map[schema.Name]bool{}
	for _, e := range a.plan.Entries(schema.StagePreData) {
		if created, known := done[e.Key()]; e.Desc == "TABLE" && known && !created {
			a.missing[schema.Name{Schema: e.Schema, Name: e.Tag}] = true
		}
	}
	return nil
}

func (a *attempt) readCatalog(ctx context.Context) error {
	conn, err := a.connectSource(ctx, "catalog")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if a.snapshot != nil {
		a.catalog, err = a.catalogUnder(ctx, conn)
	} else {
		a.catalog, err = schema.Load(ctx, conn, a.config.Selection)
	}
	if err != nil {
		return err
	}
	a.tables = map[schema.Name]*schema.Table{}
	var rows, bytes int64
	for _, t := range a.catalog.Tables {
		a.tables[t.Name] = t
		if t.Kind == schema.Ordinary {
			rows += max(0, t.Rows)
			bytes += t.Bytes
		}
	}
	return a.readDone(ctx, rows, bytes)
}

// readDone shows what earlier runs have done already.
func (a *attempt) readDone(ctx context.Context, rowsEstimated, bytesEstimated int64) error {
	relations, err := a.runner.Relations(ctx)
	if err != nil {
		return err
	}
	rows, bytes, err := a.runner.Totals(ctx)
	if err != nil {
		return err
	}
	copied, indexed := 0, 0
	for _, relation := range relations {
		if relation.Copied {
			copied++
		}
		if relation.Indexed {
			indexed++
		}
	}
	a.tracker.set(func(s *Status) {
		s.Tables, s.TablesCopied, s.TablesIndexed = len(relations), copied, indexed
		s.Rows, s.Bytes, s.RowsEstimated, s.BytesEstimated = rows, bytes, rowsEstimated, bytesEstimated
	})
	return nil
}

func (a *attempt) createStructure(ctx context.Context) error {
	_, err := a.restoreStage(ctx, schema.StagePreData)
	return err
}

// restoreStage creates the entries of a stage that are not there yet and tells how many it created.
func (a *attempt) restoreStage(ctx context.Context, stage schema.Stage) (created int, err error) {
	var mu sync.Mutex
	executor := a.executor(func(e schema.Event) {
		if e.State == schema.EventDone {
			mu.Lock()
			created++
			mu.Unlock()
		}
	})
	failures, err := executor.RunStage(ctx, stage)
	return created, a.keepFailures(ctx, failures, err)
}

// executor creates objects of the plan; watch may be nil.
func (a *attempt) executor(watch func(schema.Event)) *schema.Executor {
	options := schema.ExecutorOptions{
		Plan: a.plan, Journal: journal{a.runner}, Jobs: a.config.Jobs, OnError: schema.Stop, Progress: watch, Large: a.largeTables(),
		Connect: a.connectRestore,
	}
	if a.config.ContinueOnObjectError {
		options.OnError = schema.Continue
	}
	return schema.NewExecutor(options)
}

// journal remembers created entries in the state of the job.
type journal struct{ *state.Runner }

func (j journal) Record(keys []string) (string, []any) { return j.RecordKeys(keys) }

// largeBytes is the heap size from which a table's indexes and foreign keys get transactions of their own.
const largeBytes = 64 << 20

func (a *attempt) largeTables() map[schema.Name]bool {
	large := map[schema.Name]bool{}
	for _, t := range a.catalog.Tables {
		if t.Bytes >= largeBytes {
			large[t.Name] = true
		}
	}
	return large
}

// keepFailures stores objects that could not be created and turns them into an error unless the run goes on without
// them.
func (a *attempt) keepFailures(ctx context.Context, failures []schema.Failure, err error) error {
	if err != nil && len(failures) == 0 {
		return err
	}
	stopped := &ObjectError{}
	for _, f := range failures {
		if f.Tolerated {
			a.log.Warn("object could not be created, which changes nothing that matters", "object", f.Entry.String(), "error", f.Err)
			continue
		}
		a.log.Error("object could not be created", "object", f.Entry.String(), "error", f.Err, "statement", f.SQL)
		if !a.config.ContinueOnObjectError {
			stopped.Failures = append(stopped.Failures, state.Failure{Key: f.Entry.String(), Message: f.Err.Error(), Statement: f.SQL})
			continue
		}
		if err := a.runner.RecordFailure(ctx, f.Entry.Key(), f.SQL, f.Err); err != nil {
			return err
		}
		a.tracker.set(func(s *Status) { s.ObjectsFailed++ })
	}
	if len(stopped.Failures) > 0 {
		return errors.Join(stopped, err)
	}
	return err
}

// addConstraints adds what must hold between tables, collects statistics and tries out the rest of the structure, so
// that an object that cannot be created is known long before the cutover.
func (a *attempt) addConstraints(ctx context.Context) error {
	if a.config.Type == FullIncremental {
		if err := a.catchUp(ctx); err != nil {
			return err
		}
	}
	if _, err := a.restoreStage(ctx, schema.StageIndexes); err != nil { // what belongs to no table of its own
		return err
	}
	if a.replicaRole || a.config.Type != FullIncremental {
		if _, err := a.restoreStage(ctx, schema.StageConstraints); err != nil {
			return err
		}
	}
	if a.config.Type == StructureOnly {
		return nil
	}
	if err := a.analyze(ctx, a.rowTables()); err != nil {
		return err
	}
	return a.rehearse(ctx)
}

// rehearse creates the late stage in a transaction that is rolled back.
func (a *attempt) rehearse(ctx context.Context) error {
	if a.config.Type != FullIncremental {
		return nil
	}
	conn, err := a.connectTarget(ctx, "rehearse")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	failures, err := a.executor(nil).DryRun(ctx, conn, schema.StageLate)
	return a.keepFailures(ctx, failures, err)
}

func (a *attempt) rowTables() []schema.Name {
	var names []schema.Name
	for _, t := range a.catalog.Tables {
		if t.Kind == schema.Ordinary && !a.missing[t.Name] {
			names = append(names, t.Name)
		}
	}
	return names
}

func (a *attempt) analyze(ctx context.Context, tables []schema.Name) error {
	done := a.tracker.work("analyze")
	defer done()
	return cutover.Analyze(ctx, func(ctx context.Context) (*pgx.Conn, error) { return a.connectTarget(ctx, "analyze") }, tables, a.config.Jobs)
}
