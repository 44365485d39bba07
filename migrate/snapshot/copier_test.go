package snapshot_test

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/snapshot"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

const typesStructure = `CREATE TABLE types (
	id bigint PRIMARY KEY, b boolean, c "char", n name, i2 smallint, i4 integer, t text, o oid, f4 real, f8 double precision,
	num numeric, vc varchar(10), bp char(5), d date, ti time, ts timestamp, tz timestamptz, iv interval, ttz timetz,
	by bytea, bi bit(3), vb varbit, u uuid, j json, jb jsonb, x xml, ip inet, ci cidr, ma macaddr, pt point, bx box,
	pa path, r int4range, tr tstzrange, tv tsvector, lsn pg_lsn, ia integer[], ta text[], na numeric[], gen integer GENERATED ALWAYS AS (i4 / 2) STORED)`

const typesData = `INSERT INTO types VALUES
	(1, true, 'x', 'name', -32768, -2147483648, E'tab\there\\N\\.\r\n"quote" \u00e9\U0001F600', 4294967295, 'NaN', '-0', 'NaN', 'ab', 'a',
	 '0044-03-15 BC', '24:00:00', 'infinity', '-infinity', '-1 year 3 days -04:05:06.789', '24:00:00-15:59',
	 '\x00ff5c0a', '101', '', '00000000-0000-0000-0000-000000000000', '{"a" : 1, "a": 2}', '{"n": 1.000}', '<a/>b', '::1/64',
	 '10.0.0.0/8', '08:00:2b:01:02:03', '(NaN,Infinity)', '(1,1),(0,0)', '[(0,0),(1,1)]', 'empty', '[,infinity)', '''a b'':1A',
	 '16/B374D848', '[2:3]={1,NULL}', '{"",NULL,"NULL","a\"b"}', '{1.0,NaN}'),
	(2, null, null, null, null, null, '', null, '1e-45', 0.1::float8 + 0.2::float8, 1.000, '', '', '5874897-12-31', null, null, null, null, null,
	 '', null, null, null, 'null', 'null', '', null, null, null, null, null, null, null, null, '', null, '{}', '{}', null),
	(3, null, null, null, null, null, '\N', null, null, null, null, 'null', null, null, null, null, null, null, null,
	 null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null);
	INSERT INTO types (id, t, num) SELECT g, repeat('x', g % 50), g / 7.0 FROM generate_series(4, 5000) g`

func TestCopy_AllTypesEqual(t *testing.T) {
	for _, binary := range []bool{true, false} {
		t.Run(fmt.Sprintf("binary=%t", binary), func(t *testing.T) {
			j := setUp(t, typesStructure, typesData)
			j.plan(t, binary, snapshot.PlanOptions{})
			copier := j.run(t)
			j.equal(t, contents("types"))
			stats := copier.Stats()
			if stats.Rows != 5000 || stats.PartsDone != 1 || stats.TablesDone != 1 || stats.Bytes == 0 || len(stats.InFlight) != 0 {
				t.Errorf("stats: %+v", stats)
			}
			recorded := j.pair.Target.Strings(t, `SELECT tab || ' ' || number || ' ' || rows FROM records.part`)
			if diff := cmp.Diff([]string{"public.types 1 5000"}, recorded); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A large table is read in parts while updates move its rows; together the parts are the snapshot.
func TestCopy_PartsEqualSnapshotUnderUpdates(t *testing.T) {
	for _, way := range []struct {
		name    string
		options snapshot.PlanOptions
		key     string
	}{
		{"blocks", snapshot.PlanOptions{SplitBytes: 2 << 20}, ""},
		{"keys", snapshot.PlanOptions{SplitBytes: 2 << 20, SourceVersion: 130000}, "id"},
	} {
		t.Run(way.name, func(t *testing.T) {
			j := setUp(t, `CREATE TABLE big (id bigint PRIMARY KEY, n int, t text) WITH (fillfactor = 90)`,
				`INSERT INTO big SELECT g * 7 - 500000, 0, md5(g::text) FROM generate_series(1, 300000) g;
				 DELETE FROM big WHERE id % 11 = 0; ANALYZE big`)
			var want []string
			within(t, j, func(conn *pgx.Conn) { want = stringsOf(t, conn, contents("big")) })
			stop := j.background(t, `UPDATE big SET n = n + 1 WHERE id % 97 = (random() * 96)::int`,
				`INSERT INTO big SELECT g, 1, 'new' FROM generate_series(1, 100) g WHERE g % 7 <> 0 ON CONFLICT (id) DO UPDATE SET n = 9`,
				`DELETE FROM big WHERE id % 1013 = (random() * 1012)::int`)
			j.plan(t, true, way.options)
			if len(j.config.Parts) < 5 || j.config.Parts[1].Range.Key != way.key {
				t.Fatalf("%d parts, key %q", len(j.config.Parts), j.config.Parts[1].Range.Key)
			}
			copier := j.run(t)
			stop()
			if diff := cmp.Diff(want, j.pair.Target.Strings(t, contents("big"))); diff != "" {
				t.Errorf("(-snapshot +target):\n%s", diff)
			}
			if stats := copier.Stats(); stats.PartsDone != len(j.config.Parts) || stats.TablesDone != 1 {
				t.Errorf("stats: %+v", stats)
			}
			if n := j.pair.Target.Int(t, `SELECT count(*) FROM records.part`); n != int64(len(j.config.Parts)) {
				t.Errorf("%d records, %d parts", n, len(j.config.Parts))
			}
		})
	}
}

// TableDone comes once per table, after the last of its parts, and not before its rows can be seen.
func TestCopy_TableDoneOnceAfterCommit(t *testing.T) {
	j := setUp(t, `CREATE TABLE split (id int PRIMARY KEY, t text); CREATE TABLE one (id int); CREATE TABLE two (id int)`,
		`INSERT INTO split SELECT g, repeat('x', 500) FROM generate_series(1, 20000) g; INSERT INTO one VALUES (1)`)
	j.plan(t, true, snapshot.PlanOptions{SplitBytes: 1 << 20})
	var mu sync.Mutex
	seen := map[string]int64{}
	watcher := j.pair.Target.Connect(t)
	j.config.TableDone = func(table *schema.Table) {
		mu.Lock()
		defer mu.Unlock()
		if _, twice := seen[table.Name.Name]; twice {
			t.Errorf("%s is done twice", table.Name)
		}
		var n int64
		if err := watcher.QueryRow(t.Context(), "SELECT count(*) FROM "+table.SQL()).Scan(&n); err != nil {
			t.Error(err)
		}
		seen[table.Name.Name] = n
	}
	j.run(t)
	if diff := cmp.Diff(map[string]int64{"split": 20000, "one": 1, "two": 0}, seen); diff != "" {
		t.Error(diff)
	}
}

// Whole tables arrive frozen: no later vacuum has to write them again.
func TestCopy_WholeTablesAreFrozen(t *testing.T) {
	j := setUp(t, `CREATE EXTENSION IF NOT EXISTS pageinspect; CREATE TABLE whole (id int)`,
		`INSERT INTO whole SELECT generate_series(1, 10)`)
	j.pair.Target.Exec(t, `INSERT INTO whole VALUES (99)`)
	j.plan(t, true, snapshot.PlanOptions{})
	j.run(t)
	frozen := j.pair.Target.Int(t, `SELECT count(*) FROM heap_page_items(get_raw_page('whole', 0)) WHERE t_infomask & 768 = 768`)
	if frozen != 10 {
		t.Errorf("%d of 10 rows are frozen", frozen)
	}
	j.equal(t, contents("whole"))
}

func TestCopy_ParentsAndChildren(t *testing.T) {
	j := setUp(t, `CREATE TABLE parent (id int, t text); CREATE TABLE child (extra int) INHERITS (parent);
		CREATE TABLE parted (id int, t text) PARTITION BY RANGE (id);
		CREATE TABLE leaf1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
		CREATE TABLE leaf2 PARTITION OF parted DEFAULT`,
		`INSERT INTO parent SELECT g, repeat('p', 900) FROM generate_series(1, 3000) g; INSERT INTO child VALUES (3, 'c', 1), (4, 'c', 2);
		 INSERT INTO parted SELECT g, 'x' FROM generate_series(0, 99) g`)
	j.plan(t, true, snapshot.PlanOptions{SplitBytes: 1 << 20})
	j.run(t)
	for _, table := range []string{"parent", "child", "leaf1", "leaf2"} {
		j.equal(t, contents(table))
	}
	j.equal(t, `SELECT count(*)::text FROM parent`)
}

// Rows need no columns, and a table may have lost or generated all of its own.
func TestCopy_TablesWithoutColumns(t *testing.T) {
	j := setUp(t, `CREATE TABLE none (); CREATE TABLE dropped (a int, b int); CREATE TABLE generated (a int GENERATED ALWAYS AS (7) STORED);
		CREATE TABLE partly (a int, b int, c int); CREATE TABLE empty (a int); CREATE UNLOGGED TABLE unlogged (a int)`,
		`INSERT INTO none SELECT FROM generate_series(1, 12); INSERT INTO dropped SELECT 1, 2 FROM generate_series(1, 13);
		 ALTER TABLE dropped DROP COLUMN a, DROP COLUMN b; INSERT INTO generated SELECT FROM generate_series(1, 14);
		 INSERT INTO partly VALUES (1, 2, 3); ALTER TABLE partly DROP COLUMN b; INSERT INTO unlogged VALUES (1)`)
	j.pair.Target.Exec(t, `ALTER TABLE dropped DROP COLUMN a, DROP COLUMN b; ALTER TABLE partly DROP COLUMN b`)
	j.plan(t, true, snapshot.PlanOptions{})
	j.run(t)
	for table, want := range map[string]int64{"none": 12, "dropped": 13, "generated": 14, "partly": 1, "empty": 0, "unlogged": 1} {
		if n := j.pair.Target.Int(t, "SELECT count(*) FROM "+table); n != want {
			t.Errorf("%s has %d rows, want %d", table, n, want)
		}
	}
	j.equal(t, contents("partly"))
}

func TestCopy_OddNames(t *testing.T) {
	names := []string{`a"b`, `x.y`, `select`, "new\nline", `100%s`, `tÜnï`, strings.Repeat("z", 63), ` space `, `back\slash`, `$1`, `';--`}
	structure, data := "", ""
	for _, n := range names {
		quoted := postgres.QuoteIdent(n)
		structure += fmt.Sprintf("CREATE SCHEMA %s; CREATE TABLE %s.%s (%s int PRIMARY KEY, %s text);", quoted, quoted, quoted, quoted, postgres.QuoteIdent("other "+n[:1]))
		data += fmt.Sprintf("INSERT INTO %s.%s SELECT g, repeat('t', 1000) FROM generate_series(1, 2500) g;", quoted, quoted)
	}
	for _, version := range []postgres.Version{140000, 130000} {
		j := setUp(t, structure, data+"ANALYZE")
		j.plan(t, true, snapshot.PlanOptions{SplitBytes: 1 << 20, SourceVersion: version})
		j.run(t)
		for _, n := range names {
			j.equal(t, contents(postgres.QuoteQualified(n, n)))
		}
	}
}

func TestCopy_WideTables(t *testing.T) {
	columns, values := []string{}, []string{}
	for i := range 1600 {
		columns = append(columns, fmt.Sprintf("%s%d int", strings.Repeat("c", 50), i))
		values = append(values, strconv.Itoa(i))
	}
	structure, data := "", ""
	for i := range 3 { // more than one, so that queries too long to go ahead follow each other
		structure += fmt.Sprintf("CREATE TABLE wide%d (%s);", i, strings.Join(columns, ", "))
		data += fmt.Sprintf("INSERT INTO wide%d VALUES (%s);", i, strings.Join(values, ", "))
	}
	j := setUp(t, structure, data)
	j.plan(t, true, snapshot.PlanOptions{})
	j.run(t)
	for i := range 3 {
		j.equal(t, fmt.Sprintf(`SELECT md5(t::text) FROM wide%d t`, i))
	}
}

// Memory does not depend on the size of a value.
func TestCopy_LargeValuesInBoundedMemory(t *testing.T) {
	j := setUp(t, `CREATE TABLE large (id int, t text)`,
		`INSERT INTO large SELECT g, repeat(md5(g::text), 700000) FROM generate_series(1, 8) g`)
	j.plan(t, true, snapshot.PlanOptions{})
	j.config.Jobs = 1
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	j.run(t)
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 8<<20 {
		t.Errorf("%d bytes were allocated for values of 22 MB", allocated)
	}
	j.equal(t, `SELECT md5(t) FROM large ORDER BY id`)
}

// Many small tables share few transactions.
func TestCopy_SmallTablesAreGrouped(t *testing.T) {
	structure, data := "", ""
	for i := range 250 {
		structure += fmt.Sprintf("CREATE TABLE small%d (id int, t text);", i)
		data += fmt.Sprintf("INSERT INTO small%d SELECT g, 'row' FROM generate_series(1, %d) g;", i, i%7)
	}
	j := setUp(t, structure, data)
	j.plan(t, true, snapshot.PlanOptions{})
	j.run(t)
	for _, i := range []int{0, 1, 100, 249} {
		j.equal(t, contents(fmt.Sprintf("small%d", i)))
	}
	if n := j.pair.Target.Int(t, `SELECT count(DISTINCT xmin::text) FROM records.part`); n != 3 {
		t.Errorf("250 tables took %d transactions", n)
	}
	if n := j.pair.Target.Int(t, `SELECT sum(rows) FROM records.part`); n != 745 {
		t.Errorf("%d rows are recorded", n)
	}
}

// The same encoding on both sides passes as it is, even when nobody knows what it means.
func TestCopy_Encodings(t *testing.T) {
	source := pgtest.NewPair(t)
	for _, c := range []struct{ from, to string }{{"SQL_ASCII", "SQL_ASCII"}, {"LATIN1", "LATIN1"}, {"LATIN1", "UTF8"}} {
		t.Run(c.from+" to "+c.to, func(t *testing.T) {
			pair := &pgtest.Pair{
				Source: source.Source.Server.NewDatabase(t, pgtest.DatabaseOptions{Encoding: c.from, Locale: "C"}),
				Target: source.Target.Server.NewDatabase(t, pgtest.DatabaseOptions{Encoding: c.to, Locale: "C"}),
			}
			data := `INSERT INTO texts VALUES (U&'\00e9\00fc'), ('plain')`
			if c.from == "SQL_ASCII" {
				data = `INSERT INTO texts VALUES (E'\xff\xfe'), (E'\xe9')`
			}
			j := setUpOn(t, pair, `CREATE TABLE texts (t text)`, data)
			j.plan(t, true, snapshot.PlanOptions{})
			j.run(t)
			j.equal(t, `SELECT encode(convert_to(t, CASE current_setting('server_encoding') WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END), 'hex')
				FROM texts ORDER BY 1`)
		})
	}
}
