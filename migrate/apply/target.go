package apply

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// target is one table of the target as its catalog describes it.
type target struct {
	source schema.Name
	Table
	oid         uint32
	partitioned bool // rows are routed to its leaves, so ONLY would find none
	leaf        bool
	columns     []column
	byName      map[string]int
	indexes     []index
}

// sql names the table in statements that must not touch inheritance children.
func (t *target) sql() string {
	if t.partitioned {
		return t.Target.SQL()
	}
	return "ONLY " + t.Target.SQL()
}

// column is one column of a target table.
type column struct {
	name    string
	typeOID uint32
	typeMod int32
	notNull bool
	// cast is the quoted name of the type that values are cast to: without type modifier, and the base type of a
	// domain, so that length and domain are checked by the assignment, which raises an error where an explicit cast
	// would cut the value.
	cast string
	// castByFunction says that somebody defined a cast function from text, which need not agree with the type's
	// input function; only parameters of the type itself are safe then.
	castByFunction bool
	generated      bool
	identityAlways bool
	// numeric says that keys of this type sort by length first, which is all that locality needs.
	numeric bool
	// equals is the qualified equality operator of the type's default order.
	equals operator
}

// operator is an equality with the collation that it has to use, empty for the column's own.
type operator struct{ sql, collate string }

// index is a valid btree index on plain columns without a condition.
type index struct {
	columns []int
	equals  []operator
	// identifies says that no two rows can agree in it at any moment: unique, immediate and without nulls.
	identifies bool
	primary    bool
}

// loadTargets reads all tables in a few set-based queries and refuses those where a trigger or a rule would change
// what is written.
func loadTargets(ctx context.Context, conn *pgx.Conn, tables map[schema.Name]Table, replica bool) (map[schema.Name]*target, error) {
	version, err := postgres.ServerVersion(conn)
	if err != nil {
		return nil, err
	}
	l := &loader{conn: conn, version: version, byOID: map[uint32][]*target{}}
	targets, err := l.tables(ctx, tables)
	if err == nil {
		err = l.columns(ctx)
	}
	if err == nil {
		err = l.indexes(ctx)
	}
	if err == nil {
		err = l.refuseEffects(ctx, replica)
	}
	if err != nil {
		return nil, fmt.Errorf("read the target's tables: %w", err)
	}
	return targets, nil
}

type loader struct {
	conn    *pgx.Conn
	version postgres.Version
	// byOID holds several entries where partitions of the source go to one table.
	byOID map[uint32][]*target
	oids  []uint32
}

func (l *loader) tables(ctx context.Context, tables map[schema.Name]Table) (map[schema.Name]*target, error) {
	targets := make(map[schema.Name]*target, len(tables))
	ordered := make([]*target, 0, len(tables))
	schemas, names := make([]string, 0, len(tables)), make([]string, 0, len(tables))
	for source, table := range tables {
		t := &target{source: source, Table: table, byName: map[string]int{}}
		targets[source] = t
		ordered = append(ordered, t)
		schemas, names = append(schemas, table.Target.Schema), append(names, table.Target.Name)
	}
	rows, err := l.conn.Query(ctx, `SELECT v.n, c.oid, c.relkind = 'p', c.relispartition
		FROM ROWS FROM (unnest($1::text[]), unnest($2::text[])) WITH ORDINALITY AS v(schema, name, n)
		JOIN pg_namespace s ON s.nspname = v.schema
		JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = v.name AND c.relkind IN ('r', 'p')`, schemas, names)
	if err != nil {
		return nil, err
	}
	var n int
	var oid uint32
	var partitioned, leaf bool
	_, err = pgx.ForEachRow(rows, []any{&n, &oid, &partitioned, &leaf}, func() error {
		t := ordered[n-1]
		t.oid, t.partitioned, t.leaf = oid, partitioned, leaf
		if l.byOID[oid] == nil {
			l.oids = append(l.oids, oid)
		}
		l.byOID[oid] = append(l.byOID[oid], t)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, t := range ordered {
		if t.oid == 0 {
			return nil, fmt.Errorf("table %s does not exist", t.Target)
		}
	}
	return targets, nil
}

// columnsQuery resolves domains to their base types and finds the equality of the base type's default btree order:
// by its own operator class, else by one of the polymorphic ones, whose operators are in pg_catalog.
const columnsQuery = `
WITH RECURSIVE attributes AS (
	SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, %s AS generated, a.attidentity = 'a' AS always
	FROM pg_attribute a WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
), bases AS (
	SELECT DISTINCT atttypid AS oid, atttypid AS base FROM attributes
	UNION ALL
	SELECT b.oid, t.typbasetype FROM bases b JOIN pg_type t ON t.oid = b.base AND t.typtype = 'd'
), types AS (
	SELECT b.oid, t.oid AS base, s.nspname, t.typname,
		EXISTS (SELECT FROM pg_cast c WHERE c.castsource = 'pg_catalog.text'::regtype AND c.casttarget = t.oid AND c.castmethod = 'f')
			AND t.oid NOT IN ('pg_catalog.name'::regtype, 'pg_catalog."char"'::regtype, 'pg_catalog.xml'::regtype) AS by_function,
		t.oid IN ('pg_catalog.int2'::regtype, 'pg_catalog.int4'::regtype, 'pg_catalog.int8'::regtype) AS numeric,
		e.nspname AS equals_schema, e.oprname AS equals_name
	FROM bases b JOIN pg_type t ON t.oid = b.base AND t.typtype <> 'd' JOIN pg_namespace s ON s.oid = t.typnamespace
	LEFT JOIN LATERAL (
		SELECT n.nspname, o.oprname FROM pg_opclass oc
		JOIN pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
		JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
			AND ao.amopstrategy = 3
		JOIN pg_operator o ON o.oid = ao.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
		WHERE oc.opcintype = t.oid AND oc.opcdefault LIMIT 1) e ON true
)
SELECT a.attrelid, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.generated, a.always,
	t.nspname, t.typname, t.by_function, t.numeric, coalesce(t.equals_schema, 'pg_catalog'), coalesce(t.equals_name, '=')
FROM attributes a JOIN types t ON t.oid = a.atttypid ORDER BY a.attrelid, a.attnum`

func (l *loader) columns(ctx context.Context) error {
	generated := "false"
	if l.version.AtLeast(12) {
		generated = "a.attgenerated <> ''"
	}
	rows, err := l.conn.Query(ctx, fmt.Sprintf(columnsQuery, generated), l.oids)
	if err != nil {
		return err
	}
	var oid uint32
	var c column
	var typeSchema, typeName, equalsSchema, equalsName string
	_, err = pgx.ForEachRow(rows, []any{
		&oid, &c.name, &c.typeOID, &c.typeMod, &c.notNull, &c.generated, &c.identityAlways,
		&typeSchema, &typeName, &c.castByFunction, &c.numeric, &equalsSchema, &equalsName,
	}, func() error {
		c.cast = postgres.QuoteQualified(typeSchema, typeName)
		c.equals = operator{sql: operatorSQL(equalsSchema, equalsName)}
		for _, t := range l.byOID[oid] {
			t.byName[c.name] = len(t.columns)
			t.columns = append(t.columns, c)
		}
		return nil
	})
	return err
}

// operatorSQL names an operator whatever the search_path. Operator names hold no characters that need quoting.
func operatorSQL(schemaName, name string) string {
	return "OPERATOR(" + postgres.QuoteIdent(schemaName) + "." + name + ")"
}

const indexesQuery = `
SELECT i.indrelid, i.indexrelid, i.indisprimary, i.indisunique AND i.indimmediate, a.attname,
	n.nspname, o.oprname, CASE WHEN k.coll <> a.attcollation THEN cn.nspname END, c.collname
FROM pg_index i
JOIN pg_class x ON x.oid = i.indexrelid
JOIN pg_am am ON am.oid = x.relam AND am.amname = 'btree'
CROSS JOIN LATERAL ROWS FROM (unnest(i.indkey::int2[]), unnest(i.indclass::oid[]), unnest(i.indcollation::oid[]))
	WITH ORDINALITY AS k(attnum, opclass, coll, n)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_opclass oc ON oc.oid = k.opclass
JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
	AND ao.amopstrategy = 3
JOIN pg_operator o ON o.oid = ao.amopopr
JOIN pg_namespace n ON n.oid = o.oprnamespace
LEFT JOIN pg_collation c ON c.oid = k.coll
LEFT JOIN pg_namespace cn ON cn.oid = c.collnamespace
WHERE i.indrelid = ANY ($1::oid[]) AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND k.n <= %s
ORDER BY i.indrelid, i.indisprimary DESC, i.indexrelid, k.n`

func (l *loader) indexes(ctx context.Context) error {
	keys := "i.indnatts"
	if l.version.AtLeast(11) {
		keys = "i.indnkeyatts"
	}
	rows, err := l.conn.Query(ctx, fmt.Sprintf(indexesQuery, keys), l.oids)
	if err != nil {
		return err
	}
	var table, indexOID, current uint32
	var primary, unique bool
	var attribute, equalsSchema, equalsName string
	var collationSchema, collationName *string
	_, err = pgx.ForEachRow(rows, []any{
		&table, &indexOID, &primary, &unique, &attribute, &equalsSchema, &equalsName, &collationSchema, &collationName,
	}, func() error {
		equals := operator{sql: operatorSQL(equalsSchema, equalsName)}
		if collationSchema != nil && collationName != nil {
			equals.collate = " COLLATE " + postgres.QuoteQualified(*collationSchema, *collationName)
		}
		for _, t := range l.byOID[table] {
			if indexOID != current {
				t.indexes = append(t.indexes, index{primary: primary, identifies: unique})
			}
			at, known := t.byName[attribute]
			if !known {
				return errors.New("a column of an index vanished meanwhile")
			}
			last := &t.indexes[len(t.indexes)-1]
			last.columns, last.equals = append(last.columns, at), append(last.equals, equals)
			last.identifies = last.identifies && t.columns[at].notNull
		}
		current = indexOID
		return nil
	})
	return err
}

// refuseEffects finds what would fire when we write. Foreign keys are constraints and not counted: a change that they
// refuse or widen is noticed when it is applied.
func (l *loader) refuseEffects(ctx context.Context, replica bool) error {
	firing := `('O', 'R', 'A')`
	if replica {
		firing = `('R', 'A')`
	}
	rows, err := l.conn.Query(ctx, `
		SELECT t.tgrelid, 'trigger ' || t.tgname FROM pg_trigger t
		WHERE t.tgrelid = ANY ($1::oid[]) AND NOT t.tgisinternal AND t.tgenabled IN `+firing+`
		UNION ALL
		SELECT r.ev_class, 'rule ' || r.rulename FROM pg_rewrite r
		WHERE r.ev_class = ANY ($1::oid[]) AND r.ev_enabled IN `+firing, l.oids)
	if err != nil {
		return err
	}
	var oid uint32
	var what string
	_, err = pgx.ForEachRow(rows, []any{&oid, &what}, func() error {
		return fmt.Errorf("%s on table %s would change what is written to it: disable it until the migration is complete",
			what, l.byOID[oid][0].Target)
	})
	return err
}
