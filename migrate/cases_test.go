package migrate_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/precheck"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// TestCases takes every case of testdata through the whole life of a migration: check, copy, kill, abort, again, stream,
// kill, resume, completion, and a comparison by our own means and by others.
func TestCases(t *testing.T) {
	free := newLanes(t, 2)
	for _, c := range readCases(t) {
		for _, plugin := range c.options.plugins {
			name := c.name
			if plugin != "" {
				name += "/" + plugin
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				lane := <-free
				defer func() { free <- lane }()
				newLife(t, lane, c, stream.Plugin(plugin)).run()
			})
		}
	}
}

// lane holds servers for one case at a time. Cases that run side by side have servers of their own, because abort and
// complete speak to every migration on a target server.
type lane struct {
	parent  *testing.T
	servers map[string]*pgtest.Server
}

func newLanes(t *testing.T, n int) chan *lane {
	lanes := make(chan *lane, n)
	for range n {
		lanes <- &lane{parent: t, servers: map[string]*pgtest.Server{}}
	}
	return lanes
}

// database makes an empty database on the lane's server of that role and major.
func (l *lane) database(t *testing.T, role string, major int, options pgtest.DatabaseOptions) *pgtest.Database {
	t.Helper()
	key := fmt.Sprint(role, major)
	if l.servers[key] == nil {
		l.servers[key] = pgtest.Start(l.parent, pgtest.Options{Major: major, Settings: map[string]string{"log_min_messages": "fatal"}})
	}
	d := l.servers[key].NewDatabase(t, options)
	t.Cleanup(func() {
		if !t.Failed() && major >= 13 { // else it goes with its server
			d.Server.Maintenance().Exec(t, "DROP DATABASE "+postgres.QuoteIdent(d.Name)+" WITH (FORCE)")
		}
	})
	return d
}

// life is one migration from its check to its end.
type life struct {
	t       *testing.T
	c       *caseFile
	pair    *pgtest.Pair
	config  engineConfig
	players *players
}

func newLife(t *testing.T, lane *lane, c *caseFile, plugin stream.Plugin) *life {
	t.Helper()
	o := c.options
	source, target := pgtest.DefaultMajors(t)
	if len(o.majors) == 2 {
		source, target = o.majors[0], o.majors[1]
	}
	pair := &pgtest.Pair{
		Source: lane.database(t, "source", source, pgtest.DatabaseOptions{Encoding: o.encoding[0], Locale: o.locale[0]}),
		Target: lane.database(t, "target", target, pgtest.DatabaseOptions{Encoding: o.encoding[1], Locale: o.locale[1]}),
	}
	newPlayers(t, pair.Source).play(c.sections["source.sql"])
	newPlayers(t, pair.Target).play(c.sections["target.sql"])
	name := postgres.QuoteIdent(pair.Source.Name)
	set(t, pair.Source, "DATABASE "+name, o.sourceSet)
	set(t, pair.Source, "ROLE postgres IN DATABASE "+name, o.sourceRoleSet)
	set(t, pair.Target, "DATABASE "+postgres.QuoteIdent(pair.Target.Name), o.targetSet)
	kind := migrate.FullIncremental
	if o.kind != "" {
		kind = migrate.Type(o.kind)
	}
	return &life{t: t, c: c, pair: pair, players: newPlayers(t, pair.Source), config: engineConfig{
		Source: pair.Source.URI(), Target: pair.Target.URI(), Type: kind, Include: o.include, Exclude: o.exclude,
		Plugin: plugin, SplitBytes: o.splitBytes, RetryFor: 30 * time.Second,
	}}
}

func (l *life) run() {
	l.t.Helper()
	verdict, text := l.c.want()
	refused := l.check()
	if verdict == "refused" {
		l.refused(refused, text)
		return
	}
	if len(refused) > 0 {
		l.t.Fatalf("the check refuses it: %s", strings.Join(refused, "\n"))
	}
	l.giveUp()
	switch {
	case verdict == "stopped", verdict == "stopped at completion":
		l.stopped(verdict, text)
		if l.c.sections["target-fix.sql"] == "" {
			return
		}
	case verdict != "equal":
		l.t.Fatalf("unknown verdict %q", verdict)
	case l.config.Type != migrate.FullIncremental:
		mustFinish(l.t, l.config)
	default:
		l.follow()
	}
	l.judge()
}

// check does the pre-check and returns what its failed items say. What the case says must be reported, must be.
func (l *life) check() []string {
	l.t.Helper()
	config, err := l.config.config()
	if err != nil {
		l.t.Fatal(err)
	}
	report, err := migrate.Check(context.Background(), config)
	if err != nil {
		l.t.Fatal(err)
	}
	var failed, said []string
	for _, item := range report.Items {
		text := fmt.Sprintf("%s: %s [%s] %s", item.ID, item.Reason, strings.Join(item.Objects, ", "), strings.Join(item.Fix, "; "))
		if item.Result == precheck.Failed {
			failed = append(failed, text)
		}
		if item.Result != precheck.Passed {
			said = append(said, text)
		}
	}
	for line := range strings.Lines(l.c.sections["check"]) {
		line = strings.TrimSpace(line)
		if !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, line) }) {
			l.t.Errorf("no check item reports %q:\n%s", line, strings.Join(said, "\n"))
		}
	}
	return failed
}

// refused: a check item says why, and nothing was touched.
func (l *life) refused(reasons []string, text string) {
	l.t.Helper()
	if !slices.ContainsFunc(reasons, func(s string) bool { return strings.Contains(s, text) }) {
		l.t.Errorf("refused for another reason than %q: %q", text, reasons)
	}
	nothingLeft(l.t, l.pair)
}

// giveUp kills a first migration in its copy and aborts it: both sides are as they were.
func (l *life) giveUp() {
	l.t.Helper()
	before := dumpStructure(l.t, l.pair.Target, l.pair.Target.Server.Major())
	killed := l.config
	killed.KillAt, killed.KillAfter = state.Copy, time.Duration(l.c.options.killAfterMilliseconds)*time.Millisecond
	if killed.Type == migrate.StructureOnly {
		killed.KillAt = state.Constraints
	}
	if e := startEngine(l.t, killed); e.wait(l.t) != -1 {
		l.t.Fatalf("the engine was to be killed in the copy and ended:\n%s", strings.Join(e.output(), "\n"))
	}
	l.abort(before)
}

func (l *life) abort(before []string) {
	l.t.Helper()
	config, err := l.config.config()
	if err != nil {
		l.t.Fatal(err)
	}
	reports, err := migrate.Abort(context.Background(), config, migrate.AbortOptions{DropCopied: true})
	if err != nil {
		l.t.Fatalf("abort: %v", err)
	}
	nothingLeft(l.t, l.pair)
	if leaves := l.c.options.abortLeaves; leaves != "" {
		if !strings.Contains(fmt.Sprint(reports), leaves) {
			l.t.Errorf("the abort does not say that it leaves %q: %v", leaves, reports)
		}
		return
	}
	if diff := cmp.Diff(before, dumpStructure(l.t, l.pair.Target, l.pair.Target.Server.Major())); diff != "" {
		l.t.Errorf("the abort left on the target (-before +after): %v\n%.4000s", reports, diff)
	}
}

// follow runs the migration into the stream, kills it there, resumes and completes it.
func (l *life) follow() {
	l.t.Helper()
	parts := l.c.parts()
	first := startEngine(l.t, l.config)
	first.await(l.t, "in sync")
	if len(parts) > 0 {
		l.players.play(parts[0])
	}
	first.kill()
	l.resume(parts[min(1, len(parts)):])
}

// resume takes a migration up again, lets the rest happen on the source, and completes.
func (l *life) resume(parts []string) {
	l.t.Helper()
	second := startEngine(l.t, l.config)
	second.await(l.t, "phase follow")
	for _, part := range parts {
		l.players.play(part)
	}
	config, err := l.config.config()
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := migrate.Complete(ctx, config.Target, nil); err != nil {
		l.t.Fatalf("complete: %v\n%s", err, strings.Join(second.output(), "\n"))
	}
	if code := second.wait(l.t); code != 0 {
		l.t.Fatalf("the engine ended with %d:\n%s", code, strings.Join(second.output(), "\n"))
	}
}

// stopped runs a migration that must stop with the text, twice: nothing is skipped by running again.
func (l *life) stopped(verdict, text string) {
	l.t.Helper()
	before := dumpStructure(l.t, l.pair.Target, l.pair.Target.Server.Major())
	parts := l.c.parts()
	e := startEngine(l.t, l.config)
	if len(parts) > 0 {
		e.await(l.t, "in sync")
		l.players.play(parts[0])
		parts = parts[1:]
	}
	completing := l.config
	if completing.Complete = verdict == "stopped at completion"; completing.Complete {
		e.kill()
		e = startEngine(l.t, completing)
	}
	l.mustStop(e, text)
	l.mustStop(startEngine(l.t, completing), text)
	if fix := l.c.sections["target-fix.sql"]; fix != "" {
		newPlayers(l.t, l.pair.Target).play(fix)
		l.resume(parts)
		return
	}
	l.abort(before)
}

func (l *life) mustStop(e *engine, text string) {
	l.t.Helper()
	code, out := e.wait(l.t), strings.Join(e.output(), "\n")
	if code != 1 || !strings.Contains(out, text) {
		l.t.Fatalf("the migration was to stop with %q and ended with %d:\n%s", text, code, out)
	}
}

// judge compares both sides with our comparison, with pg_dump and row by row, and looks for left-overs.
func (l *life) judge() {
	l.t.Helper()
	newPlayers(l.t, l.pair.Target).play(l.c.sections["target-last.sql"])
	selected := len(l.c.options.include)+len(l.c.options.exclude) > 0
	if !l.c.options.skipDump && !selected {
		sameStructure(l.t, l.pair)
	}
	if !l.c.options.skipRows && l.config.Type != migrate.StructureOnly {
		sameContent(l.t, l.pair, selected)
	}
	if l.config.Type != migrate.StructureOnly {
		compareAll(l.t, l.config)
	}
	nothingLeft(l.t, l.pair)
	if queries := l.c.sections["after.sql"]; queries != "" {
		answers(l.t, l.pair.Target, queries, l.c.sections["after.want"])
	}
}
