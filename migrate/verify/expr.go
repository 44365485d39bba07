package verify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-db/slipway/postgres"
)

// dialect decides how rows become text and text becomes hashes, so that equal values give equal hashes on both sides
// and different values never the same text.
type dialect struct {
	// seeded tells that both servers have the fast seeded hash of PostgreSQL 11; else md5 serves.
	seeded bool
	// convert tells that the encodings differ, so that text is hashed in UTF-8.
	convert bool
	// floatBits tells that the servers print floating point numbers differently (shortest form since 12), so that
	// their bits are compared.
	floatBits bool
	// foreign tells that the sides may print equal values differently for other reasons (majors or encodings
	// differ), so that a row is different only when the target says so about the parsed value.
	foreign bool
	// digest replaces long values by their md5, because the text of the whole row would exceed what a server can
	// hold. It is the second try at rows that failed for their size.
	digest bool
}

func newDialect(a, b *side) dialect {
	d := dialect{
		convert:   a.encoding != b.encoding,
		floatBits: a.version.AtLeast(12) != b.version.AtLeast(12),
		foreign:   a.version.Major() != b.version.Major() || a.encoding != b.encoding || a.version < 100000,
	}
	// The seeded hash works on the bytes of the server's encoding and takes text only.
	d.seeded = a.version.AtLeast(11) && b.version.AtLeast(11) && !d.convert
	return d
}

// The binary output functions of the built-in types that hold floating point numbers. Their form is the same in all
// versions.
var floatSend = map[string]string{
	"float4": "float4send", "float8": "float8send", "point": "point_send", "box": "box_send", "lseg": "lseg_send",
	"line": "line_send", "path": "path_send", "polygon": "poly_send", "circle": "circle_send",
}

// comparable is the expression whose text stands for the value of operand, which is of the column's type.
func (d dialect) comparable(c column, operand string) string {
	switch {
	case c.builtIn && c.base == "char":
		// Printed as a byte up to 15 and as an octal escape since; a number everywhere.
		return operand + "::pg_catalog.int4"
	case c.element == "char":
		return "pg_catalog.encode(pg_catalog.array_send(" + operand + "), 'hex')"
	case d.floatBits && floatSend[c.element] != "" && c.base != "int2vector":
		return "pg_catalog.encode(pg_catalog.array_send(" + operand + "), 'hex')"
	case d.floatBits && c.typtype == 'r' && floatSend[c.subtype] != "":
		return "pg_catalog.encode(pg_catalog.range_send(" + operand + "), 'hex')"
	case d.floatBits && c.builtIn && floatSend[c.base] != "":
		bits := "pg_catalog.encode(pg_catalog." + floatSend[c.base] + "(" + operand + "), 'hex')"
		if c.base == "float4" || c.base == "float8" {
			// NaN has a sign bit and a payload that no text carries; it is one value.
			return "CASE WHEN " + operand + " = 'NaN' THEN 'NaN' ELSE " + bits + " END"
		}
		return bits
	case d.digest && c.variable && c.builtIn && c.base == "bytea":
		return "pg_catalog.md5(" + operand + ")"
	case d.digest && c.variable && !(c.builtIn && c.base == "bpchar"):
		return d.md5(operand + "::pg_catalog.text")
	}
	return operand
}

// rowText is the unambiguous text of a row: record output quotes each field and tells NULL from empty. It keeps the
// blanks of bpchar, which a cast to text would cut.
func (d dialect) rowText(columns []column) string {
	fields := make([]string, len(columns))
	for i, c := range columns {
		fields[i] = d.comparable(c, attribute(c))
	}
	return "ROW(" + strings.Join(fields, ", ") + ")::pg_catalog.text"
}

// attribute is the column of the table, which all statements call t.
func attribute(c column) string { return "t." + postgres.QuoteIdent(c.name) }

// plainText is the value as its type prints it, NULL for NULL. NULL is told by the text of a row of one, because IS
// NULL is also true for a composite of nulls.
func plainText(operand string) string {
	return "CASE WHEN ROW(" + operand + ")::pg_catalog.text <> '()' THEN pg_catalog.format('%s', " + operand + ") END"
}

func (d dialect) md5(text string) string {
	if d.convert {
		return "pg_catalog.md5(pg_catalog.convert_to(" + text + ", 'UTF8'))"
	}
	return "pg_catalog.md5(" + text + ")"
}

// prehash is what the inner query computes once per text, and halves the two 64-bit halves of the hash from it.
func (d dialect) prehash(text string) string {
	if d.seeded {
		return text + ` COLLATE "C"`
	}
	return d.md5(text)
}

func (d dialect) halves(prehashed string) (string, string) {
	if d.seeded {
		return "pg_catalog.hashtextextended(" + prehashed + ", 0)",
			"pg_catalog.hashtextextended(" + prehashed + ", 7046029254386353131)"
	}
	half := func(from int) string {
		return fmt.Sprintf("('x' || pg_catalog.substr(%s, %d, 16))::pg_catalog.bit(64)::pg_catalog.int8", prehashed, from)
	}
	return half(1), half(17)
}

// rowVersion names one version of a row: another writer cannot change the row and leave both as they are.
const rowVersion = "(t.ctid::pg_catalog.text || ' ' || t.xmin::pg_catalog.text)"

// versionSum adds the versions of several rows up, whatever their order.
const versionSum = "pg_catalog.sum(('x' || pg_catalog.substr(pg_catalog.md5(v), 1, 15))::pg_catalog.bit(60)::pg_catalog.int8)"

// literal is a constant of the column's type.
func literal(c column, value string) string {
	return "CAST(" + postgres.QuoteLiteral(value) + " AS " + c.sqlType + ")"
}

// orderable are the built-in key types whose order is the same on every server.
var orderable = []string{"int2", "int4", "int8", "oid", "uuid", "date", "time", "timestamp", "timestamptz", "numeric"}

func isOrderable(c column) bool { return c.builtIn && slices.Contains(orderable, c.base) }

// above and upTo compare the key with a boundary, in the form that an index on the key answers.
func above(columns []column, bound []string) string { return compareKey(columns, ">", bound) }

func upTo(columns []column, bound []string) string { return compareKey(columns, "<=", bound) }

func compareKey(columns []column, operator string, bound []string) string {
	left, right := make([]string, len(columns)), make([]string, len(columns))
	for i, c := range columns {
		left[i], right[i] = attribute(c), literal(c, bound[i])
	}
	if len(columns) == 1 {
		return left[0] + " " + operator + " " + right[0]
	}
	return "(" + strings.Join(left, ", ") + ") " + operator + " (" + strings.Join(right, ", ") + ")"
}
