package schema

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// Statement is one statement for the server as a whole (roles, databases), which no archive of pg_dump holds. All are
// safe to run again.
type Statement struct {
	// Object is what it makes or changes: `role "app"`.
	Object string
	SQL    string
	// Sensitive tells that SQL holds a password verifier: it must never be printed or logged. Shown is for people.
	Sensitive bool
	// DoneCode is the SQLSTATE that says that an earlier run has done it; empty when running it again is no error.
	DoneCode string
}

// Shown is the SQL, or what stands for it when it is secret.
func (s Statement) Shown() string {
	if s.Sensitive {
		return "(statement for " + s.Object + " not shown: it holds a password verifier)"
	}
	return s.SQL
}

// String keeps secrets out of %v.
func (s Statement) String() string { return s.Shown() }

// GoString keeps secrets out of %#v.
func (s Statement) GoString() string { return s.Shown() }

// LogValue keeps secrets out of structured logs.
func (s Statement) LogValue() slog.Value { return slog.StringValue(s.Shown()) }

// MarshalText keeps secrets out of JSON.
func (s Statement) MarshalText() ([]byte, error) { return []byte(s.Shown()), nil }

// Script is a list of statements in the order in which they must run, and what could not be said in statements.
type Script struct {
	Statements []Statement
	// Notes tell what differs on the target although every statement succeeds, one sentence each.
	Notes []string
}

func (s *Script) add(object, format string, args ...any) {
	s.Statements = append(s.Statements, Statement{Object: object, SQL: fmt.Sprintf(format, args...)})
}

func (s *Script) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// StatementFailure is a statement that the server refused.
type StatementFailure struct {
	Statement Statement
	Err       error
}

// Execute runs each statement in a transaction of its own and goes on after one that the server refuses. The error is
// for what is no fault of a statement: a lost connection, a full disk; the whole list may then be run again.
func Execute(ctx context.Context, conn *pgx.Conn, statements []Statement) ([]StatementFailure, error) {
	var failures []StatementFailure
	for _, s := range statements {
		_, err := conn.PgConn().Exec(ctx, s.SQL).ReadAll()
		code := postgres.Code(err)
		switch {
		case err == nil, s.DoneCode != "" && code == s.DoneCode:
		case code == "" || postgres.Retryable(err):
			return failures, fmt.Errorf("create %s: %w", s.Object, err)
		default:
			failures = append(failures, StatementFailure{Statement: s, Err: err})
		}
	}
	return failures, nil
}

// Setting is a configuration parameter kept for a role, a database, or a role in a database.
type Setting struct {
	// Database is empty for every database.
	Database    string
	Name, Value string
}

// quotedLists are the parameters whose value is a list of names that the server keeps quoted already. As one string it
// would become one name.
var quotedLists = map[string]bool{
	"local_preload_libraries": true, "search_path": true, "session_preload_libraries": true,
	"shared_preload_libraries": true, "temp_tablespaces": true, "unix_socket_directories": true,
}

// setClause is "SET name TO value" for ALTER ROLE and ALTER DATABASE.
func (s Setting) setClause() string {
	value := postgres.QuoteLiteral(s.Value)
	if quotedLists[strings.ToLower(s.Name)] {
		names := splitNames(s.Value)
		for i := range names {
			names[i] = postgres.QuoteLiteral(names[i])
		}
		if len(names) > 0 {
			value = strings.Join(names, ", ")
		}
	}
	return "SET " + postgres.QuoteIdent(s.Name) + " TO " + value
}

// parseSetting reads an entry of setconfig, "name=value".
func parseSetting(database, entry string) Setting {
	name, value, _ := strings.Cut(entry, "=")
	return Setting{Database: database, Name: name, Value: value}
}

// splitNames reads a list of names as the server writes it: separated by commas, those with special characters in
// double quotes.
func splitNames(list string) []string {
	var names []string
	for rest := strings.TrimSpace(list); rest != ""; {
		var name string
		if rest[0] == '"' {
			name, rest = cutQuoted(rest[1:])
		} else {
			end := strings.IndexByte(rest, ',')
			if end < 0 {
				end = len(rest)
			}
			name, rest = strings.TrimSpace(rest[:end]), rest[end:]
		}
		names = append(names, name)
		rest = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(rest), ","))
	}
	return names
}

func cutQuoted(s string) (name, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '"' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '"' {
			b.WriteByte('"')
			i++
			continue
		}
		return b.String(), s[i+1:]
	}
	return b.String(), ""
}
