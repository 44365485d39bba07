package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-db/slipway/migrate/apply"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// following is a stream that is being applied.
type following struct {
	reader  *stream.Reader
	applier *apply.Applier
}

// withStream applies the stream while work runs, and ends it when work returns. Whatever fails first ends all; work's
// own error counts when nothing else failed.
func (a *attempt) withStream(ctx context.Context, work func(context.Context, *following) error) error {
	start, err := a.runner.Position(ctx)
	if err != nil {
		return err
	}
	relations, err := a.runner.Relations(ctx)
	if err != nil {
		return err
	}
	for _, before := range []func(context.Context) error{
		a.publicationStands,
		func(ctx context.Context) error { return a.compareShapes(ctx, relations) },
		a.withdrawEffects,
	} {
		if err := before(ctx); err != nil {
			return err
		}
	}
	f := &following{reader: stream.New(a.streamConfig(start, relations))}
	f.applier = apply.New(apply.Config{
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return a.connectTarget(ctx, "apply") },
		Tables:  a.applyTables(relations), Ignore: a.ignored(), Recorder: a.runner, Source: f.reader, Start: start, ReplicaRole: a.replicaRole,
	})
	a.tracker.follow(f.applier.Stats)

	streaming, stop := context.WithCancel(ctx)
	defer stop()
	group, groupCtx := errgroup.WithContext(streaming)
	ended := errors.New("the work beside the stream has ended")
	for _, run := range []func(context.Context) error{
		f.reader.Run, f.applier.Run,
		func(ctx context.Context) error { return a.watchLag(ctx, f) },
	} {
		group.Go(func() error { return run(groupCtx) })
	}
	group.Go(func() error {
		if err := work(groupCtx, f); err != nil {
			return err
		}
		return ended
	})
	err = group.Wait()
	if errors.Is(err, ended) {
		return nil
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

func (a *attempt) streamConfig(start postgres.LSN, relations map[schema.Name]state.Relation) stream.Config {
	job := a.runner.Job
	return stream.Config{
		Endpoint: a.source, Session: state.SessionName(job.ID, "stream"), Slot: job.Slot(), Publications: []string{job.Publication()},
		Plugin: stream.Plugin(job.Plugin), ServerVersion: a.sourceVersion, Start: start,
		Tables: func(schemaName, name string) bool {
			_, chosen := relations[schema.Name{Schema: schemaName, Name: name}]
			return chosen
		},
	}
}

func (a *attempt) applyTables(relations map[schema.Name]state.Relation) map[schema.Name]apply.Table {
	tables := make(map[schema.Name]apply.Table, len(relations))
	for name, relation := range relations {
		table := apply.Table{Target: name, CopyLSN: relation.CopyLSN}
		if t := a.tables[name]; t != nil {
			if t.Kind != schema.Ordinary {
				continue
			}
			table.Identity, table.IdentityColumns = t.Identity, t.IdentityColumns
		}
		if !a.missing[name] {
			tables[name] = table
		}
	}
	return tables
}

// ignored are tables without rows on the target: those that were given up, and partitioned parents, for a TRUNCATE
// that names one names its leaves too.
func (a *attempt) ignored() map[schema.Name]bool {
	ignored := maps.Clone(a.missing)
	for _, t := range a.catalog.Tables {
		if t.Kind == schema.Partitioned {
			ignored[t.Name] = true
		}
	}
	return ignored
}

// waitApplied returns once everything up to lsn is on the target.
func waitApplied(ctx context.Context, f *following, lsn postgres.LSN) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for f.applier.Stats().Applied < lsn {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}

// Intervals of the watch over a running stream.
const (
	lagInterval       = 200 * time.Millisecond
	saveInterval      = time.Second
	slotInterval      = 5 * time.Second
	heartbeatInterval = 5 * time.Second
)

// watchLag samples the source's position, stores the status, looks after the slot and moves the slot of a source
// whose traffic is elsewhere.
func (a *attempt) watchLag(ctx context.Context, f *following) error {
	conn, err := a.connectSource(ctx, "watch")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	meter := &lagMeter{}
	var saved, slotSeen, beat time.Time
	ticker := time.NewTicker(lagInterval)
	defer ticker.Stop()
	for {
		if err := a.sampleLag(ctx, conn, f, meter); err != nil {
			return err
		}
		now := time.Now()
		if now.Sub(slotSeen) >= slotInterval {
			slotSeen = now
			if err := a.watchSlot(ctx, conn); err != nil {
				return err
			}
		}
		if now.Sub(beat) >= heartbeatInterval {
			beat = now
			if _, err := stream.Heartbeat(ctx, conn); err != nil && postgres.Code(err) != readOnly {
				return err
			}
		}
		if now.Sub(saved) >= saveInterval {
			saved = now
			if err := a.saveStatus(ctx); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// saveStatus is not cut off when the stream ends: a statement that is cancelled costs the runner its session, and with
// it the lock.
func (a *attempt) saveStatus(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return a.runner.SaveStatus(ctx, a.tracker.current())
}

func (a *attempt) sampleLag(ctx context.Context, conn *pgx.Conn, f *following, meter *lagMeter) error {
	position, err := stream.SourcePosition(ctx, conn)
	if err != nil {
		return err
	}
	now := time.Now()
	meter.add(position, now)
	stats := f.applier.Stats()
	bytes, seconds := meter.lag(stats.Applied, now)
	if seconds < 0 && !stats.CommitTime.IsZero() {
		seconds = max(0, now.Sub(stats.CommitTime).Seconds())
	}
	a.tracker.set(func(s *Status) {
		s.Source, s.LagBytes, s.LagSeconds = position, bytes, seconds
		s.InSync = bytes >= 0 && bytes < inSyncBytes && seconds >= 0 && seconds < inSyncSeconds
	})
	return nil
}

// watchSlot notices a slot that is gone or lost, and a publication that was altered, while the stream still seems fine.
func (a *attempt) watchSlot(ctx context.Context, conn *pgx.Conn) error {
	info, err := stream.InspectSlot(ctx, conn, a.runner.Job.Slot())
	if err != nil {
		return err
	}
	if err := stream.Usable(info, a.runner.Job.Slot()); err != nil {
		return err
	}
	if err := a.verifyPublication(ctx, conn); err != nil {
		return err
	}
	a.tracker.set(func(s *Status) { s.SlotRetention = s.Source.Sub(info.RestartLSN) })
	return nil
}

// readOnly is the SQLSTATE by which a standby refuses a heartbeat.
const readOnly = "25006"

// fence returns a position of the source below which everything lies that was committed before the call.
func fence(ctx context.Context, conn *pgx.Conn) (postgres.LSN, error) {
	lsn, err := stream.Heartbeat(ctx, conn)
	if postgres.Code(err) == readOnly {
		return stream.SourcePosition(ctx, conn) // a standby: what it has replayed
	}
	return lsn, err
}

// catchUp applies the stream until tables that were copied under different snapshots agree, which they do at the
// latest consistent point of them.
func (a *attempt) catchUp(ctx context.Context) error {
	relations, err := a.runner.Relations(ctx)
	if err != nil {
		return err
	}
	var last postgres.LSN
	for _, relation := range relations {
		last = max(last, relation.CopyLSN)
	}
	position, err := a.runner.Position(ctx)
	if err != nil || position >= last {
		return err
	}
	a.tracker.set(func(s *Status) { s.Message = fmt.Sprintf("applying changes up to %s, where all tables agree", last) })
	return a.withStream(ctx, func(ctx context.Context, f *following) error { return waitApplied(ctx, f, last) })
}
