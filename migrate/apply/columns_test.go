package apply_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/slipway-db/slipway/migrate/apply"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// TOA-1, TOA-2, TOA-4, TOA-5: values that an update did not send stay, within a transaction and across several.
func TestToast_UnchangedStays(t *testing.T) {
	got := everySize(t, `CREATE TABLE t (id int PRIMARY KEY, a text, b text, c int)`, `SELECT t::text FROM t ORDER BY id`, func(h *history) {
		h.begin().insert("t", "1", "A1", "B1", "1").insert("t", "2", "A2", "B2", "2").insert("t", "3", "A3", "B3", "3").commit()
		h.begin().update("t", nil, "1", unchanged{}, unchanged{}, "10").update("t", nil, "1", "A1'", unchanged{}, "11").
			update("t", nil, "1", unchanged{}, unchanged{}, "12").commit()
		h.begin().update("t", nil, "2", unchanged{}, "B2'", "20").update("t", nil, "3", unchanged{}, unchanged{}, nil).commit()
		h.begin().update("t", row("2", absent{}, absent{}, absent{}), "4", unchanged{}, unchanged{}, "21").commit()
		h.begin().update("t", row("3", absent{}, absent{}, absent{}), "2", "A3'", "B3'", "31").commit()
		h.begin().insert("t", "5", "A5", "B5", "5").update("t", nil, "5", unchanged{}, unchanged{}, "50").
			update("t", row("5", absent{}, absent{}, absent{}), "6", unchanged{}, "B6", "60").commit()
	}, "t")
	same(t, got, "(1,A1',B1,12)", "(2,A3',B3',31)", "(4,A2,B2',21)", "(6,A5,B6,60)")
}

// TOA-3: the key itself is toasted, so the server sends the old key with every update.
func TestToast_InTheKey(t *testing.T) {
	long := strings.Repeat("k", 2000)
	got := everySize(t, `CREATE TABLE t (id text PRIMARY KEY, v text)`, `SELECT length(id)::text || v FROM t`, func(h *history) {
		h.begin().insert("t", long, "a").commit()
		h.begin().update("t", row(long, absent{}), unchanged{}, "b").commit()
		h.begin().update("t", row(long, absent{}), long+"x", unchanged{}).commit()
	}, "t")
	same(t, got, "2001b")
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE t (id text PRIMARY KEY, v text)`)
	h := newHistory(t, target)
	h.begin().insert("t", long, "a").update("t", nil, unchanged{}, "b").commit()
	wantConflict(t, h.apply(t, "t"), stream.Update, 0)
}

// TOA-7: without its row an update that sent only some columns cannot be completed.
func TestToast_MissingRowStops(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE t (id int PRIMARY KEY, v text)`)
	h := newHistory(t, target)
	h.begin().update("t", nil, "1", unchanged{}).commit()
	wantConflict(t, h.apply(t, "t"), stream.Update, 0)
}

// COL-1, COL-6, COL-9: generated columns are computed on the target, columns go by name, extra ones keep defaults.
func TestColumns_GeneratedExtraAndReordered(t *testing.T) {
	ddl := `CREATE TABLE t (gone int, "Select ""x"" %" text, extra int DEFAULT 7, g int GENERATED ALWAYS AS (id * 2) STORED, id int PRIMARY KEY);
		ALTER TABLE t DROP COLUMN gone`
	got := everySize(t, ddl, `SELECT t::text FROM t ORDER BY id`, func(h *history) {
		r := h.relation("t") // name, extra, id; the source has id, g (published) and name
		name, id := r.Columns[0], r.Columns[2]
		g := stream.RelationColumn{Name: "g", TypeOID: 23, TypeMod: -1}
		r.Columns = []stream.RelationColumn{id, g, name}
		h.begin().insert("t", "1", "2", "a").insert("t", "2", "4", "b").commit()
		h.begin().update("t", nil, "1", "2", "c").update("t", row("2", absent{}, absent{}), "3", "6", unchanged{}).commit()
	}, "t")
	same(t, got, "(c,7,2,1)", "(b,7,6,3)")
}

// COL-3: identity columns take the source's values; one GENERATED ALWAYS can be changed although UPDATE may not set it.
func TestColumns_Identity(t *testing.T) {
	ddl := `CREATE TABLE k (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, big text);
		CREATE TABLE n (id int PRIMARY KEY, serial int GENERATED ALWAYS AS IDENTITY, v text, big text DEFAULT 'kept');
		CREATE TABLE f (serial bigint GENERATED ALWAYS AS IDENTITY, v text); ALTER TABLE f REPLICA IDENTITY FULL`
	query := `SELECT k::text FROM k UNION ALL SELECT n::text FROM n UNION ALL SELECT f::text FROM f ORDER BY 1`
	got := everySize(t, ddl, query, func(h *history) {
		h.begin().insert("k", "5", "a", "B").insert("n", "1", "10", "a", "B").insert("n", "2", "20", "b", "C").insert("f", "3", "x").commit()
		h.begin().update("k", nil, "5", "b", unchanged{}).update("n", nil, "1", "10", "a2", unchanged{}).update("f", row("3", "x"), "3", "y").commit()
		h.begin().update("k", row("5", absent{}, absent{}), "6", "c", unchanged{}).update("n", nil, "2", "21", "b2", unchanged{}).
			update("f", row("3", "y"), "4", "y").commit()
		h.begin().update("n", row("1", absent{}, absent{}, absent{}), "3", "11", "a3", unchanged{}).commit()
	}, "k", "n", "f")
	same(t, got, "(2,21,b2,C)", "(3,11,a3,B)", "(4,y)", "(6,c,B)")
}

// A value that is too long for the target is refused, never cut, through a domain too.
func TestColumns_LengthIsNeverCut(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE DOMAIN short AS varchar(3); CREATE TABLE t (id int PRIMARY KEY, v varchar(3), d short, b bit(2))`)
	for _, values := range [][]any{row("1", "abcd", "a", "01"), row("1", "abc", "abcd", "01"), row("1", "abc", "abc", "011")} {
		for _, size := range []int{1, 2} {
			h := newHistory(t, target)
			h.begin().insert("t", values...)
			if size == 2 {
				h.insert("t", "2", "x", "x", "01")
			}
			h.commit()
			conflict := wantConflict(t, h.apply(t, "t"), stream.Insert, 0)
			if strings.Contains(conflict.Error(), "abcd") || postgres.Code(conflict) == "" {
				t.Errorf("the error shows a value or hides the SQLSTATE: %v", conflict)
			}
		}
	}
	want(t, target, `SELECT count(*) FROM t`, "0")
}

// Types whose cast from text is a function are read by their own input function: here a made-up cast lies.
func TestColumns_CastFunctionsAreNotUsed(t *testing.T) {
	got := everySize(t, `CREATE TYPE colour AS ENUM ('red', 'blue');
		CREATE FUNCTION always_red(text) RETURNS colour LANGUAGE sql IMMUTABLE AS $$ SELECT 'red'::public.colour $$;
		CREATE CAST (text AS colour) WITH FUNCTION always_red(text);
		CREATE TABLE t (id int PRIMARY KEY, c colour, r regclass)`, `SELECT t::text FROM t ORDER BY id`, func(h *history) {
		h.begin().insert("t", "1", "blue", "pg_class").insert("t", "2", "red", "4294967295").commit()
		h.begin().update("t", nil, "2", "blue", "-").commit()
	}, "t")
	same(t, got, "(1,blue,pg_class)", "(2,blue,-)")
}

// No columns, and nothing but generated ones: rows are counted, not values.
func TestColumns_None(t *testing.T) {
	got := everySize(t, `CREATE TABLE z (); CREATE TABLE g (a int GENERATED ALWAYS AS (1) STORED); ALTER TABLE z REPLICA IDENTITY FULL`,
		`SELECT count(*) FROM z UNION ALL SELECT sum(a) FROM g`, func(h *history) {
			h.begin().insert("z").insert("z").insert("g").delete("z").insert("g").commit()
		}, "z", "g")
	same(t, got, "1", "2")
}

func TestDrift_IsNamed(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE t (id int PRIMARY KEY, v varchar(5), w numeric(8,2))`)
	cases := []struct {
		name, column string
		change       func(*stream.Relation)
	}{
		{"added", "new", func(r *stream.Relation) {
			r.Columns = append(r.Columns, stream.RelationColumn{Name: "new", TypeOID: 23, TypeMod: -1})
		}},
		{"dropped", "w", func(r *stream.Relation) { r.Columns = r.Columns[:2] }},
		{"type", "w", func(r *stream.Relation) { r.Columns[2].TypeOID, r.Columns[2].TypeMod = 701, -1 }},
		{"length", "v", func(r *stream.Relation) { r.Columns[1].TypeMod = 14 }},
		{"scale", "w", func(r *stream.Relation) { r.Columns[2].TypeMod++ }},
		{"replaced", "", func(r *stream.Relation) { r.OID++ }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := newHistory(t, target)
			h.begin().insert("t", "1", "a", "1.00").commit()
			changed := *h.relation("t")
			changed.Columns = append([]stream.RelationColumn(nil), changed.Columns...)
			c.change(&changed)
			h.relations["t"] = &changed
			values := row("2", "b", "2.00", "3")
			h.begin().insert("t", values[:len(changed.Columns)]...).commit()
			_, err := h.applyWith(t, func(c *apply.Config) { c.BatchTransactions = 1 }, "t")
			drift, ok := errors.AsType[*apply.Drift](err)
			if !ok || drift.Column != c.column || drift.Table != (schema.Name{Schema: "public", Name: "t"}) {
				t.Fatalf("got %v, want a drift of column %q", err, c.column)
			}
			// Each case starts anew; what came before the drift was applied.
			want(t, target, `DELETE FROM t RETURNING id`, "1")
		})
	}
}

// A description that the target has followed already is no drift: the operator has made the same change there.
func TestDrift_FollowedOnTheTarget(t *testing.T) {
	got := everySize(t, `CREATE TABLE t (id int PRIMARY KEY, v text, new int DEFAULT 9)`, `SELECT t::text FROM t ORDER BY id`, func(h *history) {
		after := h.relation("t")
		before := *after
		before.Columns = before.Columns[:2]
		h.relations["t"] = &before
		h.begin().insert("t", "1", "a").insert("t", "2", "b").commit()
		h.relations["t"] = after
		h.begin().update("t", nil, "1", "a2", "5").insert("t", "3", "c", nil).commit()
	}, "t")
	same(t, got, "(1,a2,5)", "(2,b,9)", "(3,c,)")
}

// test_decoding names types, tells no keys and sends only the key of a deleted row.
func TestColumns_ByNameOnly(t *testing.T) {
	target := pgtest.NewPair(t).Target
	setUp(t, target, `CREATE TABLE t (id int PRIMARY KEY, v text)`)
	h := newHistory(t, target)
	whole := &stream.Relation{Schema: "public", Name: "t", Columns: []stream.RelationColumn{{Name: "id", TypeName: "integer"}, {Name: "v", TypeName: "text"}}}
	key := &stream.Relation{Schema: "public", Name: "t", Columns: []stream.RelationColumn{{Name: "id", TypeName: "integer"}}}
	h.relations["t"] = whole
	h.begin().insert("t", "1", "a").insert("t", "2", "b").update("t", nil, "1", "a2")
	h.relations["t"] = key
	h.delete("t", "2")
	h.relations["t"] = whole
	h.insert("t", "2", "b2").update("t", row("1", absent{}), "3", "c")
	h.commit()
	_, err := h.applyWith(t, func(c *apply.Config) {
		name := schema.Name{Schema: "public", Name: "t"}
		table := c.Tables[name]
		table.Identity, table.IdentityColumns = schema.IdentityDefault, []string{"id"}
		c.Tables[name] = table
	}, "t")
	if err != nil {
		t.Fatal(err)
	}
	want(t, target, `SELECT t::text FROM t ORDER BY id`, "(2,b2)", "(3,c)")
}
