package schema

import (
	"context"
	"fmt"
)

// catalogRelation is a row of pg_class with what decides whether it is chosen.
type catalogRelation struct {
	Object
	kind        Kind
	persistence byte
	partition   bool
	parent      uint32 // of a partition
	identity    Identity
	populated   bool
	pages       int32 // as of the last VACUUM or ANALYZE
	tuples      float32
	bytes       int64
	tablespace  string
	method      string
	server      string
	extension   string // set for members

	owner         uint32 // of a sequence: the table whose column owns it
	ownerColumn   string
	ownerIdentity bool

	config    bool // the extension keeps rows of it
	condition string

	verdict verdict
}

// verdict is the memory of decide.
type verdict byte

const (
	verdictOpen verdict = iota
	verdictChosen
	verdictLeftOut
)

func (l *loader) readRelations(ctx context.Context) error {
	v := l.version
	sql := fmt.Sprintf(`
		SELECT c.oid, n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner), c.relkind, c.relpersistence,
			%s, COALESCE(i.inhparent, 0), c.relreplident, c.relispopulated, c.relpages, c.reltuples,
			CASE WHEN c.relkind IN ('r', 'm') THEN COALESCE(pg_catalog.pg_relation_size(c.oid), 0) ELSE 0 END,
			COALESCE(s.spcname, ''), %s, COALESCE(fs.srvname, ''), COALESCE(x.extname, '')
		FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
		LEFT JOIN pg_catalog.pg_foreign_table ft ON ft.ftrelid = c.oid
		LEFT JOIN pg_catalog.pg_foreign_server fs ON fs.oid = ft.ftserver
		LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND %s
		LEFT JOIN pg_catalog.pg_depend e ON e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
			AND e.objid = c.oid AND e.deptype = 'e'
		LEFT JOIN pg_catalog.pg_extension x ON x.oid = e.refobjid %s
		WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND c.relpersistence <> 't' AND `+userSchema+`
		ORDER BY n.nspname, c.relname`,
		when(v.AtLeast(10), "c.relispartition", "false"),
		when(v.AtLeast(12), "COALESCE(am.amname, '')", "''"),
		when(v.AtLeast(10), "c.relispartition", "false"),
		when(v.AtLeast(12), "LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam", ""))
	l.byOID = map[uint32]*catalogRelation{}
	var r catalogRelation
	return l.each(ctx, sql, nil, []any{
		&r.OID, &r.Schema, &r.Name.Name, &r.Owner, &r.kind, &r.persistence, &r.partition, &r.parent, &r.identity,
		&r.populated, &r.pages, &r.tuples, &r.bytes, &r.tablespace, &r.method, &r.server, &r.extension,
	}, func() {
		row := r
		l.relations = append(l.relations, &row)
		l.byOID[row.OID] = &row
	})
}

func (l *loader) readSequenceOwners(ctx context.Context) error {
	var sequence, table uint32
	var column string
	var identity bool
	return l.each(ctx, `
		SELECT d.objid, d.refobjid, a.attname, d.deptype = 'i'
		FROM pg_catalog.pg_depend d
		JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
		JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
		WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = d.classid
			AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')`,
		nil, []any{&sequence, &table, &column, &identity}, func() {
			if r := l.byOID[sequence]; r != nil {
				r.owner, r.ownerColumn, r.ownerIdentity = table, column, identity
			}
		})
}

func (l *loader) readExtensionConfig(ctx context.Context) error {
	var oid uint32
	var condition string
	// The parser takes unnest of several arrays, which it resolves in pg_catalog, only by its bare name.
	return l.each(ctx, `
		SELECT t.oid, COALESCE(t.condition, '')
		FROM pg_catalog.pg_extension x,
			LATERAL unnest(x.extconfig, x.extcondition) AS t(oid, condition)
		WHERE t.oid IS NOT NULL`,
		nil, []any{&oid, &condition}, func() {
			if r := l.byOID[oid]; r != nil {
				r.config, r.condition = true, condition
			}
		})
}

// decide tells whether a relation is chosen:
//   - by its own name;
//   - a partition with its parent, unless it is excluded; an excluded parent takes its partitions with it. A partition
//     that is included by name without its parent is chosen, and MissingDependencies names it;
//   - a sequence with the table that owns it, unless it is excluded; that of an identity column always and only with
//     its table, because the table cannot be created without it.
func (l *loader) decide(r *catalogRelation) bool {
	if r.verdict == verdictOpen {
		r.verdict = verdictLeftOut
		if l.takes(r) {
			r.verdict = verdictChosen
		}
	}
	return r.verdict == verdictChosen
}

func (l *loader) takes(r *catalogRelation) bool {
	byName := l.match(r.Name)
	owner, parent := l.byOID[r.owner], l.byOID[r.parent]
	switch {
	case r.extension != "":
		return false
	case r.ownerIdentity:
		return owner != nil && l.decide(owner)
	case l.sel.Excludes(r.Name):
		return false
	case owner != nil:
		return byName || l.decide(owner)
	case parent == nil:
		return byName
	case l.decide(parent):
		return true
	}
	for ; parent != nil; parent = l.byOID[parent.parent] {
		if l.sel.Excludes(parent.Name) {
			return false
		}
	}
	return byName
}

// chooseRelations sorts the relations into the lists of the catalog.
func (l *loader) chooseRelations(context.Context) error {
	for _, r := range l.relations {
		if r.config && (l.sel.All() || l.match(r.Name)) {
			l.addConfig(r)
		}
		if !l.decide(r) {
			continue
		}
		l.c.Relations[r.Name] = true
		l.add("pg_class", r.Object)
		l.use(r)
		switch r.kind {
		case Ordinary, Partitioned:
			l.c.Tables = append(l.c.Tables, l.newTable(r))
		case Sequence:
			l.addSequence(r)
		case View:
			l.c.Views = append(l.c.Views, r.Object)
		case MaterializedView:
			l.c.MatViews = append(l.c.MatViews, MatView{Object: r.Object, Populated: r.populated})
		case Foreign:
			l.c.ForeignTables = append(l.c.ForeignTables, ForeignTable{Object: r.Object, Server: r.server})
		}
	}
	return nil
}

// use notes what the target must have for the relation.
func (l *loader) use(r *catalogRelation) {
	if r.tablespace != "" {
		l.tablespaces[r.tablespace] = true
	}
	if r.method != "" && r.method != "heap" {
		l.methods[r.method] = true
	}
}

func (l *loader) addConfig(r *catalogRelation) {
	switch r.kind {
	case Ordinary, Partitioned:
		l.c.ConfigTables = append(l.c.ConfigTables,
			ConfigTable{Table: l.newTable(r), Extension: r.extension, Condition: r.condition})
	case Sequence:
		l.addSequence(r)
	}
}

func (l *loader) addSequence(r *catalogRelation) {
	s := SequenceInfo{
		Object: r.Object, Column: r.ownerColumn, Identity: r.ownerIdentity, Unlogged: r.persistence == 'u',
		Extension: r.extension,
	}
	if owner := l.byOID[r.owner]; owner != nil {
		s.OwnedBy = owner.Name
	}
	l.c.Sequences = append(l.c.Sequences, s)
}

func (l *loader) newTable(r *catalogRelation) *Table {
	t := &Table{
		Name: r.Name, OID: r.OID, Kind: r.kind, Unlogged: r.persistence == 'u', Partition: r.partition,
		Identity: r.identity, Bytes: r.bytes, Pages: r.bytes / l.blockSize,
	}
	t.Rows = estimateRows(r, t.Pages)
	return t
}

// estimateRows scales the density that the last ANALYZE saw to the table's size of today, as the planner does.
func estimateRows(r *catalogRelation, pages int64) int64 {
	switch {
	case r.pages > 0 && r.tuples >= 0:
		return int64(float64(r.tuples) / float64(r.pages) * float64(pages))
	case pages == 0:
		return 0
	default:
		return -1
	}
}

// tableOIDs are the OIDs of all tables whose columns matter.
func (l *loader) tableOIDs() []uint32 {
	oids := make([]uint32, 0, len(l.c.Tables)+len(l.c.ConfigTables))
	for _, t := range l.c.Tables {
		oids = append(oids, t.OID)
	}
	for _, t := range l.c.ConfigTables {
		oids = append(oids, t.OID)
	}
	return oids
}

// tables finds a table by OID.
func (l *loader) tables() map[uint32]*Table {
	byOID := make(map[uint32]*Table, len(l.c.Tables)+len(l.c.ConfigTables))
	for _, t := range l.c.Tables {
		byOID[t.OID] = t
	}
	for _, t := range l.c.ConfigTables {
		byOID[t.OID] = t.Table
	}
	return byOID
}
