package script_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// TestBadInput_Refused gives `run` what it must refuse, each with what the message has to name. Nothing may have been
// made on either side.
func TestBadInput_Refused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	uri := func(d *pgtest.Database, change func(*url.URL)) string {
		u, err := url.Parse(d.URI())
		if err != nil {
			t.Fatal(err)
		}
		change(u)
		return u.String()
	}
	unreachable := uri(s.source, func(u *url.URL) { u.Host = "127.0.0.1:1" })
	nameless := uri(s.source, func(u *url.URL) { u.Host = "host.invalid:5432" })
	tls := uri(s.source, func(u *url.URL) { u.RawQuery = "sslmode=require" })
	noRole := uri(s.source, func(u *url.URL) { u.User = url.User("nobody_of_this_name") })
	noDatabase := uri(s.source, func(u *url.URL) { u.Path = "/no_such_database" })
	for name, c := range map[string]struct {
		source, target string
		more           []string
		says           []string
	}{
		"unreachable source": {source: unreachable, says: []string{"failed   source-connection", "unreachable: ", "127.0.0.1:1"}},
		"unreachable target": {target: unreachable, says: []string{"failed   target-connection", "unreachable: ", "127.0.0.1:1"}},
		"unknown host":       {source: nameless, says: []string{"failed   source-connection", "unreachable: ", "host.invalid"}},
		"TLS refused":        {source: tls, says: []string{"failed   source-connection", "TLS: ", "fix on the source: ALTER SYSTEM SET ssl = on"}},
		"unknown role":       {source: noRole, says: []string{"login refused: ", "nobody_of_this_name", "CREATE ROLE"}},
		"unknown database":   {source: noDatabase, says: []string{"failed   source-database", "database no_such_database does not exist on the source"}},
		"same database":      {target: s.source.URI(), says: []string{"source and target are the same database of the same server"}},
		"pattern without match": {
			more: []string{"--include", "shop.*", "--exclude", "shop.custmer"}, says: []string{"--exclude shop.custmer matches nothing"},
		},
		"empty selection": {
			more: []string{"--include", "shop.*", "--exclude", "shop.*"}, says: []string{"the selection is empty"},
		},
		"dependency left out": {
			more: []string{"--include", "shop.purchase"}, says: []string{"failed   ", "shop.purchase", "shop.customer", "--include 'shop.customer'"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			arguments := s.command("run", append([]string{"--yes"}, c.more...)...)
			if c.source != "" {
				arguments = replaced(arguments, s.source.URI(), c.source)
			}
			if c.target != "" {
				arguments = replaced(arguments, s.target.URI(), c.target)
			}
			o := s.run(t, arguments...).want(t, checkFailed, append(c.says, "slipway: a check failed: ")...)
			if o.stdout != "" {
				t.Errorf("nothing was done, so nothing belongs to standard output: %v", o)
			}
		})
	}
	t.Cleanup(func() { s.unchanged(t) })
}

// TestBadInput_ConnectionOfOtherCommands is about commands that do no check before they connect.
func TestBadInput_ConnectionOfOtherCommands(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	const away = "postgres://me:s3cret-word@127.0.0.1:1/app?sslmode=disable"
	for _, command := range []string{"status", "complete", "abort", "compare"} {
		o := s.run(t, replaced(s.command(command), s.target.URI(), away)...)
		o.want(t, failed, "slipway: connect to me@127.0.0.1:1/app: ").without(t, "s3cret-word")
	}
	for _, command := range []string{"status", "complete", "abort"} {
		s.migrate(t, command).want(t, failed, "no migration in this database")
	}
	s.unchanged(t)
}

// TestBadInput_TargetNotEmpty names every table that is in the way.
func TestBadInput_TargetNotEmpty(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.target.Exec(t, `CREATE SCHEMA shop; CREATE TABLE shop.note (other text); CREATE VIEW shop.total AS SELECT 1 AS one`)
	s.before = s.contents(t)
	s.migrate(t, "run", "--yes").want(t, checkFailed, "shop.note", "shop.total")
	s.migrate(t, "check").want(t, checkFailed, "shop.note", "shop.total")
	s.unchanged(t)
}

// TestBadInput_Password is refused by a server that asks for one; neither the right nor the wrong one is shown.
func TestBadInput_Password(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Auth: "scram-sha-256"})
	target := pgtest.NewPair(t).Target
	s := sceneOf(t, server.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"}), target)
	wrong, err := url.Parse(s.source.URI())
	if err != nil {
		t.Fatal(err)
	}
	wrong.User = url.UserPassword("postgres", "wr0ng-word")
	arguments := replaced(s.command("run", "--yes"), s.source.URI(), wrong.String())
	s.run(t, arguments...).want(t, checkFailed, "login refused: ", "password authentication failed").without(t, "wr0ng-word", pgtest.Password)
	wrong.User = url.User("postgres")
	arguments = replaced(s.command("run", "--yes"), s.source.URI(), wrong.String())
	s.run(t, arguments...).want(t, checkFailed, "login refused: ")
	s.migrate(t, "check").want(t, done).without(t, pgtest.Password)
	s.unchanged(t)
}

// TestBadInput_NoPermission runs with a role that may log in and no more; the GRANTs that are printed, and nothing
// else, make the check pass.
func TestBadInput_NoPermission(t *testing.T) {
	t.Parallel()
	source := pgtest.Start(t, pgtest.Options{}).NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	target := pgtest.Start(t, pgtest.Options{}).NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	s := sceneOf(t, source, target)
	source.Exec(t, `CREATE ROLE "mover's" LOGIN; REVOKE ALL ON DATABASE app FROM PUBLIC`)
	target.Exec(t, `CREATE ROLE "mover's" LOGIN; REVOKE ALL ON DATABASE app FROM PUBLIC`)
	asMover := func(d *pgtest.Database) string { return strings.Replace(d.URI(), "postgres@", "mover%27s@", 1) }
	arguments := replaced(replaced(s.command("check", "--no-owner", "--no-privileges"), source.URI(), asMover(source)), target.URI(), asMover(target))
	var o outcome
	for round := range 6 { // what is missing behind a missing right is only seen then
		if o = s.run(t, arguments...); o.code == done {
			break
		}
		o.want(t, checkFailed, "fix on the ")
		if round == 0 {
			o.want(t, checkFailed, `GRANT CONNECT ON DATABASE "app" TO "mover's"`)
		}
		if !applyFixes(t, o, source, target) {
			break
		}
	}
	o.want(t, done)
	s.run(t, replaced(replaced(s.command("run", "--yes", "--no-owner", "--no-privileges", "--complete-when-synced"), source.URI(), asMover(source)),
		target.URI(), asMover(target))...).want(t, done, "app: done in ")
	s.migrate(t, "compare", "--no-owner", "--no-privileges").want(t, done, "app: same")
}

// applyFixes does as superuser what the check prints, and tells whether there was anything.
func applyFixes(t *testing.T, o outcome, source, target *pgtest.Database) bool {
	t.Helper()
	applied := false
	for _, line := range strings.Split(o.stdout, "\n") {
		side, sql, found := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "fix on the "), ": ")
		if !found || !strings.HasPrefix(sql, "GRANT ") && !strings.HasPrefix(sql, "ALTER ") {
			continue
		}
		applied = true
		switch side {
		case "source":
			source.Exec(t, sql)
		case "target":
			target.Exec(t, sql)
		default:
			t.Errorf("a fix for neither side: %q", line)
		}
	}
	return applied
}

// TestBadInput_OlderClientTools has a source for which no pg_dump on the machine is new enough.
func TestBadInput_OlderClientTools(t *testing.T) {
	t.Parallel()
	source := pgtest.Start(t, pgtest.Options{Major: 17}).NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	s := sceneOf(t, source, pgtest.NewPair(t).Target)
	tools := t.TempDir()
	older := filepath.Join(tools, "pg_dump")
	if err := os.WriteFile(older, []byte("#!/bin/sh\necho 'pg_dump (PostgreSQL) 14.3'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.env = append(s.env, "SLIPWAY_POSTGRES_DIR="+t.TempDir(), "PATH="+tools)
	s.migrate(t, "run", "--yes", "--type", "full").want(t, checkFailed, "pg_dump of PostgreSQL 17 or newer not found", older+" is version 14.3",
		"install the package postgresql-client-17", "apt-get install postgresql-client-17")
	s.unchanged(t)
}

// TestBadInput_ServerSettings puts every timeout and a read-only default on both servers, where they would end or
// refuse the work of any session that does not override them.
func TestBadInput_ServerSettings(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for _, d := range []*pgtest.Database{s.source, s.target} {
		role := fmt.Sprintf("hurried_%d", d.Server.Port())
		d.Server.Maintenance().Exec(t, "CREATE ROLE "+role+" SUPERUSER LOGIN")
		t.Cleanup(func() { d.Server.Maintenance().Exec(t, "DROP ROLE "+role) })
		for setting, value := range map[string]string{
			"statement_timeout": "1ms", "lock_timeout": "1ms", "idle_in_transaction_session_timeout": "1ms", "idle_session_timeout": "500ms",
			"default_transaction_read_only": "on", "default_transaction_isolation": "serializable", "default_transaction_deferrable": "on",
			"search_path": "shop", "row_security": "on", "client_encoding": "LATIN1", "datestyle": "German", "standard_conforming_strings": "off",
		} {
			set := " SET " + setting + " = " + postgres.QuoteLiteral(value)
			d.Server.Maintenance().Exec(t, "ALTER DATABASE "+postgres.QuoteIdent(d.Name)+set, "ALTER ROLE "+role+set)
		}
	}
	user := func(d *pgtest.Database) string {
		return strings.Replace(d.URI(), "postgres@", fmt.Sprintf("hurried_%d@", d.Server.Port()), 1)
	}
	as := func(name string, more ...string) []string {
		return replaced(replaced(s.command(name, more...), s.source.URI(), user(s.source)), s.target.URI(), user(s.target))
	}
	s.run(t, as("run", "--yes", "--complete-when-synced", "--no-owner")...).want(t, done, ": done in ").without(t, "trying again")
	s.run(t, as("compare", "--no-owner")...).want(t, done, ": same")
	for _, d := range []*pgtest.Database{s.source, s.target} { // or the test's own sessions could not clean up
		d.Server.Maintenance().Exec(t, "ALTER DATABASE "+postgres.QuoteIdent(d.Name)+" RESET ALL")
	}
	s.target.Exec(t, fmt.Sprintf(`REASSIGN OWNED BY hurried_%d TO postgres; DROP OWNED BY hurried_%d`, s.target.Server.Port(), s.target.Server.Port()))
	s.clean(t)
}
