package snapshot_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/snapshot"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// long bounds what must end by itself; a test that reaches it fails.
const long = time.Minute

func background(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*long)
	t.Cleanup(cancel)
	return ctx
}

// records is a Recorder over a table of the test's target database.
type records struct{ owner string }

const recordsTable = `CREATE SCHEMA records;
	CREATE TABLE records.owner (name text);
	INSERT INTO records.owner VALUES ('us');
	CREATE TABLE records.part (tab text, number int, rows bigint, bytes bigint, PRIMARY KEY (tab, number))`

func (r records) RecordPart(p snapshot.Part, rows, bytes int64) (string, []any) {
	return `INSERT INTO records.part SELECT $1, $2, $3, $4 FROM records.owner WHERE name = $5`,
		[]any{p.Table.Name.String(), p.Number, rows, bytes, r.owner}
}

func (r records) PartRecorded(p snapshot.Part) (string, []any) {
	return `SELECT count(*) > 0 FROM records.part WHERE tab = $1 AND number = $2`, []any{p.Table.Name.String(), p.Number}
}

// readTables describes all tables of the database; every built-in type counts as safe for binary, if asked for.
func readTables(t *testing.T, conn *pgx.Conn, binary bool) []*schema.Table {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT n.nspname, c.relname, c.oid, c.relkind::text, a.attname, a.atttypid,
			coalesce(a.attgenerated <> '', false),
			ARRAY(SELECT k.attname FROM pg_index i, unnest(i.indkey) WITH ORDINALITY u(num, ord), pg_attribute k
				WHERE i.indrelid = c.oid AND i.indisprimary AND k.attrelid = c.oid AND k.attnum = u.num ORDER BY ord)::text[]
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
		ORDER BY c.oid, a.attnum`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	tables := []*schema.Table{}
	for rows.Next() {
		table, kind, column, oid, generated := schema.Table{}, "", (*string)(nil), (*uint32)(nil), false
		err := rows.Scan(&table.Schema, &table.Name.Name, &table.OID, &kind, &column, &oid, &generated, &table.PrimaryKey)
		if err != nil {
			t.Fatal(err)
		}
		table.Kind = schema.Kind(kind[0])
		if len(tables) == 0 || tables[len(tables)-1].OID != table.OID {
			tables = append(tables, &table)
		}
		if column != nil {
			last := tables[len(tables)-1]
			c := schema.Column{Name: *column, TypeOID: *oid, BinarySafe: binary && *oid < 16384}
			if generated {
				c.Generated = 's'
			}
			last.Columns = append(last.Columns, c)
		}
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	return tables
}

// job is one copy between the databases of a pair, whose snapshot is held by the test.
type job struct {
	pair     *pgtest.Pair
	config   snapshot.Config
	exporter *pgx.Conn
}

// setUp creates the same structure on both sides and the data on the source, and takes the snapshot.
func setUp(t *testing.T, structure, data string) *job {
	t.Helper()
	return setUpOn(t, pgtest.NewPair(t), structure, data)
}

func setUpOn(t *testing.T, pair *pgtest.Pair, structure, data string) *job {
	t.Helper()
	pair.Source.Exec(t, structure)
	pair.Target.Exec(t, structure, recordsTable)
	if data != "" {
		pair.Source.Exec(t, data)
	}
	exporter := pair.Source.Connect(t)
	name, err := snapshot.Export(t.Context(), exporter)
	if err != nil {
		t.Fatal(err)
	}
	return &job{pair: pair, exporter: exporter, config: snapshot.Config{
		Source: pair.Source.Endpoint(), Target: pair.Target.Endpoint(), Snapshot: name,
		Recorder: records{owner: "us"}, Jobs: 3, SameMajor: true, RetryFor: long,
	}}
}

// plan fills Config.Parts.
func (j *job) plan(t *testing.T, binary bool, options snapshot.PlanOptions) {
	t.Helper()
	conn := j.pair.Source.Connect(t)
	if options.SourceVersion == 0 {
		version, err := postgres.ServerVersion(conn)
		if err != nil {
			t.Fatal(err)
		}
		options.SourceVersion = version
	}
	parts, err := snapshot.PlanParts(t.Context(), conn, readTables(t, conn, binary), options)
	if err != nil {
		t.Fatal(err)
	}
	j.config.Parts = parts
}

func (j *job) copier(t *testing.T) *snapshot.Copier {
	t.Helper()
	copier, err := snapshot.New(j.config)
	if err != nil {
		t.Fatal(err)
	}
	return copier
}

func (j *job) run(t *testing.T) *snapshot.Copier {
	t.Helper()
	copier := j.copier(t)
	if err := copier.Run(background(t)); err != nil {
		t.Fatal(err)
	}
	return copier
}

// equal compares a query's answer on both sides.
func (j *job) equal(t *testing.T, query string) {
	t.Helper()
	if diff := cmp.Diff(j.pair.Source.Strings(t, query), j.pair.Target.Strings(t, query)); diff != "" {
		t.Errorf("%s (-source +target):\n%s", query, diff)
	}
}

// contents is a query for all rows of a table, in a form that does not depend on their order.
func contents(table string) string {
	return `SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, E'\n' ORDER BY t::text COLLATE "C")), '') FROM ONLY ` + table + ` t`
}

// within runs f on a session inside the snapshot.
func within(t *testing.T, j *job, f func(*pgx.Conn)) {
	t.Helper()
	conn := j.pair.Source.Connect(t)
	err := snapshot.Within(t.Context(), conn, j.config.Snapshot, func() error {
		f(conn)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func stringsOf(t *testing.T, conn *pgx.Conn, query string) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// background repeats statements on the source until stop; each was done at least once before it returns.
func (j *job) background(t *testing.T, statements ...string) (stop func()) {
	t.Helper()
	conn := j.pair.Source.Connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	once, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for round := 0; ctx.Err() == nil; round++ {
			for _, sql := range statements {
				if _, err := conn.Exec(ctx, sql); err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", sql, err)
				}
			}
			if round == 0 {
				close(once)
			}
		}
	}()
	select {
	case <-once:
	case <-ended:
	}
	return func() {
		cancel()
		<-ended
	}
}
