package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// reader asks a database what it holds. It shares no code with package verify: what both find equal is equal.
type reader struct {
	t    *testing.T
	name string
	conn *pgconn.PgConn
}

// newReader opens a session that prints values as any server does; digits is extra_float_digits.
func newReader(t *testing.T, d *pgtest.Database, digits string) *reader {
	t.Helper()
	r := &reader{t: t, name: d.Name, conn: d.Connect(t).PgConn()}
	r.rows(`SET search_path = pg_catalog`)
	r.rows(`SELECT set_config(name, value, false) FROM (VALUES
		('datestyle', 'ISO, YMD'), ('intervalstyle', 'postgres'), ('timezone', 'UTC'), ('extra_float_digits', '` + digits + `'),
		('bytea_output', 'hex'), ('lc_monetary', 'C'), ('standard_conforming_strings', 'on'), ('row_security', 'off'),
		('statement_timeout', '0'), ('xmlbinary', 'base64'), ('quote_all_identifiers', 'off'),
		('default_transaction_isolation', 'read committed')) AS v (name, value)`)
	// Bytes without an encoding cannot be converted: they are compared as they are.
	r.rows(`SELECT set_config('client_encoding', CASE WHEN pg_encoding_to_char(encoding) = 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END, false)
		FROM pg_database WHERE datname = current_database()`)
	return r
}

// rows answers a query with a string per row: its columns as the server prints them, joined by "|", NULL as \N.
func (r *reader) rows(sql string) []string {
	r.t.Helper()
	results, err := r.conn.Exec(context.Background(), sql).ReadAll()
	if err != nil {
		r.t.Fatalf("database %q: %v %s\n%s", r.name, err, postgres.Detail(err), sql)
	}
	lines := []string{}
	for _, result := range results {
		for _, row := range result.Rows {
			values := make([]string, len(row))
			for i, value := range row {
				if values[i] = string(value); value == nil {
					values[i] = `\N`
				}
			}
			lines = append(lines, strings.Join(values, "|"))
		}
	}
	return lines
}

// noneOfOurs leaves out what is the system's, an extension's, temporary or ours.
const noneOfOurs = ` n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'slipway') AND n.nspname NOT LIKE 'pg\_temp%'
	AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')`

// content is every row of every table, by table, and every sequence's state.
func (r *reader) content() map[string][]string {
	r.t.Helper()
	content := map[string][]string{}
	relations := r.rows(`SELECT c.relkind, quote_ident(n.nspname) || '.' || quote_ident(c.relname)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm', 'S') AND` + noneOfOurs)
	for _, line := range relations {
		kind, name, _ := strings.Cut(line, "|")
		switch {
		case kind == "S":
			content["sequence "+name] = r.rows("SELECT last_value, is_called FROM " + name)
		case kind == "m": // the target's is as of the end, the source's as of its last refresh
			content["view "+name] = r.rows("SELECT relispopulated FROM pg_class WHERE oid = " + postgres.QuoteLiteral(name) + "::regclass")
		default:
			rows := r.rows("SELECT (t.*)::text FROM ONLY " + name + " AS t")
			slices.Sort(rows)
			content["table "+name] = rows
		}
	}
	for _, line := range r.rows(`SELECT oid, md5(lo_get(oid)) FROM pg_largeobject_metadata`) {
		content["large object "+line] = nil
	}
	return content
}

// sameContent compares both sides row by row. With only set, what the target lacks is not missed.
func sameContent(t *testing.T, pair *pgtest.Pair, subset bool) {
	t.Helper()
	digits := "3"
	if (pair.Source.Server.Major() < 12) != (pair.Target.Server.Major() < 12) {
		digits = "0" // beyond that, 12 prints the shortest text that is exact, and earlier ones all digits
	}
	source, target := newReader(t, pair.Source, digits).content(), newReader(t, pair.Target, digits).content()
	if subset {
		for name := range source {
			if _, there := target[name]; !there {
				delete(source, name)
			}
		}
	}
	if diff := cmp.Diff(source, target); diff != "" {
		t.Errorf("source and target differ (-source +target):\n%.6000s", diff)
	}
}

// dumpStructure is what pg_dump says about the structure of a database, without what tells of versions and times.
func dumpStructure(t *testing.T, d *pgtest.Database, major int) []string {
	t.Helper()
	tool, err := postgres.ClientTool(context.Background(), pgtest.Roots(), "pg_dump", major)
	if err != nil {
		t.Fatal(err)
	}
	encoding := "UTF8"
	if slices.Contains(d.Strings(t, "SHOW server_encoding"), "SQL_ASCII") {
		encoding = "SQL_ASCII" // there is nothing to convert from
	}
	cmd := exec.Command(tool.Path, "--schema-only", "--encoding="+encoding)
	cmd.Env = append(d.Endpoint().ChildEnv(), // of two values of a variable, the last one counts
		"PGOPTIONS=-c quote_all_identifiers=off -c standard_conforming_strings=on -c escape_string_warning=off -c default_transaction_read_only=off -c timezone=UTC")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		errors.As(err, &exit)
		t.Fatalf("pg_dump of %q: %v %s", d.Name, err, exit.Stderr)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "-- Dumped") || strings.HasPrefix(line, `\restrict`) || strings.HasPrefix(line, `\unrestrict`) ||
			strings.HasPrefix(line, "SET client_encoding") {
			continue
		}
		lines = append(lines, line)
	}
	return lines
}

// sameStructure compares what the reference tool says about both sides.
func sameStructure(t *testing.T, pair *pgtest.Pair) {
	t.Helper()
	major := max(pair.Source.Server.Major(), pair.Target.Server.Major())
	if diff := cmp.Diff(dumpStructure(t, pair.Source, major), dumpStructure(t, pair.Target, major)); diff != "" {
		t.Errorf("the structures differ (-source +target):\n%.6000s", diff)
	}
}

// answers compares what queries find on the target with what they must find.
func answers(t *testing.T, d *pgtest.Database, queries, want string) {
	t.Helper()
	r := newReader(t, d, "3")
	var got []string
	for _, s := range steps(queries) {
		got = append(got, r.rows(s.sql)...)
	}
	if diff := cmp.Diff(strings.Split(strings.TrimSpace(want), "\n"), got); diff != "" {
		t.Errorf("the target answers otherwise (-want +got):\n%s", diff)
	}
}

// players are the sessions of a script on one database. They stay open from one part to the next.
type players struct {
	t        *testing.T
	database *pgtest.Database
	sessions map[string]*pgconn.PgConn
}

func newPlayers(t *testing.T, d *pgtest.Database) *players {
	return &players{t: t, database: d, sessions: map[string]*pgconn.PgConn{}}
}

func (p *players) play(script string) {
	p.t.Helper()
	for _, s := range steps(script) {
		if p.sessions[s.session] == nil {
			p.sessions[s.session] = p.database.Connect(p.t).PgConn()
		}
		if _, err := p.sessions[s.session].Exec(context.Background(), s.sql).ReadAll(); err != nil {
			p.t.Fatalf("database %q: %v %s\n%.2000s", p.database.Name, err, postgres.Detail(err), s.sql)
		}
	}
}

// set changes settings of a database, or of our role in it.
func set(t *testing.T, d *pgtest.Database, who string, settings []string) {
	t.Helper()
	for _, setting := range settings {
		d.Server.Maintenance().Exec(t, fmt.Sprintf("ALTER %s SET %s", who, setting))
	}
}
