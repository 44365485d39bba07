package apply

import (
	"strconv"
	"strings"

	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// This file builds the statements that write one row. Values are parameters in their text form, cast to the base type
// of the column; the server's assignment then applies length and domain.

// parameters collects the values of a statement while its text is built, so that the numbers always agree.
type parameters struct {
	values [][]byte
}

// add returns the placeholder of a value, cast to the column's type.
func (p *parameters) add(c *column, v stream.Value) string {
	p.values = append(p.values, v.Data)
	if v.Kind == stream.Null {
		p.values[len(p.values)-1] = nil
	}
	return "$" + strconv.Itoa(len(p.values)) + "::" + c.cast
}

// rowQuery is the query that does one change; it must affect one row.
func (s *session) rowQuery(c *change) query {
	p := &parameters{}
	var sql string
	switch {
	case c.kind == stream.Truncate:
		return query{sql: truncateSQL(c.truncate), rows: anyRows, change: c}
	case c.kind == stream.Insert:
		sql = insertRow(c, p)
	case c.kind == stream.Delete:
		sql = "DELETE FROM " + c.bind.target.sql() + " AS t" + findRow(c, p)
	default:
		sql = updateRow(c, p)
	}
	return query{statement: s.statement(sql), values: p.values, rows: 1, change: c}
}

func truncateSQL(t *truncation) string {
	names := make([]string, len(t.tables))
	for i, table := range t.tables {
		names[i] = table.sql()
	}
	sequences := " CONTINUE IDENTITY"
	if t.restart {
		sequences = " RESTART IDENTITY"
	}
	return "TRUNCATE TABLE " + strings.Join(names, ", ") + sequences + " RESTRICT"
}

func insertRow(c *change, p *parameters) string {
	names, values := []string{}, []string{}
	for i, v := range c.new {
		if c.bind.columns[i] < 0 {
			continue
		}
		names = append(names, c.bind.column(i).name)
		values = append(values, p.add(c.bind.column(i), v))
	}
	into := "INSERT INTO " + c.bind.target.Target.SQL()
	if len(names) == 0 {
		return into + " DEFAULT VALUES"
	}
	return into + " (" + postgres.QuoteIdents(names) + ") OVERRIDING SYSTEM VALUE VALUES (" + strings.Join(values, ", ") + ")"
}

// updateRow sets what was sent, except the key where it stays: an update that changes nothing of the row still has to
// find it.
func updateRow(c *change, p *parameters) string {
	if c.mustReplace() {
		return replaceRow(c, p)
	}
	table := c.bind.target.sql() + " AS t"
	assignments := []string{}
	for i, v := range c.new {
		if c.sets(i) {
			column := c.bind.column(i)
			assignments = append(assignments, postgres.QuoteIdent(column.name)+" = "+p.add(column, v))
		}
	}
	if len(assignments) == 0 {
		return "SELECT FROM " + table + findRow(c, p)
	}
	return "UPDATE " + table + " SET " + strings.Join(assignments, ", ") + findRow(c, p)
}

// sets tells whether an update has to write the column.
func (c *change) sets(at int) bool {
	b := c.bind
	if b.columns[at] < 0 || c.new[at].Kind == stream.Unchanged {
		return false
	}
	if k := b.keyIndex(at); k >= 0 {
		return !sameValue(c.keyBefore(k), c.new[at])
	}
	if b.column(at).identityAlways && c.old != nil && sameValue(c.old[at], c.new[at]) {
		return false
	}
	return true
}

// mustReplace tells whether an update would set a column GENERATED ALWAYS AS IDENTITY, which the server refuses. When
// the old value is not known, it has to be assumed.
func (c *change) mustReplace() bool {
	for i := range c.new {
		if c.bind.columns[i] >= 0 && c.bind.column(i).identityAlways && c.sets(i) {
			return true
		}
	}
	return false
}

// replaceRow deletes the row and inserts it with its new values; what was not sent is taken from the deleted row.
func replaceRow(c *change, p *parameters) string {
	given := map[int]string{}
	for i, v := range c.new {
		if at := c.bind.columns[i]; at >= 0 && v.Kind != stream.Unchanged {
			given[at] = p.add(c.bind.column(i), v)
		}
	}
	names, values := []string{}, []string{}
	for at := range c.bind.target.columns {
		column := &c.bind.target.columns[at]
		if column.generated {
			continue
		}
		value, sent := given[at]
		if !sent {
			value = "d." + postgres.QuoteIdent(column.name)
		}
		names, values = append(names, column.name), append(values, value)
	}
	return "WITH d AS (DELETE FROM " + c.bind.target.sql() + " AS t" + findRow(c, p) + " RETURNING t.*) INSERT INTO " +
		c.bind.target.Target.SQL() + " (" + postgres.QuoteIdents(names) + ") OVERRIDING SYSTEM VALUE SELECT " +
		strings.Join(values, ", ") + " FROM d"
}

// findRow is the WHERE clause that finds the row of a change, as t: by its key, else the first of those that agree in
// every column.
func findRow(c *change, p *parameters) string {
	if len(c.bind.key) > 0 {
		conditions := make([]string, len(c.bind.key))
		for i, k := range c.bind.key {
			conditions[i] = equals(c.bind.column(k.at), k.equals, "t", p.add(c.bind.column(k.at), c.keyBefore(i)))
		}
		return " WHERE " + strings.Join(conditions, " AND ")
	}
	inner := "FROM " + c.bind.target.sql() + " AS m" + matchRow(c, p) + " LIMIT 1)"
	if c.bind.target.partitioned {
		return " WHERE (t.tableoid, t.ctid) OPERATOR(pg_catalog.=) (SELECT m.tableoid, m.ctid " + inner
	}
	return " WHERE t.ctid OPERATOR(pg_catalog.=) (SELECT m.ctid " + inner
}

// equals compares a column by an index's own operator, so that the same rows are the same as in that index.
func equals(c *column, op operator, alias, value string) string {
	return alias + "." + postgres.QuoteIdent(c.name) + " " + op.sql + " " + value + op.collate
}

// matchRow compares every column by what its type prints, which works for types without an equality and tells apart
// what an equality would not (-0 and 0, 1.0 and 1.00, trailing blanks). The condition on an index only makes it fast.
// A value is compared for null without looking into rows: ROW(NULL) IS NULL would hold.
func matchRow(c *change, p *parameters) string {
	conditions := []string{}
	for _, k := range c.bind.match {
		if c.old[k.at].Kind == stream.Text {
			conditions = append(conditions, equals(c.bind.column(k.at), k.equals, "m", p.add(c.bind.column(k.at), c.old[k.at])))
		}
	}
	for i, v := range c.old {
		if c.bind.columns[i] < 0 {
			continue
		}
		column := c.bind.column(i)
		name := "m." + postgres.QuoteIdent(column.name)
		if v.Kind == stream.Null {
			conditions = append(conditions, name+" IS NOT DISTINCT FROM NULL")
			continue
		}
		conditions = append(conditions, name+" IS DISTINCT FROM NULL AND pg_catalog.concat("+name+
			`) COLLATE pg_catalog."C" OPERATOR(pg_catalog.=) pg_catalog.concat(`+p.add(column, v)+`) COLLATE pg_catalog."C"`)
	}
	if len(conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(conditions, " AND ")
}
