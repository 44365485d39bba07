package migrate

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/apply"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// attempt is one try to bring the migration to its end. What it holds is gone when it returns.
type attempt struct {
	*run
	runner        *state.Runner
	source        postgres.Endpoint
	target        postgres.Endpoint
	sourceVersion postgres.Version
	targetVersion postgres.Version
	indexSettings map[string]string
	replicaRole   bool // triggers and foreign keys can be kept from firing while changes are applied

	drained  postgres.LSN   // up to here nothing is missing on the target, whatever position is recorded there
	snapshot *startSnapshot // held from prepare to the end of the copy; nil when an earlier attempt began
	catalog  *schema.Catalog
	plan     *schema.Plan
	tables   map[schema.Name]*schema.Table // of the catalog, by name
	missing  map[schema.Name]bool          // tables that could not be created, when the run goes on without them
}

// attempt goes through the phases from the one that is stored.
func (r *run) attempt(ctx context.Context) error {
	a := &attempt{run: r, source: r.source, target: r.target}
	if err := a.open(ctx); err != nil {
		return err
	}
	defer a.runner.Close()
	defer a.closeSnapshot()
	err := advise(a.phases(ctx))
	if err != nil && !errors.Is(err, state.ErrFenced) {
		a.storeError(ctx, err)
	}
	return err
}

// phases runs from the stored phase to the end. The loading token is held while servers are busy with the copy.
func (a *attempt) phases(ctx context.Context) error {
	if phase := a.runner.Job.Phase; phase != state.Follow && phase != state.Complete {
		select {
		case a.loading <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		err := a.load(ctx)
		<-a.loading
		if err != nil {
			return err
		}
	} else if err := a.readPlan(ctx); err != nil {
		return err
	}
	if a.config.Type != FullIncremental {
		return a.finishLoadOnly(ctx)
	}
	return a.follow(ctx)
}

// load runs the phases up to the data and its constraints being on the target.
func (a *attempt) load(ctx context.Context) error {
	if a.runner.Job.Phase == state.Prepare {
		if err := a.prepare(ctx); err != nil {
			return err
		}
	}
	if err := a.readPlan(ctx); err != nil {
		return err
	}
	after := state.Follow
	if a.config.Type != FullIncremental {
		after = state.Complete // there is nothing to follow
	}
	steps := []struct {
		phase state.Phase
		work  func(context.Context) error
		next  state.Phase
	}{
		{state.Structure, a.createStructure, state.Copy},
		{state.Copy, a.copyData, state.Constraints},
		{state.Constraints, a.addConstraints, after},
	}
	for _, step := range steps {
		if a.runner.Job.Phase != step.phase {
			continue
		}
		if step.phase == state.Copy && a.config.Type == StructureOnly {
			// There is no data: go on with the indexes.
			if _, err := a.restoreStage(ctx, schema.StageIndexes); err != nil {
				return err
			}
		} else if err := step.work(ctx); err != nil {
			return err
		}
		if err := a.readMissing(ctx); err != nil {
			return err
		}
		if err := a.enter(ctx, step.next); err != nil {
			return err
		}
	}
	return nil
}

// enter stores the phase and shows it.
func (a *attempt) enter(ctx context.Context, phase state.Phase) error {
	if err := a.runner.SetPhase(ctx, phase); err != nil {
		return err
	}
	a.showPhase(phase)
	return nil
}

func (a *attempt) showPhase(phase state.Phase) {
	a.tracker.set(func(s *Status) { s.Phase, s.Message = phase, "" })
	a.log.Debug("phase", "phase", phase)
	a.notify()
}

// open connects to both sides, finds or makes the job and becomes its runner.
func (a *attempt) open(ctx context.Context) error {
	identity, err := a.identifySource(ctx)
	if err != nil {
		return err
	}
	conn, err := a.target.Connect(ctx, postgres.Session{Name: "run"})
	if err != nil {
		return err
	}
	keep := false
	defer func() {
		if !keep {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	if a.targetVersion, err = postgres.ServerVersion(conn); err != nil {
		return err
	}
	job, err := state.Read(ctx, conn)
	if errors.Is(err, state.ErrNone) && a.jobID == "" {
		job, err = a.createJob(ctx, conn, identity)
	}
	if err == nil && a.jobID != "" && job.ID != a.jobID {
		err = state.ErrNone
	}
	if errors.Is(err, state.ErrNone) {
		return errGone
	}
	if err != nil {
		return err
	}
	if err := sameOptions(job.Options, a.config.options(a.database)); err != nil {
		return err
	}
	if err := sameSource(job.Source, identity); err != nil {
		return err
	}
	if a.config.Plugin != "" && string(a.config.Plugin) != job.Plugin {
		return fmt.Errorf("this migration reads the stream with %s: run it without --plugin, or give it up with slipway migrate abort", job.Plugin)
	}
	if a.runner, err = state.Take(ctx, conn, job); err != nil {
		return err
	}
	keep, a.jobID = true, job.ID
	a.replicaRole = apply.CanBeReplica(ctx, conn)
	if a.indexSettings, err = schema.IndexSettings(ctx, conn, a.config.Jobs); err != nil {
		return err
	}
	a.tracker.set(func(s *Status) { s.Job, s.Started = job.ID, job.Created })
	a.showPhase(job.Phase)
	return a.endOldSourceSessions(ctx)
}

// errGone ends a run whose job was taken away while it worked.
var errGone = errors.New("this migration was given up or completed by another process")

// endOldSourceSessions ends what a killed run left on the source: its walsender keeps the slot busy.
func (a *attempt) endOldSourceSessions(ctx context.Context) error {
	conn, err := a.connectSource(ctx, "open")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return state.EndSessions(ctx, conn, a.runner.Job.ID)
}

// identifySource reads which server the source is, and that it is the one that the run began with.
func (a *attempt) identifySource(ctx context.Context) (state.Source, error) {
	conn, err := a.source.Connect(ctx, postgres.Session{Name: "run"})
	if err != nil {
		return state.Source{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if a.sourceVersion, err = postgres.ServerVersion(conn); err != nil {
		return state.Source{}, err
	}
	source := state.Source{Database: a.database.Source, Version: a.sourceVersion, Endpoint: a.source.String()}
	if a.config.Type != FullIncremental {
		return source, nil // nothing depends on which server it is; a plain login may read it all
	}
	identity, err := stream.Identify(ctx, a.source)
	if err != nil {
		return state.Source{}, err
	}
	source.SystemID, source.Timeline = identity.SystemID, identity.Timeline
	return source, nil
}

// ErrSourceReplaced says that the server behind the source's name is not the one that the migration started with.
var ErrSourceReplaced = errors.New("the source is not the server that this migration started with")

// sameSource stops before a stream is read from a server whose history is another one.
func sameSource(then, now state.Source) error {
	switch {
	case then.SystemID != now.SystemID:
		return fmt.Errorf("%w: its system identifier was %s and is %s. Point --source to the old server, or give up with slipway migrate abort and start anew",
			ErrSourceReplaced, then.SystemID, now.SystemID)
	case then.Timeline != now.Timeline:
		return fmt.Errorf("%w: it was promoted (timeline %d then, %d now), and what the old primary had sent may not exist there. "+
			"Point --source to the old primary, or give up with slipway migrate abort and start anew", ErrSourceReplaced, then.Timeline, now.Timeline)
	case then.Database != now.Database:
		return fmt.Errorf("%w: the database was %s and is %s", ErrSourceReplaced, then.Database, now.Database)
	case then.Version.Major() != now.Version.Major():
		return fmt.Errorf("%w: it was PostgreSQL %s and is %s (upgraded in between)", ErrSourceReplaced, then.Version, now.Version)
	}
	return nil
}

func (a *attempt) createJob(ctx context.Context, conn *pgx.Conn, source state.Source) (*state.Job, error) {
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		return nil, fmt.Errorf("make a job id: %w", err)
	}
	encoded, err := json.Marshal(a.config.options(a.database))
	if err != nil {
		return nil, fmt.Errorf("store the options: %w", err)
	}
	job := &state.Job{
		ID: hex.EncodeToString(id), Phase: state.Prepare, Options: encoded, Source: source, Created: time.Now(),
		Plugin: string(a.plugin()), MadeDatabase: a.config.made[a.database.Target],
	}
	if err := state.Create(ctx, conn, job); err != nil {
		return nil, err
	}
	a.log.Info("migration created", "job", job.ID, "source", a.source.String(), "target", a.target.String(), "type", a.config.Type)
	return job, nil
}

func (a *attempt) plugin() stream.Plugin {
	switch {
	case a.runner != nil && a.runner.Job.Plugin != "":
		return stream.Plugin(a.runner.Job.Plugin)
	case a.config.Plugin != "":
		return a.config.Plugin
	case a.sourceVersion.AtLeast(10):
		return stream.Pgoutput
	}
	return stream.TestDecoding
}

func (a *attempt) connectSource(ctx context.Context, role string) (*pgx.Conn, error) {
	return a.source.Connect(ctx, postgres.Session{Name: state.SessionName(a.runner.Job.ID, role)})
}

// connectRestore is for sessions that build indexes.
func (a *attempt) connectRestore(ctx context.Context) (*pgx.Conn, error) {
	return a.target.Connect(ctx, postgres.Session{Name: state.SessionName(a.runner.Job.ID, "restore"), Settings: a.indexSettings})
}

func (a *attempt) connectTarget(ctx context.Context, role string) (*pgx.Conn, error) {
	return a.target.Connect(ctx, postgres.Session{Name: state.SessionName(a.runner.Job.ID, role)})
}

// storeError keeps the reason for `status`, with a deadline of its own: the run's context may have ended.
func (a *attempt) storeError(ctx context.Context, cause error) {
	if errors.Is(context.Cause(ctx), ErrStopped) {
		cause = ErrStopped
	}
	storing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := a.runner.SetError(storing, cause.Error()); err != nil {
		a.log.Debug("could not store the error", "error", err)
	}
}
