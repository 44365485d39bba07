package migrate

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/cutover"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/snapshot"
	"github.com/slipway-db/slipway/migrate/state"
)

// withBoth runs f with a session on either side.
func (a *attempt) withBoth(ctx context.Context, role string, f func(source, target *pgx.Conn) error) error {
	source, err := a.connectSource(ctx, role)
	if err != nil {
		return err
	}
	defer source.Close(context.WithoutCancel(ctx))
	target, err := a.connectTarget(ctx, role)
	if err != nil {
		return err
	}
	defer target.Close(context.WithoutCancel(ctx))
	return f(source, target)
}

func (a *attempt) alignSequences(ctx context.Context) (detail string, err error) {
	names := make([]schema.Name, 0, len(a.catalog.Sequences))
	for _, s := range a.catalog.Sequences {
		names = append(names, s.Name)
	}
	err = a.withBoth(ctx, "align", func(source, target *pgx.Conn) error {
		values, err := schema.ReadSequenceValues(ctx, source, names)
		if err != nil {
			return err
		}
		return schema.SetSequenceValues(ctx, target, values)
	})
	return fmt.Sprintf("%d set", len(names)), err
}

func (a *attempt) alignLargeObjects(ctx context.Context) (detail string, err error) {
	config := snapshot.LargeObjectConfig{
		Source: a.source, Target: a.target, Session: state.SessionName(a.runner.Job.ID, "large objects"),
		NoOwner: a.config.NoOwner, NoPrivileges: a.config.NoPrivileges,
	}
	if a.snapshot != nil {
		config.Snapshot = a.snapshot.name
	}
	report, err := snapshot.AlignLargeObjects(ctx, config)
	return fmt.Sprintf("%d in all, %d created, %d changed, %d removed", report.Total, report.Created, report.Changed, report.Removed), err
}

// alignConfigTables replaces the rows that extensions keep for the user.
func (a *attempt) alignConfigTables(ctx context.Context) (detail string, err error) {
	err = a.withBoth(ctx, "align", func(source, target *pgx.Conn) error {
		for _, t := range a.catalog.ConfigTables {
			if err := cutover.ReplaceRows(ctx, source, target, t); err != nil {
				return err
			}
		}
		return nil
	})
	return fmt.Sprintf("%d", len(a.catalog.ConfigTables)), err
}

// refreshViews fills the materialized views that are filled on the source, and creates event triggers, which must
// come last. When it is done again, the views are filled again.
func (a *attempt) refreshViews(ctx context.Context) (detail string, err error) {
	created, err := a.restoreStage(ctx, schema.StageFinal)
	if err != nil {
		return "", err
	}
	var filled []schema.Name
	for _, v := range a.catalog.MatViews {
		if v.Populated {
			filled = append(filled, v.Name)
		}
	}
	if created == 0 && len(filled) > 0 {
		conn, err := a.connectTarget(ctx, "align")
		if err != nil {
			return "", err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		if err := cutover.Refresh(ctx, conn, filled); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d refreshed", len(filled)), a.analyze(ctx, filled)
}

// analyzeChanged renews the statistics of tables that changed while they were followed, before writes have to stop.
func (a *attempt) analyzeChanged(ctx context.Context, f *following) error {
	var names []schema.Name
	for name, counts := range f.applier.TableStats() {
		if counts.Changes() > 0 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, schema.CompareNames)
	return a.analyze(ctx, names)
}
