package apply_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate/apply"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/pgtest"
)

// everySize runs a history that ends well with batches of 1, 7 and 1000 transactions, as sets and change by change, and
// returns what the query shows, which has to be the same each time.
func everySize(t *testing.T, ddl, query string, write func(*history), tables ...string) []string {
	t.Helper()
	var first []string
	target := pgtest.NewPair(t).Target
	for i, size := range []int{1, 7, 1000, 1} {
		target.Exec(t, `DROP SCHEMA IF EXISTS public, ext, slipway CASCADE; CREATE SCHEMA public`)
		setUp(t, target, ddl)
		h := newHistory(t, target)
		write(h)
		if _, err := h.applyWith(t, func(c *apply.Config) {
			if c.BatchTransactions = size; i == 3 {
				c.SetFrom = 1000
			}
		}, tables...); err != nil {
			t.Fatalf("batches of %d: %v", size, err)
		}
		got := target.Strings(t, query)
		if i == 0 {
			first = got
		} else if diff := cmp.Diff(first, got); diff != "" {
			t.Errorf("batches of %d give another result than batches of 1 (-1 +%d):\n%s", size, size, diff)
		}
	}
	return first
}

func same(t *testing.T, got []string, rows ...string) {
	t.Helper()
	if len(got) == 0 && len(rows) == 0 {
		return
	}
	if diff := cmp.Diff(rows, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// KEY-1: to a freed key, a swap by a temporary key, all keys shifted; with and without columns that the source lacks,
// which decide whether a key update may be folded.
func TestKeys_UpdatesOfTheKey(t *testing.T) {
	for _, extra := range []string{"", ", more int DEFAULT 5"} {
		got := everySize(t, `CREATE TABLE k (id int PRIMARY KEY, v text`+extra+`)`, `SELECT k.id || k.v FROM k ORDER BY id`, func(h *history) {
			if extra != "" { // the source does not have it
				r := h.relation("k")
				r.Columns = r.Columns[:2]
			}
			h.begin().insert("k", "1", "a").insert("k", "2", "b").insert("k", "3", "c").commit()
			h.begin().delete("k", "3", absent{}).update("k", row("2", absent{}), "3", "b2").commit()
			h.begin().update("k", row("1", absent{}), "-1", "a").update("k", row("3", absent{}), "1", "b2").
				update("k", row("-1", absent{}), "3", "a").commit()
			h.begin().update("k", nil, "3", "a3").update("k", row("3", absent{}), "4", "a4").update("k", row("1", absent{}), "2", "b2").commit()
			h.begin().insert("k", "1", "new").update("k", row("1", absent{}), "9", "new").update("k", nil, "9", "newer").commit()
		}, "k")
		same(t, got, "2b2", "4a4", "9newer")
	}
}

// KEY-2: the key's order and place differ from the table's, with columns that are only included.
func TestKeys_CompositeAndIncluding(t *testing.T) {
	got := everySize(t, `CREATE TABLE k (a text, b int, c int, d text, PRIMARY KEY (c, b) INCLUDE (d))`, `SELECT k::text FROM k ORDER BY c, b`, func(h *history) {
		r := h.relation("k")
		for i := range r.Columns {
			r.Columns[i].Key = i == 1 || i == 2
		}
		h.begin().insert("k", "x", "1", "2", "d").insert("k", "y", "2", "1", "d").insert("k", "z", "12", "1", "d").commit()
		h.begin().update("k", nil, "x2", "1", "2", "e").delete("k", absent{}, "2", "1", absent{}).commit()
		h.begin().update("k", row(absent{}, "12", "1", absent{}), "z", "1", "12", "d").commit()
	}, "k")
	same(t, got, "(x2,1,2,e)", "(z,1,12,d)")
}

// KEY-3: every column is key, and an update that changes nothing still has to find its row.
func TestKeys_OnlyKeyColumns(t *testing.T) {
	ddl := `CREATE TABLE k (a int, b int, PRIMARY KEY (a, b))`
	got := everySize(t, ddl, `SELECT k::text FROM k`, func(h *history) {
		h.begin().insert("k", "1", "1").commit()
		h.begin().update("k", nil, "1", "1").commit()
		h.begin().update("k", row("1", "1"), "2", "1").update("k", nil, "2", "1").commit()
	}, "k")
	same(t, got, "(2,1)")
	target := pgtest.NewPair(t).Target
	setUp(t, target, ddl)
	h := newHistory(t, target)
	h.begin().update("k", nil, "5", "5").commit()
	wantConflict(t, h.apply(t, "k"), stream.Update, 0)
}

// KEY-4: a deferrable primary key is not an identity, so the table has full row identity and is not searched by it.
func TestKeys_DeferrableKeyIsNoIdentity(t *testing.T) {
	got := everySize(t, `CREATE TABLE k (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text); ALTER TABLE k REPLICA IDENTITY FULL`,
		`SELECT k::text FROM k ORDER BY id`, func(h *history) {
			h.begin().insert("k", "1", "a").insert("k", "2", "b").commit()
			h.begin().update("k", row("1", "a"), "2", "a").update("k", row("2", "b"), "1", "b").commit()
		}, "k")
	same(t, got, "(1,b)", "(2,a)")
}

const odd = `CREATE TYPE pair AS (a int, b text);
	CREATE TABLE f (i int, j json, x xml, p point, d float8, c char(4), n numeric, a int[], r pair, t text, b box[], q bpchar);
	ALTER TABLE f REPLICA IDENTITY FULL`

// KEY-5, KEY-6, KEY-7: exactly one of several equal rows, types without equality, and rows that an equality would mix up.
func TestFull_OneOfSeveralAndNothingElse(t *testing.T) {
	one := row("1", `{"a": 1}`, "<a/>", "(1,2)", "0", "ab  ", "1.0", "{1,NULL}", `(,"")`, "", "{(2,2),(1,1);(4,4),(3,3)}", "x ")
	with := func(at int, value any) []any {
		other := append([]any(nil), one...)
		other[at] = value
		return other
	}
	others := [][]any{
		with(0, nil), with(1, `{"a":1}`), with(2, "<a></a>"), with(3, "(1,3)"), with(4, "-0"), with(4, "NaN"), with(5, "b   "),
		with(6, "1.00"), with(7, "[0:1]={1,NULL}"), with(8, "(,)"), with(8, nil), with(9, nil), with(10, "{(2,2),(1,1)}"), with(11, "x"),
	}
	got := everySize(t, odd, `SELECT coalesce(i, -1) FROM f WHERE i IS DISTINCT FROM 1 ORDER BY 1`, func(h *history) {
		h.begin().insert("f", one...).insert("f", one...).insert("f", one...)
		for _, o := range others {
			h.insert("f", o...)
		}
		h.commit()
		h.begin().delete("f", one...).update("f", one, with(0, "2")...).commit()
		for _, o := range others {
			moved := append([]any(nil), o...)
			moved[0] = "7"
			h.begin().update("f", o, moved...).update("f", moved, moved...).delete("f", moved...).commit()
		}
	}, "f")
	same(t, got, "2")
}

// KEY-7, KEY-8: generated columns are not compared, and an index of the target makes the search fast.
func TestFull_GeneratedColumnAndIndex(t *testing.T) {
	got := everySize(t, `CREATE TABLE f (a int, g int GENERATED ALWAYS AS (a * 2) STORED, b text); CREATE INDEX ON f (b, a);
		ALTER TABLE f REPLICA IDENTITY FULL`, `SELECT f::text FROM f ORDER BY b`, func(h *history) {
		h.begin().insert("f", "1", "x").insert("f", "1", "x").insert("f", nil, "y").commit()
		h.begin().update("f", row("1", "x"), "3", "z").delete("f", nil, "y").commit()
	}, "f")
	same(t, got, "(1,2,x)", "(3,6,z)")
}

// A table that publishes whole rows but has a key on the target is found, and folded, by that key.
func TestFull_WithKeyIsFoundByIt(t *testing.T) {
	got := everySize(t, `CREATE TABLE f (id int PRIMARY KEY, v text, j json); ALTER TABLE f REPLICA IDENTITY FULL`,
		`SELECT f::text FROM f ORDER BY id`, func(h *history) {
			h.begin().insert("f", "1", "a", "{}").insert("f", "2", "b", "{}").insert("f", "3", "c", "{ }").commit()
			h.begin().update("f", row("1", "a", "{}"), "1", "a2", unchanged{}).delete("f", "2", "b", "{}").commit()
			h.begin().update("f", row("3", "c", "{ }"), "4", "d", unchanged{}).commit()
		}, "f")
	same(t, got, "(1,a2,{})", `(4,d,"{ }")`)
}

func TestFull_MissingRowAndMissingIdentityStop(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE f (a int, b text); ALTER TABLE f REPLICA IDENTITY FULL; CREATE TABLE n (a int)`)
	h := newHistory(t, target)
	h.begin().insert("f", "1", "x").delete("f", "1", "y").commit()
	wantConflict(t, h.apply(t, "f"), stream.Delete, 0)
	want(t, target, `SELECT count(*) FROM f`, "0")
	h = newHistory(t, target)
	h.begin().insert("n", "1").delete("n", "1").commit()
	if conflict := wantConflict(t, h.apply(t, "n"), stream.Delete, 0); !errors.Is(conflict, apply.ErrIncomplete) {
		t.Errorf("got %v, want ErrIncomplete", conflict)
	}
	h = newHistory(t, target)
	h.begin().insert("f", "1", "x").update("f", row("1", unchanged{}), "2", "x").commit()
	wantConflict(t, h.apply(t, "f"), stream.Update, 0)
}

// KEY-9: an index that is the replica identity, on a table with another primary key.
func TestKeys_ReplicaIdentityIndex(t *testing.T) {
	got := everySize(t, `CREATE TABLE k (id int PRIMARY KEY, code text NOT NULL, v text); CREATE UNIQUE INDEX code ON k (code);
		ALTER TABLE k REPLICA IDENTITY USING INDEX code`, `SELECT k::text FROM k ORDER BY id`, func(h *history) {
		h.begin().insert("k", "1", "a", "x").insert("k", "2", "b", "y").commit()
		h.begin().update("k", nil, "3", "a", "x3").delete("k", absent{}, "b", absent{}).commit()
		h.begin().update("k", row(absent{}, "a", absent{}), "3", "c", "x4").insert("k", "1", "a", "z").commit()
	}, "k")
	same(t, got, "(1,a,z)", "(3,c,x4)")
}

// KEY-11: keys of odd types find their row and no other.
func TestKeys_OddTypes(t *testing.T) {
	setup := `CREATE TYPE mood AS ENUM ('', 'so "so"', 'null'); CREATE TYPE comp AS (a int, b text);
		CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE DOMAIN code AS varchar(3) CHECK (VALUE <> 'bad'); CREATE DOMAIN code2 AS code; `
	cases := []struct{ columnType, key, other, moved string }{
		{"float8", "NaN", "-0", "Infinity"},
		{"numeric", "1.00", "2", "NaN"},
		{"char(5)", "ab   ", "a    ", "b    "},
		{"text", "", `\N`, `{"a,b`},
		{"timestamptz", "infinity", "-infinity", "0044-03-15 00:00:00+00 BC"},
		{"bytea", `\x`, `\x5c00`, `\xff`},
		{"int[]", "[0:1]={1,2}", "{1,2}", "{}"},
		{"text[]", `{"a\"b",NULL}`, `{NULL,"NULL"}`, `{{a,b},{c,d}}`},
		{"jsonb", `{"a": 1.0}`, `{"a": 2}`, `null`},
		{"public.comp", `(1,"a,b")`, `(1,)`, `(,"")`},
		{"public.mood", "", "null", `so "so"`},
		{"int4range", "[1,2)", "empty", "(,)"},
		{"public.code2", "abc", "", "x"},
		{`"char"`, "a", "", "b"},
		{"bit(3)", "010", "000", "111"},
		{"varchar(4)", "ü", "u", "ö"},
		{"text COLLATE public.nocase", "Straße", "b", "C"},
		{"uuid", "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002", "ffffffff-ffff-ffff-ffff-ffffffffffff"},
		{"pg_lsn", "0/1", "1/0", "FFFFFFFF/FFFFFFFF"},
	}
	ddl, query, tables := setup, []string{}, []string{}
	for i, c := range cases {
		tables = append(tables, fmt.Sprintf("k%d", i))
		ddl += fmt.Sprintf("CREATE TABLE %s (id %s PRIMARY KEY, v int); ", tables[i], c.columnType)
		query = append(query, fmt.Sprintf("SELECT %d AS n, array_agg(v ORDER BY v) AS v FROM %s", i, tables[i]))
	}
	got := everySize(t, ddl, `SELECT v::text FROM (`+strings.Join(query, " UNION ALL ")+`) x ORDER BY n`, func(h *history) {
		for i, c := range cases {
			k := tables[i]
			h.begin().insert(k, c.key, "1").insert(k, c.other, "2").commit()
			h.begin().update(k, nil, c.key, "10").commit()
			h.begin().update(k, row(c.key, absent{}), c.moved, "11").insert(k, c.key, "3").commit()
			h.begin().delete(k, c.other, absent{}).update(k, nil, c.key, "4").commit()
		}
	}, tables...)
	for i, c := range cases {
		if got[i] != "{4,11}" {
			t.Errorf("key of type %s: the table holds %s, want {4,11}", c.columnType, got[i])
		}
	}
}

// Equality of a type in another schema is found although the search_path does not lead there, and is the index's own.
func TestKeys_OperatorOfAnotherSchema(t *testing.T) {
	got := everySize(t, `CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE TABLE k (id ext.citext PRIMARY KEY, v ext.citext)`,
		`SELECT id || '=' || v FROM k`, func(h *history) {
			h.begin().insert("k", "Key", "One").commit()
			h.begin().update("k", row("Key", absent{}), "KEY", "two").commit()
			h.begin().update("k", nil, "KEY", "Three").commit()
		}, "k")
	same(t, got, "KEY=Three")
}

// KEY-12: what is missing or there already is never ignored, and nothing of its transaction stays.
func TestConflict_MissingAndDuplicate(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE k (id int PRIMARY KEY, v text); INSERT INTO k VALUES (7, 'stray')`)
	cases := []struct {
		name  string
		write func(*history) *history
		kind  stream.EventKind
	}{
		{"update", func(h *history) *history { return h.update("k", nil, "5", "x") }, stream.Update},
		{"delete", func(h *history) *history { return h.delete("k", "5", absent{}) }, stream.Delete},
		{"insert", func(h *history) *history { return h.insert("k", "7", "x") }, stream.Insert},
		{"key", func(h *history) *history { return h.update("k", row("5", absent{}), "6", "x") }, stream.Update},
		{"delete twice", func(h *history) *history { return h.delete("k", "1", absent{}).delete("k", "1", absent{}) }, stream.Delete},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := newHistory(t, target)
			h.begin().insert("k", "1", "first")
			at := h.lsn
			c.write(h).commit()
			conflict := wantConflict(t, h.apply(t, "k"), c.kind, 0)
			if conflict.LSN != at || conflict.Table != (schema.Name{Schema: "public", Name: "k"}) {
				t.Errorf("conflict at %s of %s, want %s of public.k", conflict.LSN, conflict.Table, at)
			}
			want(t, target, `SELECT k::text FROM k`, "(7,stray)")
			want(t, target, `SELECT lsn::text FROM slipway.progress`, "0/0")
		})
	}
}

func wantConflict(t *testing.T, err error, kind stream.EventKind, rows int64) *apply.Conflict {
	t.Helper()
	conflict, ok := errors.AsType[*apply.Conflict](err)
	if !ok || conflict.Kind != kind || conflict.Rows != rows {
		t.Fatalf("got error %v, want a conflict of %c with %d rows", err, kind, rows)
	}
	return conflict
}
