package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// relation is what one side's catalog says about a table.
type relation struct {
	name      schema.Name
	exists    bool
	kind      schema.Kind
	unlogged  bool
	populated bool
	pages     int64
	rows      int64 // planner's estimate, -1 when unknown
	columns   []column
	keys      []key
}

// column is one column of a relation, with what decides how its values are compared.
type column struct {
	name string
	// sqlType is format_type with the type modifier, fit for CAST.
	sqlType   string
	generated bool
	// base is the type below all domains: its name, whether it is one of pg_catalog, and its typtype.
	base     string
	builtIn  bool
	typtype  byte
	variable bool // of variable length
	// element is the built-in element type of an array, subtype the built-in subtype of a range; else empty.
	element, subtype string
}

// key is the column list of a unique, immediate, complete index over columns that are never null.
type key struct {
	index   string // OID of the index, to gather its columns
	columns []string
}

// describeBatch bounds the length of one catalog query.
const describeBatch = 1000

// describeTables reads the catalogs of both sides for all tables.
func (r *run) describeTables(ctx context.Context, tables []*table) error {
	for batch := range slices.Chunk(tables, describeBatch) {
		sources, targets := make([]*relation, len(batch)), make([]*relation, len(batch))
		for i, t := range batch {
			sources[i], targets[i] = &t.source, &t.target
		}
		if err := r.source.describe(ctx, sources); err != nil {
			return err
		}
		if err := r.target.describe(ctx, targets); err != nil {
			return err
		}
	}
	return nil
}

func (s *side) describe(ctx context.Context, relations []*relation) error {
	session := &session{side: s}
	defer session.close()
	wanted := wantedCTE(relations)
	steps := []struct {
		sql  string
		take func(*relation, row) error
	}{
		{wanted + relationSQL, takeRelation},
		{"WITH RECURSIVE " + strings.TrimPrefix(wanted, "WITH ") + s.columnSQL(), takeColumn},
		{wanted + s.keySQL(), takeKey},
	}
	for _, step := range steps {
		var rows []row
		err := attempt(ctx, func() (err error) {
			rows, err = session.query(ctx, step.sql)
			return err
		})
		if err != nil {
			return fmt.Errorf("describe tables: %w", err)
		}
		for _, row := range rows {
			i, err := row.int(0)
			if err != nil {
				return fmt.Errorf("describe tables: %w", err)
			}
			if err := step.take(relations[i], row[1:]); err != nil {
				return fmt.Errorf("describe %s: %w", relations[i].name, err)
			}
		}
	}
	return nil
}

// wantedCTE is "WITH wanted(n, relid) AS (…)": the relations by their position in the list.
func wantedCTE(relations []*relation) string {
	values := make([]string, len(relations))
	for i, r := range relations {
		values[i] = fmt.Sprintf("(%d, %s, %s)", i, postgres.QuoteLiteral(r.name.Schema), postgres.QuoteLiteral(r.name.Name))
	}
	return `WITH wanted AS (
		SELECT v.n, c.oid AS relid FROM (VALUES ` + strings.Join(values, ", ") + `) AS v(n, nspname, relname)
		JOIN pg_catalog.pg_namespace n ON n.nspname = v.nspname
		JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = v.relname)`
}

const relationSQL = `
	SELECT w.n, c.relkind, c.relpersistence = 'u', c.relispopulated, c.relpages, c.reltuples::pg_catalog.int8
	  FROM wanted w JOIN pg_catalog.pg_class c ON c.oid = w.relid`

func takeRelation(r *relation, row row) (err error) {
	r.exists = true
	r.kind, r.unlogged, r.populated = schema.Kind(row[0][0]), row.text(1) == "t", row.text(2) == "t"
	if r.pages, err = row.int(3); err != nil {
		return err
	}
	r.rows, err = row.int(4)
	return err
}

// columnSQL follows domains down to the type that they stand on. 11 is the fixed OID of pg_catalog.
func (s *side) columnSQL() string {
	generated := "false"
	if s.version.AtLeast(12) {
		generated = "a.attgenerated <> ''"
	}
	return `, att AS (
		SELECT w.n, a.* FROM wanted w JOIN pg_catalog.pg_attribute a ON a.attrelid = w.relid
		 WHERE a.attnum > 0 AND NOT a.attisdropped),
	down(top, typ) AS (
		SELECT DISTINCT atttypid, atttypid FROM att
		UNION ALL
		SELECT d.top, t.typbasetype FROM down d JOIN pg_catalog.pg_type t ON t.oid = d.typ WHERE t.typtype = 'd')
	SELECT a.n, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), ` + generated + `,
	       t.typname, t.typnamespace = 11, t.typtype, t.typlen = -1,
	       CASE WHEN e.typnamespace = 11 THEN e.typname END,
	       CASE WHEN u.typnamespace = 11 THEN u.typname END
	  FROM att a
	  JOIN down d ON d.top = a.atttypid
	  JOIN pg_catalog.pg_type t ON t.oid = d.typ AND t.typtype <> 'd'
	  LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typlen = -1
	  LEFT JOIN pg_catalog.pg_range g ON g.rngtypid = t.oid
	  LEFT JOIN pg_catalog.pg_type u ON u.oid = g.rngsubtype
	 ORDER BY a.n, a.attnum`
}

func takeColumn(r *relation, row row) error {
	r.columns = append(r.columns, column{
		name: row.text(0), sqlType: row.text(1), generated: row.text(2) == "t",
		base: row.text(3), builtIn: row.text(4) == "t", typtype: row[5][0], variable: row.text(6) == "t",
		element: row.text(7), subtype: row.text(8),
	})
	return nil
}

// keySQL lists the usable keys column by column, the primary key first, then the narrowest.
func (s *side) keySQL() string {
	count := "i.indnatts"
	if s.version.AtLeast(11) {
		count = "i.indnkeyatts"
	}
	return `, usable AS (
		SELECT w.n, i.indexrelid, i.indrelid, i.indisprimary, ` + count + ` AS width, i.indkey
		  FROM wanted w JOIN pg_catalog.pg_index i ON i.indrelid = w.relid
		 WHERE i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL)
	SELECT u.n, u.indexrelid, a.attname
	  FROM usable u
	  CROSS JOIN LATERAL pg_catalog.generate_series(0, u.width - 1) AS p(i)
	  JOIN pg_catalog.pg_attribute a ON a.attrelid = u.indrelid AND a.attnum = u.indkey[p.i]
	 WHERE NOT EXISTS (
		SELECT 1 FROM pg_catalog.generate_series(0, u.width - 1) AS x(i)
		  JOIN pg_catalog.pg_attribute b ON b.attrelid = u.indrelid AND b.attnum = u.indkey[x.i]
		 WHERE NOT b.attnotnull)
	 ORDER BY u.n, u.indisprimary DESC, u.width, u.indexrelid, p.i`
}

func takeKey(r *relation, row row) error {
	if len(r.keys) == 0 || r.keys[len(r.keys)-1].index != row.text(0) {
		r.keys = append(r.keys, key{index: row.text(0)})
	}
	last := &r.keys[len(r.keys)-1]
	last.columns = append(last.columns, row.text(1))
	return nil
}

func (r *relation) column(name string) (column, bool) {
	for _, c := range r.columns {
		if c.name == name {
			return c, true
		}
	}
	return column{}, false
}

// has tells whether the relation has the same key with the columns in the same order.
func (r *relation) has(k key) bool {
	return slices.ContainsFunc(r.keys, func(other key) bool { return slices.Equal(other.columns, k.columns) })
}
