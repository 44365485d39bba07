package verify_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/verify"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// connector opens sessions on a database as the engine does.
func connector(d *pgtest.Database) verify.Connector {
	return func(ctx context.Context, name string) (*pgx.Conn, error) {
		return d.Endpoint().Connect(ctx, postgres.Session{Name: name})
	}
}

// config compares all tables of the schemas public and app of a pair.
func config(t *testing.T, pair *pgtest.Pair) verify.Config {
	t.Helper()
	c := verify.Config{Source: connector(pair.Source), Target: connector(pair.Target), ChunkRows: 100, Threads: 2}
	rows := pair.Source.Strings(t, `SELECT n.nspname || E'\x1f' || c.relname || E'\x1f' || c.relkind::text
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1`)
	for _, r := range rows {
		part := strings.Split(r, "\x1f")
		name := schema.Name{Schema: part[0], Name: part[1]}
		c.Tables = append(c.Tables, verify.TablePair{
			Source: &schema.Table{Name: name, Kind: schema.Kind(part[2][0])}, Target: name,
		})
	}
	return c
}

func run(t *testing.T, c verify.Config) *verify.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	report, err := verify.Run(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// wantResult fails with everything that the report says when the overall result is another one.
func wantResult(t *testing.T, report *verify.Report, want verify.Result) {
	t.Helper()
	if report.Result != want {
		t.Fatalf("result %s, want %s\nerrors: %v\ntables: %+v\nstructure: %+v\nsequences: %+v\nlarge objects: %+v", report.Result, want,
			report.Errors, report.Tables, report.Structure, report.Sequences, report.LargeObjects)
	}
}

// onBoth runs the same SQL on both sides.
func onBoth(t *testing.T, pair *pgtest.Pair, sql string) {
	t.Helper()
	pair.Source.Exec(t, sql)
	pair.Target.Exec(t, sql)
}

// everyKind has a table per way of comparing: ranges of one and of several columns, hashed keys, no key.
const everyKind = `
	CREATE TABLE by_int (id int PRIMARY KEY, v text, f float8, n numeric, c char(8), j json, ts timestamptz);
	INSERT INTO by_int SELECT i, 'v' || i, i / 3.0, i / 7.0, 'c' || i, '{"a": 1}', '2024-01-01'::timestamptz + i * interval '1 s'
		FROM generate_series(1, 1050) i;
	CREATE TABLE by_pair (a int, b uuid, v text, PRIMARY KEY (a, b));
	INSERT INTO by_pair SELECT i % 7, md5(i::text)::uuid, 'v' || i FROM generate_series(1, 700) i;
	CREATE TABLE by_text (k text PRIMARY KEY, v int);
	INSERT INTO by_text SELECT 'Key ' || i, i FROM generate_series(1, 900) i;
	CREATE TABLE no_key (a int, b text);
	INSERT INTO no_key SELECT i % 50, 'b' || i % 20 FROM generate_series(1, 800) i;
	INSERT INTO no_key VALUES (NULL, NULL), (NULL, ''), (0, NULL), (NULL, NULL);
	CREATE TABLE empty_table (id int PRIMARY KEY, v text);
	CREATE TABLE empty_no_key (v text);
	CREATE TABLE no_columns ();
	INSERT INTO no_columns SELECT FROM generate_series(1, 3);
	ANALYZE;`

func TestRun_EqualRowsAreSame(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	onBoth(t, pair, everyKind)
	for _, mode := range []verify.Mode{verify.Full, verify.Sample, verify.Rows} {
		c := config(t, pair)
		c.Mode, c.SampleRate = mode, 30
		report := run(t, c)
		wantResult(t, report, verify.Same)
		for _, table := range report.Tables {
			if table.Chunks == 0 || table.Result != verify.Same || len(table.Differences) > 0 {
				t.Errorf("%s: %s: %+v", mode, table.Name, table)
			}
		}
	}
}

func TestRun_CountsRowsAndChunks(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	onBoth(t, pair, everyKind)
	type counts struct{ Source, Target, Chunks int64 }
	got := map[string]counts{}
	for _, table := range run(t, config(t, pair)).Tables {
		got[table.Name.Name] = counts{table.SourceRows, table.TargetRows, table.Chunks}
	}
	want := map[string]counts{
		"by_int": {1050, 1050, 11}, "by_pair": {700, 700, 8}, "by_text": {900, 900, 1}, "no_key": {804, 804, 1},
		"empty_table": {0, 0, 1}, "empty_no_key": {0, 0, 1}, "no_columns": {3, 3, 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Every fault is planted alone on the target of equal data and must be found, as what it is.
func TestRun_FindsEveryPlantedFault(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, table, fault        string
		missing, extra, different int64
		columns                   []string
	}{
		{"one bit of a float", "by_int", `UPDATE by_int SET f = f + 5e-17 * f * 4 WHERE id = 500`, 0, 0, 1, []string{"f"}},
		{"missing row", "by_int", `DELETE FROM by_int WHERE id = 1`, 1, 0, 0, nil},
		{"missing last row", "by_int", `DELETE FROM by_int WHERE id = 1050`, 1, 0, 0, nil},
		{"extra row below", "by_int", `INSERT INTO by_int (id) VALUES (-5)`, 0, 1, 0, nil},
		{"extra row above", "by_int", `INSERT INTO by_int (id) VALUES (99999)`, 0, 1, 0, nil},
		{"null for empty", "by_int", `UPDATE by_int SET v = NULL WHERE id = 2`, 0, 0, 1, []string{"v"}},
		{"trailing blank", "by_int", `UPDATE by_int SET v = v || ' ' WHERE id = 3`, 0, 0, 1, []string{"v"}},
		{"numeric scale", "by_int", `UPDATE by_int SET n = 1.00 WHERE id = 7`, 0, 0, 1, []string{"n"}},
		{"json white space", "by_int", `UPDATE by_int SET j = '{"a":1}' WHERE id = 8`, 0, 0, 1, []string{"j"}},
		{"microsecond", "by_int", `UPDATE by_int SET ts = ts + interval '1 us' WHERE id = 9`, 0, 0, 1, []string{"ts"}},
		{
			"values swapped between rows", "by_int",
			`UPDATE by_int SET v = CASE id WHEN 10 THEN 'v11' ELSE 'v10' END WHERE id IN (10, 11)`, 0, 0, 2,
			[]string{"v"},
		},
		{"NaN", "by_int", `UPDATE by_int SET f = 'NaN' WHERE id = 12`, 0, 0, 1, []string{"f"}},
		{"two columns", "by_int", `UPDATE by_int SET f = 0, v = '' WHERE id = 13`, 0, 0, 1, []string{"v", "f"}},
		{"composite key", "by_pair", `UPDATE by_pair SET v = v || '!' WHERE v = 'v77'`, 0, 0, 1, []string{"v"}},
		{"composite key moved", "by_pair", `UPDATE by_pair SET a = 100 WHERE v = 'v77'`, 1, 1, 0, nil},
		{"text key", "by_text", `UPDATE by_text SET v = 0 WHERE k = 'Key 5'`, 0, 0, 1, []string{"v"}},
		{"text key case", "by_text", `UPDATE by_text SET k = 'key 5' WHERE k = 'Key 5'`, 1, 1, 0, nil},
		{"text key missing", "by_text", `DELETE FROM by_text WHERE k LIKE 'Key 1%'`, 111, 0, 0, nil},
		{"duplicate without a key", "no_key", `INSERT INTO no_key SELECT * FROM no_key LIMIT 1`, 0, 1, 0, nil},
		{
			"even number of duplicates", "no_key",
			`INSERT INTO no_key SELECT n.* FROM (SELECT * FROM no_key LIMIT 1) n, generate_series(1, 2)`, 0, 2, 0, nil,
		},
		{
			"one of several equal rows missing", "no_key",
			`DELETE FROM no_key WHERE ctid = (SELECT min(ctid) FROM no_key WHERE a = 3)`, 1, 0, 0, nil,
		},
		{"null for empty without a key", "no_key", `UPDATE no_key SET b = NULL WHERE b = ''`, 1, 1, 0, nil},
		{"all gone", "by_int", `TRUNCATE by_int`, 1050, 0, 0, nil},
		{"row in an empty table", "empty_table", `INSERT INTO empty_table VALUES (1, 'x')`, 0, 1, 0, nil},
		{"row in an empty table without a key", "empty_no_key", `INSERT INTO empty_no_key VALUES (NULL)`, 0, 1, 0, nil},
		{"rows without columns", "no_columns", `INSERT INTO no_columns SELECT FROM generate_series(1, 2)`, 0, 2, 0, nil},
	}
	pair := pgtest.NewPair(t)
	onBoth(t, pair, everyKind+`UPDATE by_int SET v = '' WHERE id = 2; UPDATE by_int SET n = 1.0 WHERE id = 7;`)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pair.Target.Exec(t, `CREATE TABLE spare AS SELECT * FROM `+tt.table+`; `+tt.fault)
			defer pair.Target.Exec(t, `TRUNCATE `+tt.table+`; INSERT INTO `+tt.table+` SELECT * FROM spare; DROP TABLE spare`)
			report := run(t, config(t, pair))
			wantResult(t, report, verify.Different)
			for _, table := range report.Tables {
				if table.Name.Name != tt.table {
					if table.Result != verify.Same {
						t.Errorf("%s: %+v", table.Name, table)
					}
					continue
				}
				if table.Missing != tt.missing || table.Extra != tt.extra || table.Different != tt.different {
					t.Errorf("%+v", table)
				}
				if tt.columns != nil && (len(table.Differences) == 0 || !cmp.Equal(table.Differences[0].Columns, tt.columns)) {
					t.Errorf("columns: want %v: %+v", tt.columns, table.Differences)
				}
			}
		})
	}
}
