package apply

import (
	"fmt"
	"slices"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
)

// binding joins one description of a source table to its target: which value goes to which column, and how a row is
// found again. It lives as long as the description.
type binding struct {
	relation *stream.Relation
	target   *target
	// columns holds, per column of the relation, its place in the target's columns, or -1 for a generated column.
	columns []int
	// key identifies rows; empty when only a match of the whole row can (full) or nothing can.
	key  []keyColumn
	full bool
	// match is the index that narrows a match of the whole row, as relation columns; see matchIndex.
	match []keyColumn
	// missing names a column of the target that the relation has lost, which is a Drift for whoever needs all columns.
	missing string
	// replaceable says that a row can be deleted and inserted again from the relation's values alone.
	replaceable bool
	// guarded are columns GENERATED ALWAYS AS IDENTITY outside the key, which UPDATE must not set.
	guarded []int
	// ordered says that changes must be written one by one, in the source's order.
	ordered bool
}

// keyColumn is a column of the relation with the equality that finds its value on the target.
type keyColumn struct {
	at     int // in the relation
	equals operator
}

// binder finds or makes bindings and notices when a description does not fit.
type binder struct {
	config  *Config
	targets map[schema.Name]*target
	known   map[*stream.Relation]*binding
	// last holds, per table, what is known of its columns from earlier descriptions.
	last map[*target]*description
}

type description struct {
	oid     uint32
	columns map[string]stream.RelationColumn
}

func newBinder(config *Config, targets map[schema.Name]*target) *binder {
	return &binder{
		config: config, targets: targets,
		known: map[*stream.Relation]*binding{}, last: map[*target]*description{},
	}
}

// bind returns the binding of a relation, or nil for a table to be ignored.
func (b *binder) bind(relation *stream.Relation) (*binding, error) {
	if bound, known := b.known[relation]; known {
		return bound, nil
	}
	name := schema.Name{Schema: relation.Schema, Name: relation.Name}
	if b.config.Ignore[name] {
		b.known[relation] = nil
		return nil, nil
	}
	target, known := b.targets[name]
	if !known {
		return nil, fmt.Errorf("change of %s: %w", name, ErrUnknownTable)
	}
	bound := &binding{relation: relation, target: target}
	if err := bound.place(); err != nil {
		return nil, err
	}
	if err := b.compare(bound); err != nil {
		return nil, err
	}
	bound.identify()
	bound.finish()
	b.known[relation] = bound
	return bound, nil
}

// place finds each column by name and checks that its type means the same.
func (b *binding) place() error {
	t := b.target
	b.columns = make([]int, len(b.relation.Columns))
	for i, c := range b.relation.Columns {
		at, exists := t.byName[c.Name]
		if !exists {
			return &Drift{Table: t.source, Column: c.Name, Reason: "was added or renamed on the source and is not on the target"}
		}
		if b.columns[i] = at; t.columns[at].generated {
			b.columns[i] = -1
			continue
		}
		if !sameType(c, t.columns[at]) {
			return &Drift{Table: t.source, Column: c.Name, Reason: "has another type on the source than on the target"}
		}
	}
	return nil
}

// stableOIDs is the bound below which a type's OID is assigned by hand and the same in every version.
const stableOIDs = 10000

// varcharOID is the one type whose modifier may differ: a longer limit takes every value.
const varcharOID = 1043

func sameType(source stream.RelationColumn, on column) bool {
	if source.TypeOID == 0 {
		return true // named only, and names are compared from description to description
	}
	if source.TypeOID >= stableOIDs || on.typeOID >= stableOIDs {
		return source.TypeOID >= stableOIDs && on.typeOID >= stableOIDs
	}
	if source.TypeOID != on.typeOID {
		return false
	}
	if source.TypeOID == varcharOID {
		return on.typeMod == -1 || source.TypeMod >= 0 && on.typeMod >= source.TypeMod
	}
	return on.typeMod == -1 || on.typeMod == source.TypeMod
}

// compare holds a description against the earlier ones of the same table. A column that is new there is already known
// to be on the target; one that changed its type or is gone is a Drift.
func (b *binder) compare(bound *binding) error {
	relation, t := bound.relation, bound.target
	before := b.last[t]
	if before == nil {
		before = &description{oid: relation.OID, columns: map[string]stream.RelationColumn{}}
		b.last[t] = before
	}
	if before.oid != relation.OID {
		return &Drift{Table: t.source, Reason: "was replaced by another table of that name on the source"}
	}
	present := make(map[string]bool, len(relation.Columns))
	for _, c := range relation.Columns {
		present[c.Name] = true
		old, known := before.columns[c.Name]
		if known && (old.TypeOID != c.TypeOID || old.TypeMod != c.TypeMod || old.TypeName != c.TypeName) {
			return &Drift{Table: t.source, Column: c.Name, Reason: "changed its type on the source"}
		}
		before.columns[c.Name] = c
	}
	for name := range before.columns {
		if !present[name] {
			bound.missing = name
		}
	}
	return nil
}

// identify decides how rows are found. A key of the source counts; a table that publishes whole rows is still searched
// by a key of the target when there is one, which is the same row found faster.
func (b *binding) identify() {
	identity, names := b.identityColumns()
	switch identity {
	case schema.IdentityNothing:
		return
	case schema.IdentityFull:
		b.full = true
		for i := range b.target.indexes {
			if index := &b.target.indexes[i]; index.identifies && b.covers(index) {
				b.key = b.indexKey(index)
				return
			}
		}
		b.match = b.matchIndex()
		return
	}
	b.key = b.keyOf(names)
}

// identityColumns takes what the relation says, else what the configuration knows of the source.
func (b *binding) identityColumns() (schema.Identity, []string) {
	identity := schema.Identity(b.relation.Identity)
	names := []string{}
	for _, c := range b.relation.Columns {
		if c.Key {
			names = append(names, c.Name)
		}
	}
	if identity == 0 {
		identity = b.target.Identity
	}
	if len(names) == 0 {
		names = b.target.IdentityColumns
	}
	return identity, names
}

// keyOf uses the target's unique index over exactly these columns, whose equality decides what the same key is, else
// each type's own equality. The result is empty when a column is not part of the relation.
func (b *binding) keyOf(names []string) []keyColumn {
	at := make([]int, 0, len(names))
	for _, name := range names {
		i := slices.IndexFunc(b.relation.Columns, func(c stream.RelationColumn) bool { return c.Name == name })
		if i < 0 || b.columns[i] < 0 {
			return nil
		}
		at = append(at, i)
	}
	for i := range b.target.indexes {
		index := &b.target.indexes[i]
		if index.identifies && len(index.columns) == len(at) && b.covers(index) &&
			!slices.ContainsFunc(at, func(c int) bool { return !slices.Contains(index.columns, b.columns[c]) }) {
			return b.indexKey(index)
		}
	}
	key := make([]keyColumn, len(at))
	for i, c := range at {
		key[i] = keyColumn{at: c, equals: b.target.columns[b.columns[c]].equals}
	}
	return key
}

// covers tells whether the relation delivers every column of the index.
func (b *binding) covers(index *index) bool {
	return !slices.ContainsFunc(index.columns, func(c int) bool { return !slices.Contains(b.columns, c) })
}

func (b *binding) indexKey(index *index) []keyColumn {
	key := make([]keyColumn, len(index.columns))
	for i, c := range index.columns {
		key[i] = keyColumn{at: slices.Index(b.columns, c), equals: index.equals[i]}
	}
	return key
}

// matchIndex chooses the index with the most columns of the relation: rows that agree in every byte agree in it.
func (b *binding) matchIndex() []keyColumn {
	var best *index
	for i := range b.target.indexes {
		index := &b.target.indexes[i]
		if b.covers(index) && (best == nil || len(index.columns) > len(best.columns)) {
			best = index
		}
	}
	if best == nil {
		return nil
	}
	return b.indexKey(best)
}

// finish derives what the writing of rows needs to know.
func (b *binding) finish() {
	b.replaceable = len(b.key) > 0
	written := 0
	for at, c := range b.target.columns {
		if c.generated {
			continue
		}
		i := slices.Index(b.columns, at)
		if i < 0 {
			b.replaceable = false // the target's own value would be lost
			continue
		}
		written++
		b.ordered = b.ordered || c.castByFunction
		if c.identityAlways && !b.inKey(i) {
			b.guarded = append(b.guarded, i)
		}
	}
	if written == 0 {
		b.ordered = true // no arrays to unnest
	}
}

func (b *binding) inKey(at int) bool { return b.keyIndex(at) >= 0 }

// column is the target's column for a column of the relation.
func (b *binding) column(at int) *column { return &b.target.columns[b.columns[at]] }

// keyIndex is the place of a relation's column in the key, -1 when it is not part of it.
func (b *binding) keyIndex(at int) int {
	return slices.IndexFunc(b.key, func(k keyColumn) bool { return k.at == at })
}
