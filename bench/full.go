package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/jackc/pgx/v5"
)

//go:embed typed.sql
var typedSQL string

// The tools of a full migration.
const (
	ours      = "slipway"
	dumpTools = "pg_dump + pg_restore"
	copyDB    = "pgcopydb clone"
)

func (b *bench) fullPgbench(ctx context.Context) (*result, error) {
	const database = "full_pgbench"
	b.say("data set: pgbench, scale %d", b.scale)
	if err := b.fillPgbench(ctx, database, b.scale); err != nil {
		return nil, err
	}
	return b.full(ctx, database, fmt.Sprintf("pgbench, scale %d", b.scale))
}

func (b *bench) fillPgbench(ctx context.Context, database string, scale int) error {
	if err := b.servers.recreate(ctx, b.servers.source, database); err != nil {
		return err
	}
	_, err := b.servers.call(ctx, b.program("pgbench"), "-q", "-i", "-s", strconv.Itoa(scale), uri(b.servers.source, database))
	return err
}

func (b *bench) fullTyped(ctx context.Context) (*result, error) {
	const database = "full_typed"
	b.say("data set: typed mix of %d events", b.rows)
	if err := b.servers.recreate(ctx, b.servers.source, database); err != nil {
		return nil, err
	}
	rows := fmt.Sprintf("SET bench.rows = %d", b.rows)
	if err := b.servers.exec(ctx, b.servers.source, database, rows+";"+typedSQL, "VACUUM ANALYZE"); err != nil {
		return nil, err
	}
	return b.full(ctx, database, "typed mix")
}

// rowsPerTable is small: the third data set measures what a table costs by itself.
const rowsPerTable = 100

func (b *bench) fullTables(ctx context.Context) (*result, error) {
	const database = "full_tables"
	b.say("data set: %d tables of %d rows", b.tables, rowsPerTable)
	if err := b.servers.recreate(ctx, b.servers.source, database); err != nil {
		return nil, err
	}
	statements := make([]string, 0, b.tables+1)
	for i := range b.tables {
		table := pgx.Identifier{fmt.Sprintf("table_%04d", i)}.Sanitize()
		statements = append(statements, fmt.Sprintf(`CREATE TABLE %[1]s (id serial PRIMARY KEY, at timestamptz NOT NULL, name text NOT NULL);
			INSERT INTO %[1]s (at, name) SELECT timestamptz '2020-01-01 00:00:00+00' + i * interval '1 hour', md5(i::text) FROM generate_series(1, %[2]d) i;
			CREATE INDEX ON %[1]s (name)`, table, rowsPerTable))
	}
	if err := b.servers.exec(ctx, b.servers.source, database, append(statements, "VACUUM ANALYZE")...); err != nil {
		return nil, err
	}
	return b.full(ctx, database, fmt.Sprintf("%d tables of %d rows", b.tables, rowsPerTable))
}

// full migrates one database with every tool, round by round, and drops it.
func (b *bench) full(ctx context.Context, database, title string) (*result, error) {
	size, err := b.size(ctx, database)
	if err != nil {
		return nil, err
	}
	r := &result{title: fmt.Sprintf("Full migration: %s (%d MB)", title, size>>20), left: map[string]string{}}
	r.tools = []tool{
		{name: ours, run: b.copier(database, b.copyOurs)},
		{name: dumpTools, run: b.copier(database, b.copyDump)},
	}
	if b.pgcopydb == "" {
		r.left[copyDB] = "not installed"
	} else {
		r.tools = append(r.tools, tool{name: copyDB, run: b.copier(database, b.copyPgcopydb), optional: true})
	}
	for range b.rounds {
		if err := b.round(ctx, r); err != nil {
			return nil, err
		}
	}
	drop := "DROP DATABASE " + pgx.Identifier{database}.Sanitize()
	return r, errors.Join(b.servers.exec(ctx, b.servers.source, "postgres", drop), b.servers.exec(ctx, b.servers.target, "postgres", drop))
}

func (b *bench) size(ctx context.Context, database string) (size int64, err error) {
	conn, err := b.servers.connect(ctx, b.servers.source, database)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, `SELECT pg_catalog.pg_database_size(pg_catalog.current_database())`).Scan(&size)
	return size, err
}

// copyJob is one copy by one tool, between two databases of the same name; work is an empty directory of its own.
type copyJob struct{ source, target, work string }

// copier measures one way to copy, into an empty database, and checks the copy.
func (b *bench) copier(database string, run func(context.Context, copyJob) ([]*program, error)) func(context.Context) (sample, error) {
	return func(ctx context.Context) (sample, error) {
		if err := b.servers.recreate(ctx, b.servers.target, database); err != nil {
			return sample{}, err
		}
		work, err := os.MkdirTemp(b.servers.dir, "work-")
		if err != nil {
			return sample{}, err
		}
		defer os.RemoveAll(work)
		job := copyJob{source: uri(b.servers.source, database), target: uri(b.servers.target, database), work: work}
		var programs []*program
		s, err := b.timed(ctx, func() (err error) {
			programs, err = run(ctx, job)
			return err
		})
		if err != nil {
			return s, err
		}
		for _, p := range programs {
			s.client += p.cpu()
			s.memory = max(s.memory, p.memory())
		}
		return s, b.same(ctx, database, database, false)
	}
}

func (b *bench) copyOurs(ctx context.Context, job copyJob) ([]*program, error) {
	p, err := b.servers.call(ctx, b.slipway, "migrate", "run", "--type", "full", "--yes", "--jobs", strconv.Itoa(b.jobs),
		"--source", job.source, "--target", job.target)
	return []*program{p}, err
}

func (b *bench) copyDump(ctx context.Context, job copyJob) ([]*program, error) {
	jobs, dump := "-j"+strconv.Itoa(b.jobs), filepath.Join(job.work, "dump")
	first, err := b.servers.call(ctx, b.program("pg_dump"), "-Fd", jobs, "-Z0", "-f", dump, job.source)
	if err != nil {
		return nil, err
	}
	second, err := b.servers.call(ctx, b.program("pg_restore"), jobs, "-d", job.target, dump)
	return []*program{first, second}, err
}

func (b *bench) copyPgcopydb(ctx context.Context, job copyJob) ([]*program, error) {
	jobs := strconv.Itoa(b.jobs)
	p, err := b.servers.call(ctx, b.pgcopydb, "clone", "--source", job.source, "--target", job.target,
		"--dir", filepath.Join(job.work, "pgcopydb"), "--table-jobs", jobs, "--index-jobs", jobs)
	return []*program{p}, err
}
