package apply

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// This file builds the statements that write many rows: one DELETE, one UPDATE per set of columns and one INSERT per
// step, over arrays of text that are unnested and cast. They are not prepared: planned with the arrays at hand, the
// planner knows their length and the table's present size.

// arrays are the text[] parameters of a set statement, one per column, in the binary format, which needs no escaping.
type arrays struct {
	columns [][]byte
	casts   []string
	rows    int
}

// arrayHeader: one dimension, may hold nulls, element type text; then length and lower bound.
const (
	arrayHeaderSize = 20
	textOID         = 25
)

// newArrays prepares arrays for a number of rows; sizes are filled in by the rows.
func newArrays(columns []*column, rows int) *arrays {
	a := &arrays{columns: make([][]byte, len(columns)), casts: make([]string, len(columns)), rows: rows}
	for i, c := range columns {
		header := make([]byte, arrayHeaderSize, arrayHeaderSize+rows*16)
		binary.BigEndian.PutUint32(header[0:], 1)
		binary.BigEndian.PutUint32(header[4:], 1)
		binary.BigEndian.PutUint32(header[8:], textOID)
		binary.BigEndian.PutUint32(header[12:], uint32(rows))
		binary.BigEndian.PutUint32(header[16:], 1)
		a.columns[i], a.casts[i] = header, c.cast
	}
	return a
}

func (a *arrays) append(i int, v stream.Value) {
	if v.Kind == stream.Null {
		a.columns[i] = append(a.columns[i], 0xff, 0xff, 0xff, 0xff)
		return
	}
	a.columns[i] = binary.BigEndian.AppendUint32(a.columns[i], uint32(len(v.Data)))
	a.columns[i] = append(a.columns[i], v.Data...)
}

// from is the FROM item u with columns c0, c1, …
func (a *arrays) from() string {
	functions, names := make([]string, len(a.columns)), make([]string, len(a.columns))
	for i := range a.columns {
		functions[i] = "pg_catalog.unnest($" + strconv.Itoa(i+1) + "::pg_catalog.text[])"
		names[i] = "c" + strconv.Itoa(i)
	}
	return "ROWS FROM (" + strings.Join(functions, ", ") + ") AS u(" + strings.Join(names, ", ") + ")"
}

// value is the element of array i in the row at hand.
func (a *arrays) value(i int) string { return "u.c" + strconv.Itoa(i) + "::" + a.casts[i] }

func (a *arrays) query(sql string, t *target) query {
	formats := make([]int16, len(a.columns))
	for i := range formats {
		formats[i] = 1
	}
	return query{sql: sql, values: a.columns, formats: formats, rows: int64(a.rows), target: t}
}

// setQueries are the statements of a step that is written as sets, in the order that they have to run.
func setQueries(s *step) []query {
	if s.inserts != nil {
		rows := make([][]stream.Value, len(s.inserts))
		for i, c := range s.inserts {
			rows[i] = c.new
		}
		return []query{insertSet(s.bind, rows)}
	}
	sortRows(s.bind, s.group.order)
	deletes, inserts := []*row{}, [][]stream.Value{}
	updates := map[string][]*row{}
	masks := []string{}
	for _, r := range s.group.order {
		if r.delete {
			deletes = append(deletes, r)
		}
		if r.update != nil {
			mask := columnMask(s.bind, r.update)
			if updates[mask] == nil {
				masks = append(masks, mask)
			}
			updates[mask] = append(updates[mask], r)
		}
		if r.insert != nil {
			inserts = append(inserts, r.insert)
		}
	}
	queries := []query{}
	if len(deletes) > 0 {
		queries = append(queries, deleteSet(s.bind, deletes))
	}
	for _, mask := range masks {
		queries = append(queries, updateSet(s.bind, mask, updates[mask]))
	}
	if len(inserts) > 0 {
		queries = append(queries, insertSet(s.bind, inserts))
	}
	return queries
}

// sortRows brings neighbours in the key together, so that a page is visited once.
func sortRows(b *binding, rows []*row) {
	numeric := b.column(b.key[0].at).numeric
	slices.SortStableFunc(rows, func(x, y *row) int {
		p, q := x.values[0].Data, y.values[0].Data
		if numeric && len(p) != len(q) {
			return cmp.Compare(len(p), len(q))
		}
		return strings.Compare(string(p), string(q))
	})
}

func keyColumns(b *binding) []*column {
	columns := make([]*column, len(b.key))
	for i, k := range b.key {
		columns[i] = b.column(k.at)
	}
	return columns
}

// matchKey joins the table t with the keys in the first arrays.
func matchKey(b *binding, a *arrays) string {
	conditions := make([]string, len(b.key))
	for i, k := range b.key {
		conditions[i] = equals(b.column(k.at), k.equals, "t", a.value(i))
	}
	return " WHERE " + strings.Join(conditions, " AND ")
}

func deleteSet(b *binding, rows []*row) query {
	a := newArrays(keyColumns(b), len(rows))
	for _, r := range rows {
		for i := range b.key {
			a.append(i, r.values[i])
		}
	}
	return a.query("DELETE FROM "+b.target.sql()+" AS t USING "+a.from()+matchKey(b, a), b.target)
}

// columnMask tells which columns of the relation an update sets, one bit each, so that updates of the same columns are
// written together. Columns that the update did not send stay as they are.
func columnMask(b *binding, values []stream.Value) string {
	mask := make([]byte, (len(values)+7)/8)
	for i, v := range values {
		if b.columns[i] >= 0 && v.Kind != stream.Unchanged && !b.inKey(i) && !slices.Contains(b.guarded, i) {
			mask[i/8] |= 1 << (i % 8)
		}
	}
	return string(mask)
}

func maskColumns(mask string) []int {
	columns := []int{}
	for i := range len(mask) {
		for rest := mask[i]; rest != 0; rest &= rest - 1 {
			columns = append(columns, i*8+bits.TrailingZeros8(rest))
		}
	}
	return columns
}

// updateSet updates rows by key. Columns that the server refuses to set are part of the condition instead: when one of
// them changed, the row is not found, and the batch is written change by change. An update that sets nothing still has
// to find its rows.
func updateSet(b *binding, mask string, rows []*row) query {
	set := maskColumns(mask)
	columns := keyColumns(b)
	for _, at := range append(slices.Clone(b.guarded), set...) {
		columns = append(columns, b.column(at))
	}
	a := newArrays(columns, len(rows))
	for _, r := range rows {
		for i := range b.key {
			a.append(i, r.values[i])
		}
		for i, at := range b.guarded {
			a.append(len(b.key)+i, r.update[at])
		}
		for i, at := range set {
			a.append(len(b.key)+len(b.guarded)+i, r.update[at])
		}
	}
	condition := matchKey(b, a)
	for i, at := range b.guarded {
		condition += " AND " + equals(b.column(at), b.column(at).equals, "t", a.value(len(b.key)+i))
	}
	if len(set) == 0 {
		return a.query("SELECT FROM "+b.target.sql()+" AS t, "+a.from()+condition, b.target)
	}
	assignments := make([]string, len(set))
	for i, at := range set {
		assignments[i] = postgres.QuoteIdent(b.column(at).name) + " = " + a.value(len(b.key)+len(b.guarded)+i)
	}
	return a.query("UPDATE "+b.target.sql()+" AS t SET "+strings.Join(assignments, ", ")+" FROM "+a.from()+condition, b.target)
}

func insertSet(b *binding, rows [][]stream.Value) query {
	columns, at, names := []*column{}, []int{}, []string{}
	for i := range b.columns {
		if b.columns[i] >= 0 {
			columns, at, names = append(columns, b.column(i)), append(at, i), append(names, b.column(i).name)
		}
	}
	a := newArrays(columns, len(rows))
	for _, values := range rows {
		for i, from := range at {
			a.append(i, values[from])
		}
	}
	values := make([]string, len(columns))
	for i := range columns {
		values[i] = a.value(i)
	}
	return a.query("INSERT INTO "+b.target.Target.SQL()+" ("+postgres.QuoteIdents(names)+") OVERRIDING SYSTEM VALUE SELECT "+
		strings.Join(values, ", ")+" FROM "+a.from(), b.target)
}
