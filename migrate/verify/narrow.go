package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
)

// hash128 is the hash of a row or of its key.
type hash128 struct{ a, b int64 }

func (h hash128) compare(other hash128) int {
	if h.a != other.a {
		if h.a < other.a {
			return -1
		}
		return 1
	}
	switch {
	case h.b < other.b:
		return -1
	case h.b > other.b:
		return 1
	}
	return 0
}

// entry is one row, or in a table without a key all equal rows of it.
type entry struct {
	identity, row hash128
	count         int64
	key           []string // texts of the key columns; in a table without a key, one ctid
}

// suspect is a key (or, without a key, a row) that does not have the same rows on both sides, as far as seen.
type suspect struct {
	identity       hash128
	key            []string
	source, target map[hash128]int64 // rows by hash
}

// suspectBatch is how many suspects are looked into together. Without a key each look is a scan, so more share one.
const (
	suspectBatch        = 200
	suspectBatchKeyless = 5000
)

// narrow reads the rows of a differing chunk from both sides in the order of their hashed keys, walks both in step
// with bounded memory, and looks into what differs. filter gives the chunk's WHERE on a side.
func (t *table) narrow(
	ctx context.Context, l *lane, d dialect, filter func(*side) string, buckets *bucketSet,
) (tally, error) {
	found := tally{limit: t.run.MaxDifferences}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	source := t.entries(ctx, l.source, d, filter(t.run.source), buckets)
	target := t.entries(ctx, l.target, d, filter(t.run.target), buckets)
	// Both readers use the lane's sessions, so they must have ended before this returns.
	defer func() { cancel(); source.drain(); target.drain() }()

	limit, batch := suspectBatch, []*suspect{}
	if len(t.key) == 0 {
		limit = suspectBatchKeyless
	}
	settle := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := t.settle(ctx, l, d, batch, &found)
		batch = batch[:0:0]
		return err
	}
	err := mergeEntries(source, target, func(s *suspect) error {
		if batch = append(batch, s); len(batch) < limit {
			return nil
		}
		return settle()
	})
	if err == nil {
		err = settle()
	}
	return found, err
}

// entryReader is one side's stream of entries in ascending order of identity.
type entryReader struct {
	entries chan entry
	err     error // set before entries is closed
	next    entry
	more    bool
}

// entries starts to read; the channel bounds how far one side runs ahead of the other.
func (t *table) entries(ctx context.Context, s *session, d dialect, where string, buckets *bucketSet) *entryReader {
	reader := &entryReader{entries: make(chan entry, 64)}
	sql := t.entrySQL(s.side, d, where, buckets)
	go func() {
		defer close(reader.entries)
		reader.err = s.stream(ctx, sql, func(r row) error {
			e, err := readEntry(r)
			if err != nil || !buckets.holds(e.identity.a) {
				return err
			}
			select {
			case reader.entries <- e:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}()
	return reader
}

func (t *table) entrySQL(s *side, d dialect, where string, buckets *bucketSet) string {
	a, b := d.halves("q.r")
	if len(t.key) == 0 {
		return fmt.Sprintf(`SELECT h1, h2, h1, h2, pg_catalog.count(*), pg_catalog.min(c) FROM (SELECT %s AS h1, %s AS h2, q.c FROM %s%s) AS h
			GROUP BY h1, h2 ORDER BY h1, h2`, a, b,
			t.hashes(d, s, where, "t.ctid::pg_catalog.text AS c"), whereAll(buckets.condition(a)))
	}
	ka, kb := d.halves("q.k")
	extra, outputs := []string{t.identity(d, s) + " AS k"}, ""
	for i, c := range t.keyColumns(s) {
		extra = append(extra, fmt.Sprintf("pg_catalog.format('%%s', %s) AS k%d", attribute(c), i))
		outputs += fmt.Sprintf(", q.k%d", i)
	}
	return fmt.Sprintf(`SELECT %s, %s, %s, %s, 1%s FROM %s%s ORDER BY 1, 2, 3, 4`, ka, kb, a, b, outputs,
		t.hashes(d, s, where, extra...), whereAll(buckets.condition(ka)))
}

func readEntry(r row) (entry, error) {
	numbers := [5]int64{}
	for i := range numbers {
		var err error
		if numbers[i], err = strconv.ParseInt(string(r[i]), 10, 64); err != nil {
			return entry{}, err
		}
	}
	e := entry{identity: hash128{numbers[0], numbers[1]}, row: hash128{numbers[2], numbers[3]}, count: numbers[4]}
	for _, value := range r[5:] {
		e.key = append(e.key, string(value))
	}
	return e, nil
}

// step moves on to the next entry.
func (r *entryReader) step() error {
	r.next, r.more = <-r.entries
	if !r.more {
		return r.err
	}
	return nil
}

func (r *entryReader) drain() {
	for more := true; more; {
		_, more = <-r.entries
	}
}

// take moves all entries of one identity into rows and gives their key.
func (r *entryReader) take(identity hash128, rows map[hash128]int64) (key []string, err error) {
	for r.more && r.next.identity == identity {
		key = r.next.key
		rows[r.next.row] += r.next.count
		if err := r.step(); err != nil {
			return nil, err
		}
	}
	return key, nil
}

// mergeEntries walks both sides in step and gives each identity whose rows are not the same to f.
func mergeEntries(source, target *entryReader, f func(*suspect) error) error {
	if err := errors.Join(source.step(), target.step()); err != nil {
		return err
	}
	for source.more || target.more {
		at := source.next.identity
		if !source.more || target.more && target.next.identity.compare(at) < 0 {
			at = target.next.identity
		}
		s := &suspect{identity: at, source: map[hash128]int64{}, target: map[hash128]int64{}}
		sourceKey, err := source.take(at, s.source)
		if err != nil {
			return err
		}
		targetKey, err := target.take(at, s.target)
		if err != nil {
			return err
		}
		if maps.Equal(s.source, s.target) {
			continue
		}
		// Both sides give the same key; without a key, the ctid is of the side that has more of the row.
		if s.key = sourceKey; rowsIn(s.target) > rowsIn(s.source) {
			s.key = targetKey
		}
		if err := f(s); err != nil {
			return err
		}
	}
	return nil
}

// keyOf names the row of a suspect for people.
func (t *table) keyOf(s *suspect) map[string]string {
	if len(t.key) == 0 {
		return map[string]string{"ctid": strings.Join(s.key, "")}
	}
	named := make(map[string]string, len(t.key))
	for i, p := range t.key {
		named[t.from[p].name] = s.key[i]
	}
	return named
}

func rowsIn(m map[hash128]int64) (n int64) {
	for _, count := range m {
		n += count
	}
	return n
}
