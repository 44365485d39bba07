package verify_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/verify"
	"github.com/slipway-db/slipway/pgtest"
)

// oddValues has values that servers print differently or that careless text forms confuse.
const oddValues = `
	CREATE TYPE mood AS ENUM ('', 'null', 'a,b');
	CREATE TYPE duo AS (f float8, t text);
	CREATE DOMAIN angle AS float8;
	CREATE TYPE span AS RANGE (subtype = float8);
	CREATE TABLE odd (id int PRIMARY KEY, f4 float4, f8 float8, d angle, fa float8[], ra span, pt point, po polygon, c duo,
		n numeric, ch char(6), q "char", qa "char"[], m mood, by bytea, iv interval, ar text[], j json, jb jsonb, x xml, tv tsvector,
		rg regclass, mo money, bi bit varying, na name, ty regtype);
	INSERT INTO odd (id) VALUES (0);
	INSERT INTO odd SELECT i, (i / 7.0)::float4, i / 3.0, i / 11.0, ARRAY[i / 3.0, NULL, 'NaN', '-0'], span(i / 3.0, NULL),
		point(i / 3.0, 'Infinity'), polygon(box(point(0, 0), point(i / 3.0, 1))), ROW((i / 3.0)::float8, '')::duo, i / 9.0, 'c' || i, 'x', ARRAY['a', 'b']::"char"[],
		'a,b', decode(md5(i::text), 'hex'), i * interval '1.5 days', ARRAY['', 'NULL', NULL, '"{}\'], '{"a" : 1,  "a": 2}', '{"b": 1.0}',
		'<a>x</a>', 'a:1 b:2'::tsvector, 'pg_class', 12.5, B'0101', 'name', 'integer'
		FROM generate_series(1, 120) i;
	INSERT INTO odd (id, f4, f8, d, n, ch, m, ar, bi) VALUES (200, '-0', '-0', '-0', 'NaN', '', '', '[5:6]={1,2}', ''),
		(201, 'NaN', '-Infinity', 'NaN', 0.000, ' x', 'null', '{}', NULL), (202, 1e-45, 4.9e-324, 1e300, 1.0, NULL, NULL, '{{1},{2}}', '1');
	CREATE TABLE float_key (f float8, k numeric, PRIMARY KEY (f, k));
	INSERT INTO float_key SELECT i / 3.0, i / 7.0 FROM generate_series(1, 150) i;
	CREATE TABLE float_row (f float8, pt point);
	INSERT INTO float_row SELECT (i % 9) / 3.0, point(i % 3, 0.1) FROM generate_series(1, 150) i;`

func TestRun_VersionsThatPrintDifferently(t *testing.T) {
	t.Parallel()
	for _, majors := range [][2]int{{10, 15}, {15, 10}, {13, 17}, {15, 18}} {
		t.Run(fmt.Sprint(majors), func(t *testing.T) {
			t.Parallel()
			pair := pgtest.NewPairOf(t, majors[0], majors[1])
			onBoth(t, pair, oddValues)
			wantResult(t, run(t, config(t, pair)), verify.Same)
			pair.Target.Exec(t, `UPDATE odd SET f8 = 0 WHERE id = 200`)
			report := run(t, config(t, pair))
			wantResult(t, report, verify.Different)
			for _, table := range report.Tables {
				if table.Name.Name == "odd" && (table.Different != 1 || !slices.Equal(table.Differences[0].Columns, []string{"f8"})) {
					t.Errorf("%+v", table)
				}
			}
		})
	}
}

// Every column of the odd row is changed alone, to a value that only a careful comparison tells apart.
func TestRun_FindsFaultsOfEveryType(t *testing.T) {
	t.Parallel()
	faults := map[string]string{
		"f4": `'0'`, "f8": `'0'`, "d": `'0'`, "fa": `'{0.3333333333333333,NULL,NaN,0}'`, "ra": `'[0.3333333333333334,)'`,
		"pt": `point(0.30000000000000004, 1)`, "po": `polygon(box(point(0, 0), point(1, 1.0000000000000002)))`, "c": `ROW(NULL, NULL)::duo`,
		"n": `'0'`, "ch": `'c '`, "q": `'y'`, "qa": `ARRAY['b', 'a']::"char"[]`, "m": `'null'`, "by": `''`, "iv": `interval '36 hours'`,
		"ar": `ARRAY['', NULL, 'NULL', '"{}\']`, "j": `'{"a" : 1, "a": 2}'`, "jb": `'{"b": 1.00}'`, "x": `'<a>x</a> '`,
		"tv": `'a:1 b:3'`, "rg": `'pg_type'`, "mo": `12.51`, "bi": `B'101'`, "na": `'nome'`, "ty": `'bigint'`,
	}
	pair := pgtest.NewPair(t)
	onBoth(t, pair, oddValues+`UPDATE odd SET iv = interval '1 day 12 hours', f4 = '-0', f8 = '-0', d = '-0', n = '0.0', pt = point(0.3, 1),
		fa = '{0.3333333333333333,NULL,NaN,-0}' WHERE id = 1;
		CREATE TABLE kept AS SELECT * FROM odd`)
	for column, fault := range faults {
		t.Run(column, func(t *testing.T) {
			pair.Target.Exec(t, `UPDATE odd SET `+column+` = `+fault+` WHERE id = 1`)
			defer pair.Target.Exec(t, `UPDATE odd SET `+column+` = (SELECT `+column+` FROM kept WHERE id = 1) WHERE id = 1`)
			c := config(t, pair)
			c.Tables = slices.DeleteFunc(c.Tables, func(p verify.TablePair) bool { return p.Target.Name != "odd" })
			report := run(t, c)
			wantResult(t, report, verify.Different)
			got := report.Tables[0]
			if got.Different != 1 || !slices.Equal(got.Differences[0].Columns, []string{column}) || got.Differences[0].Key["id"] != "1" {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestRun_EncodingsOrdersAndNames(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	latin := pair.Source.Server.NewDatabase(t, pgtest.DatabaseOptions{Encoding: "LATIN1", Locale: "C"})
	t.Cleanup(func() { latin.Server.Maintenance().Exec(t, `DROP DATABASE "`+latin.Name+`"`) })
	pair = &pgtest.Pair{Source: latin, Target: pair.Target}
	rows := "INSERT INTO %s (k, v) SELECT 'clé ' || i || chr(160), 'ÿ' || i FROM generate_series(1, 300) i"
	pair.Source.Exec(t, `CREATE SCHEMA "Od""d. s%"; CREATE TABLE "Od""d. s%"."select é" (gone int, k text PRIMARY KEY, gone2 int, v text, "a""b" int DEFAULT 1);
		ALTER TABLE "Od""d. s%"."select é" DROP gone, DROP gone2`, fmt.Sprintf(rows, `"Od""d. s%"."select é"`),
		`CREATE TABLE bag (k text, v text)`, fmt.Sprintf(rows, "bag"))
	pair.Target.Exec(t, `CREATE SCHEMA "Od""d. s%"; CREATE TABLE "Od""d. s%"."select é" ("a""b" int DEFAULT 1, v text, k text COLLATE "POSIX" PRIMARY KEY)`,
		fmt.Sprintf(rows, `"Od""d. s%"."select é"`), `CREATE TABLE bag (v text, k text)`, fmt.Sprintf(rows, "bag"))
	wantResult(t, run(t, config(t, pair)), verify.Same)

	pair.Target.Exec(t, `UPDATE "Od""d. s%"."select é" SET v = 'ÿ 5' WHERE v = 'ÿ5'; DELETE FROM bag WHERE v = 'ÿ7'`)
	report := run(t, config(t, pair))
	wantResult(t, report, verify.Different)
	for _, table := range report.Tables {
		switch table.Name.Name {
		case "bag":
			if table.Missing != 1 || table.Extra != 0 || table.Different != 0 {
				t.Errorf("%+v", table)
			}
		default:
			if table.Different != 1 || table.Differences[0].Key["k"] != "clé 5\u00a0" || !slices.Equal(table.Differences[0].Columns, []string{"v"}) {
				t.Errorf("%+v", table)
			}
		}
	}
}

// Generated columns are computed by each side; a deviation is told apart from lost data.
func TestRun_GeneratedColumnIsAClassOfItsOwn(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `CREATE TABLE g (id int PRIMARY KEY, double int GENERATED ALWAYS AS (id * 2) STORED)`)
	pair.Target.Exec(t, `CREATE TABLE g (id int PRIMARY KEY, double int GENERATED ALWAYS AS (id * 2 + id / 5) STORED)`)
	onBoth(t, pair, `INSERT INTO g VALUES (1), (5)`)
	report := run(t, config(t, pair))
	wantResult(t, report, verify.Different)
	got := report.Tables[0]
	if got.Different != 1 || !got.Differences[0].Generated || got.Differences[0].Key["id"] != "5" {
		t.Errorf("%+v", got)
	}
}

// The text of this row would be longer than a server can hold, so its values are compared by their digests. It takes
// several gigabytes of memory, so it runs only when asked for.
func TestRun_RowsBeyondOneGigabyteOfText(t *testing.T) {
	if os.Getenv("SLIPWAY_TEST_HUGE") == "" {
		t.Skip("set SLIPWAY_TEST_HUGE=1 to compare rows of a gigabyte")
	}
	pair := pgtest.NewPair(t)
	onBoth(t, pair, `CREATE TABLE wide (id int PRIMARY KEY, a bytea, b bytea, c bytea);
		INSERT INTO wide SELECT 1, v, v, v FROM convert_to(repeat('x', 180000000), 'UTF8') v;
		INSERT INTO wide VALUES (2, NULL, '', '')`)
	wantResult(t, run(t, config(t, pair)), verify.Same)
	pair.Target.Exec(t, `UPDATE wide SET c = set_byte(c, 179999999, 65) WHERE id = 1`)
	report := run(t, config(t, pair))
	wantResult(t, report, verify.Different)
	if got := report.Tables[0]; got.Different != 1 || !slices.Equal(got.Differences[0].Columns, []string{"c"}) {
		t.Errorf("%+v", got)
	}
}

func TestRun_MaterializedViewsPartitionsAndInheritance(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	onBoth(t, pair, `CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent);
		INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1), (2);
		CREATE TABLE parts (id int) PARTITION BY LIST (id); CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1); INSERT INTO parts VALUES (1), (1);
		CREATE MATERIALIZED VIEW sums AS SELECT count(*) AS n FROM parent; CREATE MATERIALIZED VIEW bare AS SELECT 1 AS one WITH NO DATA`)
	report := run(t, config(t, pair))
	wantResult(t, report, verify.Same)
	skipped := []string{}
	for _, table := range report.Tables {
		if table.Result == verify.Skipped {
			skipped = append(skipped, table.Name.Name)
		}
	}
	if !slices.Equal(skipped, []string{"bare", "parts"}) {
		t.Errorf("skipped: %v", skipped)
	}
	pair.Target.Exec(t, `INSERT INTO child VALUES (3); REFRESH MATERIALIZED VIEW bare`)
	pair.Source.Exec(t, `INSERT INTO parent VALUES (9); REFRESH MATERIALIZED VIEW sums; DELETE FROM ONLY parent WHERE id = 9`)
	different := []string{}
	for _, table := range run(t, config(t, pair)).Tables {
		if table.Result == verify.Different {
			different = append(different, table.Name.Name)
		}
	}
	if !slices.Equal(different, []string{"bare", "child", "sums"}) {
		t.Errorf("different: %v", different)
	}
}

func TestRun_ListsAtMostMaxDifferencesAndCountsAll(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	onBoth(t, pair, everyKind)
	pair.Target.Exec(t, `UPDATE by_int SET v = v || '!'`)
	c := config(t, pair)
	c.MaxDifferences = 7
	for _, table := range run(t, c).Tables {
		if table.Name.Name == "by_int" && (table.Different != 1050 || len(table.Differences) != 7) {
			t.Errorf("%d different, %d listed", table.Different, len(table.Differences))
		}
	}
}

func TestRun_SampleIsRepeatable(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	onBoth(t, pair, `CREATE TABLE many (id int PRIMARY KEY); INSERT INTO many SELECT generate_series(1, 20000)`)
	c := config(t, pair)
	c.Mode, c.SampleRate, c.Seed = verify.Sample, 20, 42
	first, second := run(t, c).Tables[0], run(t, c).Tables[0]
	if first.SourceRows != second.SourceRows || first.Chunks != second.Chunks || first.Chunks+first.ChunksLeft != 201 {
		t.Errorf("%+v\n%+v", first, second)
	}
	if first.Chunks < 20 || first.Chunks > 65 {
		t.Errorf("%d of 201 chunks are not about 20 percent", first.Chunks)
	}
}

func TestRun_SequencesAndLargeObjects(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	onBoth(t, pair, `CREATE TABLE t (id int PRIMARY KEY); CREATE SEQUENCE "a b"; CREATE SEQUENCE down INCREMENT -1; CREATE SEQUENCE fresh; CREATE SEQUENCE ahead;
		SELECT setval('"a b"', 7), setval('down', -3), setval('ahead', 5);
		SELECT lo_from_bytea(100, 'one'), lo_from_bytea(200, decode(repeat('00ff', 3000000), 'hex')), lo_create(300)`)
	c := config(t, pair)
	c.LargeObjects = true
	for _, name := range []string{"a b", "down", "fresh", "ahead"} {
		n := schema.Name{Schema: "public", Name: name}
		c.Sequences = append(c.Sequences, verify.SequencePair{Source: n, Target: n})
	}
	wantResult(t, run(t, c), verify.Same)

	pair.Target.Exec(t, `SELECT setval('ahead', 9)`)
	wantResult(t, run(t, c), verify.Same)
	pair.Target.Exec(t, `SELECT setval('down', -2), setval('"a b"', 7, false), setval('fresh', 1);
		SELECT lo_put(200, 5999999, 'x'), lo_unlink(300), lo_create(400)`)
	report := run(t, c)
	wantResult(t, report, verify.Different)
	got := []string{}
	for _, s := range report.Sequences {
		got = append(got, string(s.Result))
	}
	if want := "different different same same"; strings.Join(got, " ") != want {
		t.Errorf("sequences: %v, want %s", got, want)
	}
	lo := report.LargeObjects
	if lo.Missing != 1 || lo.Extra != 1 || lo.Different != 1 || lo.Source != 3 || lo.Target != 3 {
		t.Errorf("%+v", lo)
	}
}

// Settings of the databases must not reach our sessions, and nothing may be written by them.
func TestRun_SessionsAreReadOnly(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	onBoth(t, pair, `CREATE TABLE t (id int PRIMARY KEY)`)
	c := config(t, pair)
	seen := map[string]bool{}
	connect := c.Target
	c.Threads = 1
	var conns []*pgx.Conn
	c.Target = func(ctx context.Context, name string) (*pgx.Conn, error) {
		conn, err := connect(ctx, name)
		conns = append(conns, conn)
		return conn, err
	}
	c.Progress = func(verify.Progress) {
		var readOnly string
		last := conns[len(conns)-1]
		if err := last.QueryRow(context.Background(), `SHOW default_transaction_read_only`).Scan(&readOnly); err != nil {
			t.Error(err)
		}
		seen[readOnly] = true
	}
	run(t, c)
	if !seen["on"] || len(seen) != 1 {
		t.Errorf("default_transaction_read_only: %v", seen)
	}
}
