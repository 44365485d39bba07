package snapshot

import (
	"fmt"
	"strings"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// format is how the bytes of a part travel. It must be the same in both COPY statements.
type format struct {
	binary bool
	// encoding is set when both databases have the same one: bytes then pass without conversion, which is faster and
	// the only right way for SQL_ASCII, whose bytes are of no known encoding.
	encoding string
}

// utf8 is the encoding that every session of ours speaks.
const utf8 = "UTF8"

// chooseFormat decides for one table. Binary needs every type to mean the same on both sides, and it takes no
// ENCODING: it follows client_encoding, which is UTF8.
func chooseFormat(t *schema.Table, sameMajor bool, sourceEncoding, targetEncoding string) format {
	f := format{}
	if sourceEncoding == targetEncoding && sourceEncoding != utf8 {
		f.encoding = sourceEncoding
		return f
	}
	columns := t.CopyColumns()
	f.binary = sameMajor && len(columns) > 0
	for _, c := range columns {
		f.binary = f.binary && c.BinarySafe
	}
	return f
}

// options are those of COPY; extra come first.
func (f format) options(extra ...string) string {
	options := extra
	if f.binary {
		options = append(options, "FORMAT binary")
	}
	if f.encoding != "" {
		options = append(options, "ENCODING "+postgres.QuoteLiteral(f.encoding))
	}
	if len(options) == 0 {
		return ""
	}
	return " WITH (" + strings.Join(options, ", ") + ")"
}

func copyColumns(t *schema.Table) string {
	columns := t.CopyColumns()
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	return postgres.QuoteIdents(names)
}

// listed is a column list in parentheses. A table without columns has rows all the same, and COPY has no syntax for an
// empty list: without one it takes all columns but the generated ones.
func listed(columns string) string {
	if columns == "" {
		return ""
	}
	return " (" + columns + ")"
}

// copyOut reads the part. COPY of a table reads that table alone, without its inheritance children; a query needs ONLY.
func copyOut(p Part, f format) string {
	columns := copyColumns(p.Table)
	where := p.Range.condition()
	if where == "" {
		return "COPY " + p.Table.SQL() + listed(columns) + " TO STDOUT" + f.options()
	}
	return "COPY (SELECT " + columns + " FROM ONLY " + p.Table.SQL() + " WHERE " + where + ") TO STDOUT" + f.options()
}

// copyIn writes the part.
func copyIn(p Part, f format) string {
	extra := []string{"FREEZE true"}
	if p.Plain {
		extra = nil
	}
	return "COPY " + p.Target.SQL() + listed(copyColumns(p.Table)) + " FROM STDIN" + f.options(extra...)
}

// truncate empties the targets of the parts that are not plain, or is empty when there are none.
func truncate(parts []Part) string {
	names := []string{}
	for _, p := range parts {
		if !p.Plain {
			names = append(names, "ONLY "+p.Target.SQL())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "TRUNCATE " + strings.Join(names, ", ")
}

// condition is the WHERE clause of a range, or empty for all rows.
func (r Range) condition() string {
	left, value := "ctid", func(n int64) string { return fmt.Sprintf("'(%d,0)'::pg_catalog.tid", n) }
	if r.Key != "" {
		left, value = postgres.QuoteIdent(r.Key), func(n int64) string { return fmt.Sprintf("'%d'::pg_catalog.int8", n) }
	}
	conditions := []string{}
	if r.From != nil {
		conditions = append(conditions, left+" OPERATOR(pg_catalog.>=) "+value(*r.From))
	}
	if r.To != nil {
		conditions = append(conditions, left+" OPERATOR(pg_catalog.<) "+value(*r.To))
	}
	return strings.Join(conditions, " AND ")
}

// fileOf reads where the table's rows are kept, as the snapshot knows it and as it is now; they differ when the table
// was truncated or rewritten since. It runs after COPY, under the lock that COPY took.
func fileOf(t *schema.Table) string {
	return fmt.Sprintf(`SELECT c.relfilenode::pg_catalog.text, pg_catalog.pg_relation_filenode(c.oid)::pg_catalog.text
		FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) '%d'::pg_catalog.oid`, t.OID)
}
