package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/slipway-db/slipway/postgres"
)

// bench is one run.
type bench struct {
	options
	servers  *servers
	slipway  string // the program under test
	pgcopydb string // "" where it is not installed
}

func newBench(o options) *bench { return &bench{options: o} }

// sample is what one run of one tool took.
type sample struct {
	wall                   time.Duration // what is compared
	fromStart              time.Duration // of a drain: also what the consumer does before its slot is in use; else 0
	client, source, target time.Duration // processor time of the process trees
	memory                 int64         // bytes, of the largest process of the client; 0 where there is none
}

// tool is one way to do what is measured.
type tool struct {
	name string
	run  func(ctx context.Context) (sample, error)
	// optional tools are left out with a line when they fail; the failure of another ends the benchmark.
	optional bool
}

// result is a measurement that was made.
type result struct {
	title   string
	amount  int // transactions of a drain; else 0
	tools   []tool
	samples []map[string]sample // by round, by name of the tool
	left    map[string]string   // why a tool was left out, by its name
}

func (b *bench) run(ctx context.Context) (err error) {
	if err := b.findPrograms(); err != nil {
		return err
	}
	load := loadAverage() // before we make it
	b.say("starting two servers")
	b.servers, err = startServers(ctx, b.dir)
	defer func() { err = errors.Join(err, b.servers.stop()) }()
	if err != nil {
		return err
	}
	heading, err := b.heading(ctx, load)
	if err != nil {
		return err
	}
	report := newReport(os.Stdout, b.markdown)
	report.heading(heading)
	for _, m := range []struct {
		name    string
		measure func(context.Context) (*result, error)
	}{
		{"pgbench", b.fullPgbench},
		{"typed", b.fullTyped},
		{"tables", b.fullTables},
		{"tpcb", func(ctx context.Context) (*result, error) { return b.drain(ctx, "tpcb-like") }},
		{"simple", func(ctx context.Context) (*result, error) { return b.drain(ctx, "simple-update") }},
	} {
		if !b.wants(m.name) {
			continue
		}
		r, err := m.measure(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		report.result(r)
	}
	report.requirements()
	return report.err
}

func (b *bench) findPrograms() error {
	var err error
	if b.slipway, err = filepath.Abs("bin/slipway"); err != nil {
		return err
	}
	if _, err := os.Stat(b.slipway); err != nil {
		return fmt.Errorf("%w; run make build in the root of the repository, and this program too", err)
	}
	b.pgcopydb, err = exec.LookPath("pgcopydb")
	if errors.Is(err, exec.ErrNotFound) {
		return nil
	}
	return err
}

// say tells what happens, apart from the result.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// program is one of the servers' own client programs.
func (b *bench) program(name string) string { return filepath.Join(b.servers.installation.Dir, name) }

// round runs every tool once. Each round begins with another tool: the speed of a machine drifts, and the first one
// pays for what is cold.
func (b *bench) round(ctx context.Context, r *result) error {
	n := len(r.samples)
	samples := map[string]sample{}
	for i := range r.tools {
		t := r.tools[(i+n)%len(r.tools)]
		if r.left[t.name] != "" {
			continue
		}
		s, err := t.run(ctx)
		if err != nil && (!t.optional || ctx.Err() != nil) {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		if err != nil {
			r.left[t.name] = err.Error()
			b.say("%s is left out: %v", t.name, err)
			continue
		}
		samples[t.name] = s
		b.say("%s, round %d, %s: %.2f s", r.title, n+1, t.name, s.wall.Seconds())
	}
	r.samples = append(r.samples, samples)
	return nil
}

// timed measures work between two looks at the servers' processor time.
func (b *bench) timed(ctx context.Context, work func() error) (sample, error) {
	if err := b.servers.checkpoint(ctx); err != nil {
		return sample{}, err
	}
	sourceBefore, targetBefore, err := b.serversCPU()
	if err != nil {
		return sample{}, err
	}
	begun := time.Now()
	if err := work(); err != nil {
		return sample{}, err
	}
	s := sample{wall: time.Since(begun)}
	source, target, err := b.serversCPU()
	s.source, s.target = source-sourceBefore, target-targetBefore
	return s, err
}

func (b *bench) serversCPU() (source, target time.Duration, err error) {
	if source, err = treeCPU(b.servers.source.Pid()); err != nil {
		return 0, 0, err
	}
	target, err = treeCPU(b.servers.target.Pid())
	return source, target, err
}

// contents is what must be equal on both sides after a copy.
type contents struct {
	Tables, Rows, Indexes int64
	Digest                string // of all names with their row counts and, where asked for, of every row
}

// read counts what is in the tables of schema public.
func (b *bench) read(ctx context.Context, server *postgres.Server, database string, rows bool) (contents, error) {
	var c contents
	conn, err := b.servers.connect(ctx, server, database)
	if err != nil {
		return c, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	const indexes = `SELECT count(*) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
		WHERE c.relnamespace = 'public'::regnamespace AND i.indisvalid AND i.indisready`
	if err := conn.QueryRow(ctx, indexes).Scan(&c.Indexes); err != nil {
		return c, err
	}
	digest := "0"
	if rows {
		digest = "coalesce(sum(hashtextextended(t::text, 0)), 0)"
	}
	return c, conn.QueryRow(ctx, countTables, digest).Scan(&c.Tables, &c.Rows, &c.Digest)
}

// countTables asks every table through an XML query, which is the way to run built statements without a function.
const countTables = `
WITH asked AS (
	SELECT relname, query_to_xml(format('SELECT count(*) AS n, %s AS d FROM public.%I t', $1::text, relname), false, true, '') AS answer
	FROM pg_catalog.pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
), counted AS (
	SELECT relname, (xpath('/row/n/text()', answer))[1]::text::bigint AS n, (xpath('/row/d/text()', answer))[1]::text AS d FROM asked
)
SELECT count(*), coalesce(sum(n), 0)::bigint, md5(coalesce(string_agg(relname || ' ' || n || ' ' || d, ',' ORDER BY relname), '')) FROM counted`

// same checks that the target's database has what the source's has.
func (b *bench) same(ctx context.Context, source, target string, rows bool) error {
	want, err := b.read(ctx, b.servers.source, source, rows)
	if err != nil {
		return err
	}
	got, err := b.read(ctx, b.servers.target, target, rows)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("the target differs from the source: %+v instead of %+v", got, want)
	}
	return nil
}
