package snapshot_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/snapshot"
)

func show(parts []snapshot.Part) []string {
	list := make([]string, len(parts))
	bound := func(n *int64) string {
		if n == nil {
			return ""
		}
		return fmt.Sprint(*n)
	}
	for i, p := range parts {
		list[i] = fmt.Sprintf("%s %d/%d %s[%s,%s) plain=%t", p.Table.Name.Name, p.Number, p.Of, p.Range.Key, bound(p.Range.From), bound(p.Range.To), p.Plain)
	}
	return list
}

func TestPlanParts(t *testing.T) {
	const extremes = `INSERT INTO keyed SELECT k, repeat('x', 1500) FROM unnest(ARRAY[-9223372036854775808, 9223372036854775807]) k;
		INSERT INTO keyed SELECT g, repeat('x', 1500) FROM generate_series(1, 1000) g`
	for _, c := range []struct {
		name, structure, data string
		options               snapshot.PlanOptions
		want                  []string
	}{
		{
			"small tables are whole, parents have no rows",
			`CREATE TABLE parent (a int) PARTITION BY LIST (a); CREATE TABLE leaf PARTITION OF parent DEFAULT`, ``,
			snapshot.PlanOptions{},
			[]string{"leaf 1/1 [,) plain=false"},
		},
		{
			"blocks", `CREATE TABLE t (a text) WITH (fillfactor = 10)`,
			`INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 10)`,
			snapshot.PlanOptions{SplitBytes: 40000},
			[]string{"t 1/3 [,3) plain=true", "t 2/3 [3,6) plain=true", "t 3/3 [6,) plain=true"},
		},
		{
			"values out of line cannot be split finer than blocks", `CREATE TABLE t (a text); ALTER TABLE t ALTER a SET STORAGE EXTERNAL`,
			`INSERT INTO t VALUES (repeat('x', 1000000))`,
			snapshot.PlanOptions{SplitBytes: 100000},
			[]string{"t 1/1 [,) plain=false"},
		},
		{
			"keys over the whole range of their type", `CREATE TABLE keyed (k bigint PRIMARY KEY, t text); ALTER TABLE keyed ALTER t SET STORAGE PLAIN`,
			extremes,
			snapshot.PlanOptions{SplitBytes: 1 << 20, SourceVersion: 130000},
			[]string{"keyed 1/2 k[,-1) plain=true", "keyed 2/2 k[-1,) plain=true"},
		},
		{
			"keys by histogram", `CREATE TABLE keyed (k bigint PRIMARY KEY, t text); ALTER TABLE keyed ALTER t SET STORAGE PLAIN`,
			extremes + `; ANALYZE keyed`,
			snapshot.PlanOptions{SplitBytes: 1 << 20, SourceVersion: 130000},
			[]string{"keyed 1/2 k[,500) plain=true", "keyed 2/2 k[500,) plain=true"},
		},
		{
			"no integer key", `CREATE TABLE t (k text PRIMARY KEY, t text); ALTER TABLE t ALTER t SET STORAGE PLAIN`,
			`INSERT INTO t SELECT g, repeat('x', 1500) FROM generate_series(1, 1000) g`,
			snapshot.PlanOptions{SplitBytes: 1 << 20, SourceVersion: 130000},
			[]string{"t 1/1 [,) plain=false"},
		},
		{
			"largest first", `CREATE TABLE a (t text); CREATE TABLE b (t text); CREATE TABLE c (t text)`,
			`INSERT INTO b SELECT 'x' FROM generate_series(1, 10000); INSERT INTO c SELECT 'x' FROM generate_series(1, 1000)`,
			snapshot.PlanOptions{},
			[]string{"b 1/1 [,) plain=false", "c 1/1 [,) plain=false", "a 1/1 [,) plain=false"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := setUp(t, c.structure, c.data)
			if c.options.SourceVersion == 0 {
				c.options.SourceVersion = 140000
			}
			j.plan(t, true, c.options)
			if diff := cmp.Diff(c.want, show(j.config.Parts)); diff != "" {
				t.Error(diff)
			}
			j.run(t)
			for _, p := range j.config.Parts {
				j.equal(t, contents(p.Target.SQL()))
			}
		})
	}
}

func TestPlanParts_OtherTarget(t *testing.T) {
	j := setUp(t, `CREATE TABLE here (a int)`, `INSERT INTO here VALUES (1)`)
	j.pair.Target.Exec(t, `CREATE SCHEMA other; CREATE TABLE other.there (a int)`)
	j.plan(t, true, snapshot.PlanOptions{Target: func(schema.Name) schema.Name { return schema.Name{Schema: "other", Name: "there"} }})
	j.run(t)
	if n := j.pair.Target.Int(t, `SELECT count(*) FROM other.there`); n != 1 {
		t.Errorf("%d rows", n)
	}
}
