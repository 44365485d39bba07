package postgres

import "strings"

// QuoteIdent quotes an identifier for SQL. Every identifier is quoted, needed or not: names are data.
// A NUL byte cannot be part of a name in PostgreSQL; it is cut out so that it can never end a statement early.
func QuoteIdent(name string) string {
	name = strings.ReplaceAll(name, "\x00", "")
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// QuoteQualified quotes schema.name.
func QuoteQualified(schema, name string) string {
	return QuoteIdent(schema) + "." + QuoteIdent(name)
}

// QuoteIdents quotes each name and joins them with ", ".
func QuoteIdents(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = QuoteIdent(n)
	}
	return strings.Join(quoted, ", ")
}

// QuoteLiteral quotes a string constant so that it reads the same under any standard_conforming_strings.
func QuoteLiteral(value string) string {
	value = strings.ReplaceAll(value, "\x00", "")
	quoted := `'` + strings.ReplaceAll(value, `'`, `''`) + `'`
	if strings.Contains(value, `\`) {
		return ` E` + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
