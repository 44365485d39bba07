package schema

import (
	"context"
	"fmt"
	"slices"
)

// typeInfo is what decides whether values of a type mean the same in binary everywhere, and whether the target has
// the type.
type typeInfo struct {
	oid       uint32
	root      uint32 // the type of a column that this one is part of, or itself
	name      Name
	kind      byte // pg_type.typtype
	element   uint32
	isArray   bool
	base      uint32 // of a domain
	subtype   uint32 // of a range or multirange
	collation uint32
	extension string
}

const (
	// firstUnpinned is the first OID that initdb gives out by itself. Objects below have the same OID on every server
	// that has them at all.
	firstUnpinned = 10000
	// firstUser is the first OID of objects that are made after initdb.
	firstUser = 16384
)

// binarySafe are the built-in types whose send and receive functions agree between all versions and settings. What is
// missing and why: reg* and aclitem carry OIDs, money depends on lc_monetary, xml on the encoding that the value names,
// old servers do not take the empty tsquery, and the rest is too rare to be worth a proof.
var binarySafe = map[uint32]bool{
	16: true, 17: true, 18: true, 19: true, 20: true, 21: true, 23: true, 25: true, // bool bytea "char" name int8 int2 int4 text
	26: true, 27: true, 28: true, 29: true, // oid tid xid cid: plain numbers
	114: true, 600: true, 601: true, 602: true, 603: true, 604: true, 628: true, 718: true, // json, geometric types
	700: true, 701: true, 1700: true, // float4 float8 numeric
	650: true, 774: true, 829: true, 869: true, // cidr macaddr8 macaddr inet
	1042: true, 1043: true, 1560: true, 1562: true, // bpchar varchar bit varbit
	1082: true, 1083: true, 1114: true, 1184: true, 1186: true, 1266: true, // date time timestamp timestamptz interval timetz
	2950: true, 3220: true, 3614: true, 3802: true, 4072: true, 5069: true, // uuid pg_lsn tsvector jsonb jsonpath xid8
}

// clockTypes are floating point numbers on servers before 10 that were built so; there is no way to see it in the data.
var clockTypes = []uint32{1083, 1114, 1184, 1186, 1266}

// extensionSafe are types of extensions whose binary format never changed.
var extensionSafe = map[string][]string{"citext": {"citext"}, "hstore": {"hstore"}}

type typeSet struct {
	byOID      map[uint32]*typeInfo
	floatTimes bool
}

// readTypes reads the types of the chosen columns with everything that they are made of, in one recursive query, and
// judges each column.
func (l *loader) readTypes(ctx context.Context) error {
	types := &typeSet{byOID: map[uint32]*typeInfo{}}
	users := l.typeUsers()
	seeds := make([]uint32, 0, len(users))
	for oid := range users {
		seeds = append(seeds, oid)
	}
	slices.Sort(seeds)
	if err := l.readTypeClosure(ctx, types, seeds); err != nil {
		return err
	}
	if !l.version.AtLeast(10) {
		err := l.conn.QueryRow(ctx, `SELECT pg_catalog.current_setting('integer_datetimes') = 'off'`).Scan(&types.floatTimes)
		if err != nil {
			return err
		}
	}
	for _, t := range l.tables() {
		for i := range t.Columns {
			t.Columns[i].BinarySafe = types.safe(t.Columns[i].TypeOID)
		}
	}
	l.noteTypes(types, users)
	return nil
}

// typeUsers has one column for each type that chosen columns have.
func (l *loader) typeUsers() map[uint32]string {
	users := map[uint32]string{}
	note := func(t *Table) {
		for _, c := range t.Columns {
			if _, seen := users[c.TypeOID]; !seen {
				users[c.TypeOID] = t.String() + "." + c.Name
			}
		}
	}
	for _, t := range l.c.Tables {
		note(t)
	}
	for _, t := range l.c.ConfigTables {
		note(t.Table)
	}
	return users
}

// readTypeClosure follows elements of arrays, bases of domains, subtypes of ranges and attributes of composite types.
func (l *loader) readTypeClosure(ctx context.Context, types *typeSet, seeds []uint32) error {
	multiranges := when(l.version.AtLeast(14), "OR r.rngmultitypid = t.oid", "")
	var t typeInfo
	return l.each(ctx, fmt.Sprintf(`
		WITH RECURSIVE used(oid, root) AS (
			SELECT s.oid, s.oid FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS s(oid)
			UNION
			SELECT part.oid, used.root FROM used
			JOIN pg_catalog.pg_type t ON t.oid = used.oid
			LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid %[1]s
			CROSS JOIN LATERAL (
				SELECT pg_catalog.unnest(ARRAY[t.typelem, t.typbasetype, r.rngsubtype])
				UNION ALL
				SELECT a.atttypid FROM pg_catalog.pg_attribute a
				WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
			) AS part(oid)
			WHERE part.oid <> 0
		)
		SELECT t.oid, u.root, n.nspname, t.typname, t.typtype, t.typelem,
			t.typinput = 'pg_catalog.array_in'::pg_catalog.regproc, t.typbasetype, COALESCE(r.rngsubtype, 0),
			t.typcollation, COALESCE(x.extname, '')
		FROM (SELECT used.oid, pg_catalog.min(used.root) AS root FROM used GROUP BY used.oid) u
		JOIN pg_catalog.pg_type t ON t.oid = u.oid
		JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
		LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid %[1]s
		LEFT JOIN pg_catalog.pg_depend e ON e.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
			AND e.objid = t.oid AND e.deptype = 'e'
		LEFT JOIN pg_catalog.pg_extension x ON x.oid = e.refobjid
		ORDER BY n.nspname, t.typname`, multiranges),
		[]any{seeds},
		[]any{
			&t.oid, &t.root, &t.name.Schema, &t.name.Name, &t.kind, &t.element, &t.isArray, &t.base, &t.subtype, &t.collation,
			&t.extension,
		}, func() {
			row := t
			types.byOID[row.oid] = &row
			if row.collation != 0 {
				l.collations[row.collation] = true
			}
		})
}

// safe tells whether binary COPY of a type means the same on another server. Arrays and composite types carry the
// OIDs of their parts, ranges do not; enums travel by label.
func (s *typeSet) safe(oid uint32) bool {
	t := s.byOID[oid]
	switch {
	case t == nil || s.floatTimes && slices.Contains(clockTypes, oid):
		return false
	case binarySafe[oid] || t.kind == 'e':
		return true
	case t.kind == 'd':
		return s.safe(t.base)
	case t.kind == 'r' || t.kind == 'm':
		return s.safe(t.subtype)
	case t.isArray:
		return t.element < firstUnpinned && s.safe(t.element)
	default:
		return slices.Contains(extensionSafe[t.extension], t.name.Name)
	}
}

// noteTypes lists the types that the target needs.
func (l *loader) noteTypes(types *typeSet, users map[uint32]string) {
	for oid, t := range types.byOID {
		if !t.isArray {
			l.c.TypesUsed = append(l.c.TypesUsed,
				TypeUse{Name: t.name, BuiltIn: oid < firstUser, Extension: t.extension, By: users[t.root]})
		}
	}
	slices.SortFunc(l.c.TypesUsed, func(a, b TypeUse) int { return nameOrder(a.Name, b.Name) })
}
