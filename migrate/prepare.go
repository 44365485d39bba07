package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/snapshot"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// startSnapshot is the one moment of the source that is copied.
type startSnapshot struct {
	name string
	lsn  postgres.LSN // what the stream holds from here on is not in the snapshot; 0 without a stream
	lost func() bool  // its session has ended, so that nobody else can take it
	end  func()
}

func (a *attempt) closeSnapshot() {
	if a.snapshot != nil {
		a.snapshot.end()
		a.snapshot = nil
	}
}

// prepare makes publication, slot and snapshot and stores the structure as of that snapshot. Until Begin has
// committed nothing counts, and whatever is left of an earlier try is removed first.
func (a *attempt) prepare(ctx context.Context) (err error) {
	storing := false
	defer func() {
		// Once it is being stored, the slot may count: the answer to the commit can have been lost.
		if err != nil && !storing {
			a.undoPrepare(ctx)
		}
	}()
	conn, err := a.connectSource(ctx, "prepare")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	catalog, err := a.openSnapshot(ctx, conn)
	if err != nil {
		return err
	}
	unchosen, err := catalog.Unchosen(ctx, conn)
	if err != nil {
		return err
	}
	archive, err := a.dump(ctx, unchosen)
	if err != nil {
		return err
	}
	storing = true
	if err := a.runner.Begin(ctx, a.snapshot.lsn, archive, catalog.Tables); err != nil {
		return err
	}
	a.showPhase(state.Structure)
	return nil
}

// undoPrepare leaves nothing on the source when the preparation failed: a slot that nobody reads keeps its log. It has
// a deadline of its own because the run's context may have ended; what it cannot reach, the next run removes.
func (a *attempt) undoPrepare(ctx context.Context) {
	a.closeSnapshot()
	undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	conn, err := a.connectSource(undoing, "prepare")
	if err == nil {
		defer conn.Close(undoing)
		err = a.removeFromSource(undoing, conn)
	}
	if err != nil {
		a.log.Warn("slot and publication could not be removed from the source; the next run or slipway migrate abort will", "error", err)
	}
}

// openSnapshot opens the first snapshot and reads the catalog under it, in a transaction of conn that is ended again.
func (a *attempt) openSnapshot(ctx context.Context, conn *pgx.Conn) (*schema.Catalog, error) {
	if a.config.Type != FullIncremental {
		if err := a.exportPlain(ctx); err != nil {
			return nil, err
		}
		return a.catalogUnder(ctx, conn)
	}
	// The publication must be older than the slot, and the tables are known for sure only under the slot's snapshot.
	// When they changed in between, it is done again.
	const tries = 5
	for try := 1; ; try++ {
		before, err := schema.Load(ctx, conn, a.config.Selection)
		if err != nil {
			return nil, err
		}
		if err := a.makeSlot(ctx, conn, followed(before.Tables)); err != nil {
			return nil, err
		}
		catalog, err := a.catalogUnder(ctx, conn)
		if err != nil {
			return nil, err
		}
		if sameTables(before.Tables, catalog.Tables) {
			return catalog, nil
		}
		a.closeSnapshot()
		if try == tries {
			return nil, errors.New("tables are created or dropped on the source all the time: stop that for the start of the migration")
		}
	}
}

// followed are the tables whose changes the stream carries: those that hold rows and write WAL.
func followed(tables []*schema.Table) []schema.Name {
	var names []schema.Name
	for _, t := range tables {
		if t.Kind == schema.Ordinary && !t.Unlogged {
			names = append(names, t.Name)
		}
	}
	return names
}

func sameTables(a, b []*schema.Table) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].OID != b[i].OID || a[i].Name != b[i].Name {
			return false
		}
	}
	return true
}

// makeSlot removes what an interrupted try left and makes publication, slot and snapshot anew.
func (a *attempt) makeSlot(ctx context.Context, conn *pgx.Conn, tables []schema.Name) error {
	job := a.runner.Job
	if err := a.removeFromSource(ctx, conn); err != nil {
		return err
	}
	if a.plugin() == stream.Pgoutput {
		if err := stream.CreatePublication(ctx, conn, job.Publication(), tables); err != nil {
			return err
		}
	}
	return a.exportSlot(ctx, job.Slot(), false)
}

// exportSlot makes a slot and keeps its snapshot open.
func (a *attempt) exportSlot(ctx context.Context, name string, temporary bool) error {
	slot, err := stream.CreateSlot(ctx, a.source, name, a.plugin(), stream.SlotOptions{
		Temporary: temporary,
		Session:   state.SessionName(a.runner.Job.ID, "slot"),
		Waiting: func(blockers []stream.Blocker) {
			a.tracker.set(func(s *Status) { s.Message = waitingFor(blockers) })
			a.log.Warn("the replication slot waits for older transactions on the source", "blockers", waitingFor(blockers))
		},
	})
	if err != nil {
		return err
	}
	a.tracker.set(func(s *Status) { s.Message = "" })
	lost := func() bool {
		select {
		case <-slot.Lost():
			return true
		default:
			return false
		}
	}
	a.snapshot = &startSnapshot{name: slot.Name, lsn: slot.ConsistentPoint, lost: lost, end: func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = slot.Close(closing)
	}}
	return nil
}

func waitingFor(blockers []stream.Blocker) string {
	if len(blockers) == 0 {
		return "waiting for the source to start decoding"
	}
	text := "waiting for older transactions on the source to end:"
	for i, b := range blockers {
		if i == 3 {
			return fmt.Sprintf("%s and %d more", text, len(blockers)-i)
		}
		text += " " + b.String() + ";"
	}
	return text
}

// exportPlain opens a snapshot without a slot, for migrations that follow nothing.
func (a *attempt) exportPlain(ctx context.Context) error {
	conn, err := a.connectSource(ctx, "snapshot")
	if err != nil {
		return err
	}
	exported, err := snapshot.Export(ctx, conn)
	if err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return err
	}
	a.snapshot = &startSnapshot{name: exported, lost: func() bool { return conn.Ping(ctx) != nil }, end: func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}}
	return nil
}

// catalogUnder reads the catalog as of the open snapshot.
func (a *attempt) catalogUnder(ctx context.Context, conn *pgx.Conn) (*schema.Catalog, error) {
	var catalog *schema.Catalog
	err := snapshot.Within(ctx, conn, a.snapshot.name, func() (err error) {
		catalog, err = schema.Load(ctx, conn, a.config.Selection)
		return err
	})
	return catalog, err
}

// dump reads the structure under the snapshot, as the bytes that are stored.
func (a *attempt) dump(ctx context.Context, exclude []schema.Name) ([]byte, error) {
	tool, err := postgres.ClientTool(ctx, a.config.ToolRoots, "pg_dump", a.sourceVersion.Major())
	if err != nil {
		return nil, err
	}
	// pg_dump tells by text alone why it failed. A lost connection of its own is worth another try, and what is no
	// lost connection fails again at once.
	const tries = 3
	for try := 1; ; try++ {
		archive, err := schema.Dump(ctx, schema.DumpOptions{Tool: tool.Path, Source: a.source, Snapshot: a.snapshot.name, Exclude: exclude})
		switch {
		case err == nil:
			return archive.Raw, nil
		case a.snapshot.lost():
			return nil, fmt.Errorf("%w: %w", snapshot.ErrSnapshotLost, err)
		case try == tries || ctx.Err() != nil:
			return nil, err
		}
	}
}

// removeFromSource drops the slots and the publication of the job.
func (a *attempt) removeFromSource(ctx context.Context, conn *pgx.Conn) error {
	job := a.runner.Job
	for _, slot := range []string{job.Slot(), copySlot(job)} {
		if err := stream.DropSlot(ctx, conn, slot); err != nil {
			return err
		}
	}
	if !a.sourceVersion.AtLeast(10) {
		return nil
	}
	return stream.DropPublication(ctx, conn, job.Publication())
}

// copySlot is the name of the slot that gives a later snapshot its position when the first one was lost.
func copySlot(job *state.Job) string { return job.Slot() + "_copy" }
