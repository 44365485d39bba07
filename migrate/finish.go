package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/cutover"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// finishLoadOnly ends a structure or full migration: there is no stream, so what is left is aligned at once.
func (a *attempt) finishLoadOnly(ctx context.Context) error {
	if a.runner.Job.Phase == state.Done {
		return a.cleanUp(ctx)
	}
	if err := a.enter(ctx, state.Complete); err != nil {
		return err
	}
	a.cutover = &cutover.Report{}
	if err := a.align(ctx); err != nil {
		return err
	}
	return a.cleanUp(ctx)
}

// follow applies changes until completion was asked for and is possible, and completes. Everything up to the clean-up
// can be stopped and taken up again, and nothing on the source has changed until then.
func (a *attempt) follow(ctx context.Context) error {
	if a.runner.Job.Phase == state.Done {
		return a.cleanUp(ctx)
	}
	// What the start held back on the source (dead rows, all the while changes are followed) is not needed any more, and
	// the completion must read large objects as they are then.
	a.closeSnapshot()
	a.cutover = &cutover.Report{}
	for {
		if err := a.withStream(ctx, a.untilDrained); err != nil {
			return err
		}
		// This commit is synchronous, so it also makes durable what was applied before it.
		if err := a.enter(ctx, state.Complete); err != nil {
			return err
		}
		started := time.Now()
		if err := a.align(ctx); err != nil {
			return err
		}
		late, err := a.lateWrites(ctx)
		if err != nil {
			return err
		}
		a.cutover.Seconds = time.Since(started).Seconds()
		if late == "" {
			return a.cleanUp(ctx)
		}
		a.log.Warn("the source was written to during completion: applying that and aligning again", "late", late)
	}
}

// untilDrained follows until completion is asked for, does what can be done before writes must stop, and returns when
// target and source are equal with nobody writing.
func (a *attempt) untilDrained(ctx context.Context, f *following) error {
	// What takes long comes before the request, because writes usually stop right before it.
	if err := a.waitInSync(ctx); err != nil {
		return err
	}
	if err := a.analyzeChanged(ctx, f); err != nil {
		return err
	}
	if err := a.waitForRequest(ctx); err != nil {
		return err
	}
	conn, err := a.connectSource(ctx, "drain")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := a.checkDrift(ctx, conn); err != nil {
		return err
	}
	if err := a.waitInSync(ctx); err != nil {
		return err
	}
	started := time.Now()
	lsn, err := a.drain(ctx, conn, f)
	if err != nil {
		return err
	}
	a.drained = lsn
	a.cutover.Note("drain", fmt.Sprintf("up to %s", lsn), started)
	a.tracker.set(func(s *Status) { s.Message = "" })
	return nil
}

const pollInterval = 100 * time.Millisecond

// poll asks until the answer is yes.
func poll(ctx context.Context, ask func() (bool, error)) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		yes, err := ask()
		if err != nil || yes {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func (a *attempt) waitForRequest(ctx context.Context) error {
	return poll(ctx, func() (bool, error) {
		if a.config.CompleteWhenSynced {
			return true, nil
		}
		return a.runner.WantDone(ctx)
	})
}

func (a *attempt) waitInSync(ctx context.Context) error {
	return poll(ctx, func() (bool, error) { return a.tracker.current().InSync, nil })
}

// drain waits for two positions in a row, a poll interval apart, between which the source changed nothing that is
// followed: the second is where source and target are equal and nobody writes.
func (a *attempt) drain(ctx context.Context, conn *pgx.Conn, f *following) (lsn postgres.LSN, err error) {
	before := int64(-1)
	err = poll(ctx, func() (bool, error) {
		// In this order: a transaction that is not open now and commits before the fence lies below it.
		writers, err := stream.OpenWriters(ctx, conn)
		if err != nil {
			return false, err
		}
		if lsn, err = a.drainOnce(ctx, conn, f); err != nil {
			return false, err
		}
		now := f.applier.Stats().Changes()
		if now == before && len(writers) == 0 {
			return true, nil
		}
		if before >= 0 {
			a.tracker.set(func(s *Status) { s.Message = stillWritten(writers) })
		}
		before = now
		return false, nil
	})
	return lsn, err
}

// stillWritten says what completion waits for.
func stillWritten(writers []string) string {
	const message = "ready to complete: waiting for the application to stop writing to the source"
	if len(writers) == 0 {
		return message
	}
	if len(writers) > 3 {
		writers = append(writers[:3:3], "…")
	}
	return message + "; open transactions: " + strings.Join(writers, ", ")
}

func (a *attempt) drainOnce(ctx context.Context, conn *pgx.Conn, f *following) (postgres.LSN, error) {
	lsn, err := fence(ctx, conn)
	if err != nil {
		return 0, err
	}
	return lsn, waitApplied(ctx, f, lsn)
}

// lateWrites describes what the source has done since the target was drained: changes, which are not applied, or
// transactions that are still open. Empty is what completion needs. It counts from the recorded or the drained position:
// no change lies between the two.
func (a *attempt) lateWrites(ctx context.Context) (string, error) {
	lsn, err := a.runner.Position(ctx)
	if err != nil {
		return "", err
	}
	conn, err := a.connectSource(ctx, "drain")
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	writers, err := stream.OpenWriters(ctx, conn) // before the fence, see drain
	if err != nil || len(writers) > 0 {
		return strings.Join(writers, ", "), err
	}
	until, err := fence(ctx, conn)
	if err != nil {
		return "", err
	}
	if err := a.verifyPublication(ctx, conn); err != nil {
		return "", err
	}
	relations, err := a.runner.Relations(ctx)
	if err != nil {
		return "", err
	}
	// Changes that a table's copy holds already are passed over without a record of their own, and are not late.
	changes, err := stream.CountChanges(ctx, a.streamConfig(max(lsn, a.drained), relations), until)
	if err != nil || changes == 0 {
		return "", err
	}
	return fmt.Sprintf("%d changes after %s", changes, lsn), nil
}

// checkDrift refuses to complete when tables or sequences appeared on the source, or were dropped there, since the
// structure was copied: DDL is not followed, and nothing may be missing silently.
func (a *attempt) checkDrift(ctx context.Context, conn *pgx.Conn) error {
	now, err := schema.Load(ctx, conn, a.config.Selection)
	if err != nil {
		return err
	}
	relations, err := a.runner.Relations(ctx)
	if err != nil {
		return err
	}
	copied := make(map[schema.Name]bool, len(relations))
	for name := range relations {
		copied[name] = true
	}
	drift := schema.Drift(copied, now)
	if len(drift) == 0 {
		return nil
	}
	a.cutover.Warnings = append(a.cutover.Warnings, drift...)
	if a.config.AllowDrift {
		return nil
	}
	return &DriftError{Objects: drift}
}

// align brings over what the stream does not carry, in the order in which the steps need each other.
func (a *attempt) align(ctx context.Context) error {
	steps := []cutover.Step{}
	if a.config.Type == FullIncremental && !a.sourceVersion.AtLeast(decodesTruncate) {
		steps = append(steps, cutover.Step{Name: "row counts", Run: a.countRows})
	}
	if !a.replicaRole {
		steps = append(steps, cutover.Step{Name: "foreign keys", Run: a.stageStep(schema.StageConstraints)})
	}
	if a.config.Type != StructureOnly {
		steps = append(steps,
			cutover.Step{Name: "sequences", Run: a.alignSequences},
			cutover.Step{Name: "large objects", Run: a.alignLargeObjects},
			cutover.Step{Name: "extension tables", Run: a.alignConfigTables},
		)
	}
	steps = append(steps, cutover.Step{Name: "triggers, rules, policies, grants", Run: a.stageStep(schema.StageLate)})
	if a.config.Type != StructureOnly {
		steps = append(steps, cutover.Step{Name: "materialized views", Run: a.refreshViews})
	}
	return a.cutover.Run(ctx, steps, func(name string) {
		a.tracker.set(func(s *Status) { s.Message = "aligning " + name })
	})
}

func (a *attempt) stageStep(stage schema.Stage) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		created, err := a.restoreStage(ctx, stage)
		return fmt.Sprintf("%d created", created), err
	}
}

// cleanUp removes slot and publication from the source and our schema from the target. From its first step on the
// migration counts as done: a crash in here only leaves cleaning to do.
func (a *attempt) cleanUp(ctx context.Context) error {
	if err := a.requireLoaded(ctx); err != nil {
		return err
	}
	if err := a.enter(ctx, state.Done); err != nil {
		return err
	}
	if a.config.Type == FullIncremental {
		conn, err := a.connectSource(ctx, "clean")
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		if err := a.removeFromSource(ctx, conn); err != nil {
			return err
		}
	}
	_, failures, err := a.runner.Entries(ctx)
	if err != nil {
		return err
	}
	a.failures, a.done = failures, true
	summary, err := json.Marshal(a.summary())
	if err != nil {
		return fmt.Errorf("report the end: %w", err)
	}
	if len(a.config.Databases) > 1 {
		return a.runner.Announce(ctx, summary) // see run.forget
	}
	return a.runner.Finish(ctx, summary)
}

// summaryWarnings keeps a notification below the 8,000 bytes that the server takes.
const summaryWarnings = 5

// summary is the result cut to what a notification can carry.
func (a *attempt) summary() DatabaseResult {
	result := a.result()
	result.Failures, result.LeftOut, result.Status.InFlight = nil, nil, nil
	if result.Cutover != nil && len(result.Cutover.Warnings) > summaryWarnings {
		shortened := *result.Cutover
		shortened.Warnings = append(shortened.Warnings[:summaryWarnings:summaryWarnings], "and more: see the output of the run")
		result.Cutover = &shortened
	}
	return result
}
