package migrate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/state"
)

// DriftError says that the source's structure is not what it was when the migration began.
type DriftError struct {
	Objects []string
}

// Error lists what changed and what can be done.
func (e *DriftError) Error() string {
	return fmt.Sprintf("the structure of the source changed since the migration began, and DDL is not followed: %s. "+
		"Make the same change on the target, or undo it on the source, and run again; --allow-drift completes without tables that came or went",
		strings.Join(e.Objects, "; "))
}

// compareShapes notices what changed on the source while nobody read the stream: a table that was replaced by another
// of its name, columns that differ from the target's. What changes while the stream is read, apply notices.
func (a *attempt) compareShapes(ctx context.Context, relations map[schema.Name]state.Relation) error {
	conn, err := a.connectTarget(ctx, "catalog")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	target, err := schema.Load(ctx, conn, schema.Selection{})
	if err != nil {
		return err
	}
	onTarget := map[schema.Name]*schema.Table{}
	for _, t := range target.Tables {
		onTarget[t.Name] = t
	}
	drift := &DriftError{}
	for _, source := range a.catalog.Tables {
		relation, chosen := relations[source.Name]
		there := onTarget[source.Name]
		if !chosen || there == nil || source.Kind != schema.Ordinary {
			continue
		}
		if relation.OID != source.OID {
			drift.Objects = append(drift.Objects, fmt.Sprintf("table %s was replaced by another table of its name", source.Name))
		}
		drift.Objects = append(drift.Objects, columnDrift(source, there)...)
	}
	if len(drift.Objects) > 0 {
		return drift
	}
	return nil
}

// columnDrift compares the columns that carry data by name.
func columnDrift(source, target *schema.Table) []string {
	names := func(t *schema.Table) []string {
		var list []string
		for _, c := range t.CopyColumns() {
			list = append(list, c.Name)
		}
		return list
	}
	var drift []string
	here, there := names(source), names(target)
	for _, name := range here {
		if !slices.Contains(there, name) {
			drift = append(drift, fmt.Sprintf("column %s of %s is on the source only", name, source.Name))
		}
	}
	for _, name := range there {
		if !slices.Contains(here, name) {
			drift = append(drift, fmt.Sprintf("column %s of %s is on the target only", name, source.Name))
		}
	}
	return drift
}

// effects are the kinds of entries that would act on rows that apply writes.
var effects = []string{"TRIGGER", "RULE", "FK CONSTRAINT"}

// withdrawEffects takes back what a completion had created that would act on replicated rows, when changes have to be
// applied again: the completion was interrupted, or the source was written to. The next completion creates it anew.
func (a *attempt) withdrawEffects(ctx context.Context) error {
	done, _, err := a.runner.Entries(ctx)
	if err != nil {
		return err
	}
	stages := []schema.Stage{schema.StageLate}
	if !a.replicaRole {
		stages = append(stages, schema.StageConstraints)
	}
	for _, stage := range stages {
		entries := a.plan.Entries(stage)
		for i := len(entries) - 1; i >= 0; i-- {
			e := entries[i]
			if !done[e.Key()] || !slices.Contains(effects, e.Desc) {
				continue
			}
			if err := a.runner.Undo(ctx, e.Key(), e.DropSQL); err != nil {
				return err
			}
		}
	}
	return nil
}
