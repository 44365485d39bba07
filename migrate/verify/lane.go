package verify

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/slipway-db/slipway/postgres"
)

// lane is what one worker compares with: a session per side that reads chunks, and a second pair that looks at single
// rows while the first is in the middle of a result.
type lane struct {
	run                      *run
	source, target           *session
	sourceProbe, targetProbe *session
}

func newLane(r *run) *lane {
	return &lane{
		run:    r,
		source: &session{side: r.source}, target: &session{side: r.target},
		sourceProbe: &session{side: r.source}, targetProbe: &session{side: r.target},
	}
}

func (l *lane) close() {
	for _, s := range []*session{l.source, l.target, l.sourceProbe, l.targetProbe} {
		s.close()
	}
}

// both runs f for the two sides at the same time.
func both(f func(source bool) error) error {
	var other error
	var wait sync.WaitGroup
	wait.Go(func() { other = f(true) })
	own := f(false)
	wait.Wait()
	return errors.Join(other, own)
}

// fingerprint stands for a set of rows: their number and two order-free sums of 64-bit row hashes. Sums, not xor,
// because xor does not see an even number of equal rows.
type fingerprint struct {
	count int64
	a, b  string // exact sums as printed; empty for no rows
}

func readFingerprint(r row) (fingerprint, error) {
	count, err := r.int(0)
	return fingerprint{count: count, a: r.text(1), b: r.text(2)}, err
}

// hashes is the sub-query that gives the two hash halves of every row as h1 and h2, with extra expressions of the
// inner query (over t) passed through. OFFSET 0 keeps the planner from computing the row text once per use.
func (t *table) hashes(d dialect, s *side, where string, extra ...string) string {
	inner := append([]string{d.prehash(d.rowText(t.columns(s))) + " AS r"}, extra...)
	return "(SELECT " + strings.Join(inner, ", ") + " FROM " + t.sql(s) + where + " OFFSET 0) AS q"
}

func whereAll(conditions ...string) string {
	kept := conditions[:0:0]
	for _, c := range conditions {
		if c != "" {
			kept = append(kept, c)
		}
	}
	if len(kept) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(kept, " AND ")
}

// withDigests runs work with the table's dialect, and once more with long values replaced by their md5 when a server
// could not hold the text of a whole row.
func (t *table) withDigests(ctx context.Context, work func(dialect) error) error {
	err := attempt(ctx, func() error { return work(t.dialect) })
	if !tooLarge(err) {
		return err
	}
	d := t.dialect
	d.digest = true
	return attempt(ctx, func() error { return work(d) })
}

// tooLarge tells that a value or row exceeded a limit of the server. An allocation request beyond 1 GB is reported as
// an internal error.
func tooLarge(err error) bool {
	switch postgres.Code(err) {
	case "54000", "XX000", "53200":
		return true
	}
	return false
}

// rangeTask compares the chunk number n, which begins above the key lo (nil: at the very beginning), and queues the
// next one as soon as its boundary is known. The boundaries are the source's; the first and the last chunk are open,
// so that rows of the target outside the source's keys are seen.
func (t *table) rangeTask(n int64, lo []string) task {
	return func(ctx context.Context, l *lane) {
		if t.failed.Load() {
			return
		}
		hi, err := t.boundary(ctx, l, lo)
		if err != nil {
			t.fail(fmt.Errorf("find the end of chunk %d: %w", n, err))
			return
		}
		chosen := t.chosen(n) || hi == nil && !t.sampled
		t.sampled = t.sampled || chosen
		if hi != nil {
			t.push(t.rangeTask(n+1, hi))
		}
		if !chosen {
			t.skipChunk()
			return
		}
		if err := t.compareRange(ctx, l, lo, hi); err != nil {
			t.fail(fmt.Errorf("compare chunk %d: %w", n, err))
		}
	}
}

// boundary finds the key that ends the chunk after lo, nil when the chunk is the last.
func (t *table) boundary(ctx context.Context, l *lane, lo []string) ([]string, error) {
	columns := t.keyColumns(t.run.source)
	outputs, order := make([]string, len(columns)), make([]string, len(columns))
	for i, c := range columns {
		outputs[i], order[i] = attribute(c)+"::pg_catalog.text", attribute(c)
	}
	where := ""
	if lo != nil {
		where = whereAll(above(columns, lo))
	}
	sql := "SELECT " + strings.Join(outputs, ", ") + " FROM " + t.sql(t.run.source) + where +
		" ORDER BY " + strings.Join(order, ", ") + " OFFSET " + strconv.Itoa(t.run.ChunkRows-1) + " LIMIT 1"
	var rows []row
	err := attempt(ctx, func() (err error) {
		rows, err = l.source.query(ctx, sql)
		return err
	})
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	bound := make([]string, len(columns))
	for i := range bound {
		bound[i] = rows[0].text(i)
	}
	return bound, nil
}

func (t *table) compareRange(ctx context.Context, l *lane, lo, hi []string) error {
	filter := func(s *side) string {
		conditions := []string{}
		if lo != nil {
			conditions = append(conditions, above(t.keyColumns(s), lo))
		}
		if hi != nil {
			conditions = append(conditions, upTo(t.keyColumns(s), hi))
		}
		return whereAll(conditions...)
	}
	return t.withDigests(ctx, func(d dialect) error {
		var prints [2]fingerprint
		err := both(func(source bool) (err error) {
			s, i := l.target, 1
			if source {
				s, i = l.source, 0
			}
			a, b := d.halves("q.r")
			result, err := s.one(ctx, "SELECT pg_catalog.count(*), pg_catalog.sum("+a+"), pg_catalog.sum("+b+") FROM "+
				t.hashes(d, s.side, filter(s.side)))
			if err != nil {
				return err
			}
			prints[i], err = readFingerprint(result)
			return err
		})
		if err != nil {
			return err
		}
		found := tally{limit: t.run.MaxDifferences}
		if prints[0] != prints[1] {
			if found, err = t.narrow(ctx, l, d, filter, nil); err != nil {
				return err
			}
		}
		found.sourceRows, found.targetRows, found.chunks = prints[0].count, prints[1].count, 1
		t.add(found)
		return nil
	})
}
