package schema

import (
	"context"
	"slices"
)

// MatView is a materialized view.
type MatView struct {
	Object
	// Populated tells whether it holds rows; one created WITH NO DATA must stay so.
	Populated bool
	// DependsOn are the chosen materialized views that it reads, directly or through views, sorted by name.
	DependsOn []Name
}

// orderViews sorts views and materialized views so that each comes after those that it reads. PostgreSQL allows views
// that read each other through CREATE OR REPLACE; of such a circle the first by name comes first. What a view reads
// inside a function is not recorded by the server, and so not seen here.
func (l *loader) orderViews(ctx context.Context) error {
	reads := map[uint32][]uint32{}
	var view, read uint32
	err := l.each(ctx, `
		SELECT DISTINCT r.ev_class, d.refobjid
		FROM pg_catalog.pg_rewrite r
		JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
			AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> r.ev_class
		JOIN pg_catalog.pg_class reader ON reader.oid = r.ev_class AND reader.relkind IN ('v', 'm')
		JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind IN ('v', 'm')
		WHERE r.ev_type = '1'
		ORDER BY r.ev_class, d.refobjid`,
		nil, []any{&view, &read}, func() { reads[view] = append(reads[view], read) })
	if err != nil {
		return err
	}
	position := l.topological(reads)
	slices.SortFunc(l.c.Views, func(a, b Object) int { return position[a.OID] - position[b.OID] })
	slices.SortFunc(l.c.MatViews, func(a, b MatView) int { return position[a.OID] - position[b.OID] })
	for i := range l.c.MatViews {
		l.c.MatViews[i].DependsOn = l.matViewsBelow(l.c.MatViews[i].OID, reads)
	}
	return nil
}

// topological numbers views by a walk in depth, in the order of names where nothing else decides.
func (l *loader) topological(reads map[uint32][]uint32) map[uint32]int {
	position, seen := map[uint32]int{}, map[uint32]bool{}
	var visit func(oid uint32)
	visit = func(oid uint32) {
		if seen[oid] {
			return
		}
		seen[oid] = true
		for _, below := range reads[oid] {
			visit(below)
		}
		position[oid] = len(position)
	}
	for _, r := range l.relations {
		if r.kind == View || r.kind == MaterializedView {
			visit(r.OID)
		}
	}
	return position
}

// matViewsBelow stops at materialized views: these bring their own dependencies.
func (l *loader) matViewsBelow(oid uint32, reads map[uint32][]uint32) []Name {
	var names []Name
	seen := map[uint32]bool{oid: true}
	var visit func(oid uint32)
	visit = func(oid uint32) {
		for _, below := range reads[oid] {
			r := l.byOID[below]
			if seen[below] || r == nil {
				continue
			}
			seen[below] = true
			if r.kind != MaterializedView {
				visit(below)
			} else if l.c.Relations[r.Name] {
				names = append(names, r.Name)
			}
		}
	}
	visit(oid)
	slices.SortFunc(names, nameOrder)
	return names
}
