package apply_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate/apply"
	"github.com/slipway-db/slipway/pgtest"
)

func want(t *testing.T, d *pgtest.Database, sql string, rows ...string) {
	t.Helper()
	got := d.Strings(t, sql)
	if len(got) == 0 && len(rows) == 0 {
		return
	}
	if diff := cmp.Diff(rows, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", sql, diff)
	}
}

// TestRun_EveryKindOfChange applies each kind of change, folded and with batches of one transaction.
func TestRun_EveryKindOfChange(t *testing.T) {
	for _, size := range []int{1, 2, 1000} {
		target := pgtest.NewPair(t).Target
		setUp(t, target, `CREATE TABLE a (id int PRIMARY KEY, v text, n numeric(10,2))`, `CREATE TABLE b (x int, y int, PRIMARY KEY (y, x))`)
		h := newHistory(t, target)
		h.begin().insert("a", "1", "one", "1.50").insert("a", "2", "", nil).insert("b", "1", "2").commit()
		h.begin().update("a", nil, "1", "uno", "1.50").insert("a", "3", "three", "3.00").commit()
		h.begin().update("a", row("3", absent{}, absent{}), "4", "four", "3.00").delete("a", "2", absent{}, absent{}).commit()
		h.begin().update("b", nil, "1", "2").insert("b", "7", "7").commit()
		h.begin().update("b", row("7", "7"), "8", "7").commit()
		h.begin().insert("a", "2", "again", "0.10").delete("a", "1", absent{}, absent{}).insert("a", "1", "back", nil).commit()
		stats, err := h.applyWith(t, func(c *apply.Config) { c.BatchTransactions = size }, "a", "b")
		if err != nil {
			t.Fatal(err)
		}
		want(t, target, `SELECT a::text FROM a ORDER BY id`, "(1,back,)", "(2,again,0.10)", "(4,four,3.00)")
		want(t, target, `SELECT b::text FROM b ORDER BY x`, "(1,2)", "(8,7)")
		if recorded(t, target) != h.lsn || stats.Applied != h.lsn || stats.Durable != h.lsn || stats.Transactions != 6 {
			t.Errorf("recorded %s, stats %+v, want %s", recorded(t, target), stats, h.lsn)
		}
		if counts := (apply.Counts{Inserts: 7, Updates: 4, Deletes: 2}); stats.Counts != counts {
			t.Errorf("counted %+v, want %+v", stats.Counts, counts)
		}
		if stats.Replays != 0 {
			t.Errorf("%d batches were written change by change, want none", stats.Replays)
		}
	}
}
