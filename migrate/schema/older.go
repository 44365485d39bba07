package schema

import (
	"strings"

	"github.com/slipway-db/slipway/postgres"
)

// executeFunction is the first major version that knows EXECUTE FUNCTION; all know EXECUTE PROCEDURE.
const executeFunction = 11

// forTarget is the SQL in words that the target knows.
func (e *Entry) forTarget(target postgres.Version) string {
	if (e.Desc == descTrigger || e.Desc == descEventTrigger) && !target.AtLeast(executeFunction) {
		return replaceUnquoted(e.SQL, "EXECUTE FUNCTION ", "EXECUTE PROCEDURE ")
	}
	return e.SQL
}

// replaceUnquoted replaces the first occurrence that is neither in a string nor in a quoted name. The text is the
// server's own: strings have doubled quotes, and backslashes only where an E is in front.
func replaceUnquoted(sql, old, replacement string) string {
	for i := 0; i < len(sql); i++ {
		switch c := sql[i]; {
		case c == '\'' || c == '"':
			i = endOfQuoted(sql, i, c == '\'' && i > 0 && sql[i-1] == 'E')
		case strings.HasPrefix(sql[i:], old):
			return sql[:i] + replacement + sql[i+len(old):]
		}
	}
	return sql
}

// endOfQuoted is where the quote that opens at start is closed. A doubled quote closes and opens again, which comes to
// the same.
func endOfQuoted(sql string, start int, backslashes bool) int {
	for i := start + 1; i < len(sql); i++ {
		switch {
		case sql[i] == '\\' && backslashes:
			i++
		case sql[i] == sql[start]:
			return i
		}
	}
	return len(sql)
}
