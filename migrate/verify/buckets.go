package verify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

const (
	// bucketRows is about how many rows share a bucket, maxBuckets bounds the answer of one scan.
	bucketRows = 1000
	maxBuckets = 1 << 16
	// sampleBuckets are at least made for a sample, so that a share of them can be chosen.
	sampleBuckets = 1 << 8
	// maxListed is how many differing buckets a statement names; with more, all rows are read again.
	maxListed = 200
)

// bucketTask compares a table whose key is missing or cannot be walked in one order on both sides: one scan per side
// puts each row into a bucket by the hash of its key (of the whole row without a key) and adds up each bucket.
func (t *table) bucketTask(ctx context.Context, l *lane) {
	count := t.buckets()
	err := t.withDigests(ctx, func(d dialect) error {
		var sides [2]map[int64]fingerprint
		err := both(func(source bool) (err error) {
			s, i := l.target, 1
			if source {
				s, i = l.source, 0
			}
			sides[i], err = t.scanBuckets(ctx, s, d, count)
			return err
		})
		if err != nil {
			return err
		}
		found, differing := t.compareBuckets(sides[0], sides[1])
		if len(differing) > 0 {
			narrowed, err := t.narrow(ctx, l, d, func(*side) string { return "" }, &bucketSet{count: count, chosen: differing})
			if err != nil {
				return err
			}
			narrowed.sourceRows, narrowed.targetRows = found.sourceRows, found.targetRows
			narrowed.chunks, narrowed.left = found.chunks, found.left
			found = narrowed
		}
		t.add(found)
		return nil
	})
	if err != nil {
		t.fail(fmt.Errorf("compare by hash buckets: %w", err))
	}
}

// buckets is a power of two for the table's size, so that a bucket is cut out by a mask.
func (t *table) buckets() int64 {
	rows := t.source.rows
	if rows < 0 {
		rows = t.source.pages * 50
	}
	count := int64(1)
	if t.run.Mode == Sample {
		count = sampleBuckets
	}
	for count < rows/bucketRows && count < maxBuckets {
		count *= 2
	}
	return count
}

// identity is the expression that the inner query must give as k for rows to be told apart, "" when it is the row.
func (t *table) identity(d dialect, s *side) string {
	if len(t.key) == 0 {
		return ""
	}
	return d.prehash(d.rowText(t.keyColumns(s)))
}

func (t *table) scanBuckets(ctx context.Context, s *session, d dialect, count int64) (map[int64]fingerprint, error) {
	a, b := d.halves("q.r")
	bucket, extra := a, []string{}
	if identity := t.identity(d, s.side); identity != "" {
		bucket, _ = d.halves("q.k")
		extra = append(extra, identity+" AS k")
	}
	sql := fmt.Sprintf(`SELECT pg_catalog.count(*), pg_catalog.sum(%s), pg_catalog.sum(%s), (%s) & %d FROM %s GROUP BY 4`,
		a, b, bucket, count-1, t.hashes(d, s.side, "", extra...))
	prints := map[int64]fingerprint{}
	err := s.stream(ctx, sql, func(r row) error {
		print, err := readFingerprint(r)
		if err != nil {
			return err
		}
		number, err := r.int(3)
		prints[number] = print
		return err
	})
	return prints, err
}

// compareBuckets counts the chosen buckets and names those that differ, in ascending order.
func (t *table) compareBuckets(source, target map[int64]fingerprint) (tally, []int64) {
	found, differing := tally{limit: t.run.MaxDifferences}, []int64{}
	all := maps.Clone(source)
	maps.Copy(all, target)
	numbers := slices.Sorted(maps.Keys(all))
	for i, n := range numbers {
		if !t.chosen(n) && (i < len(numbers)-1 || found.chunks > 0) {
			found.left++
			continue
		}
		found.chunks++
		found.sourceRows += source[n].count
		found.targetRows += target[n].count
		if source[n] != target[n] {
			differing = append(differing, n)
		}
	}
	if len(numbers) == 0 {
		found.chunks = 1 // both sides were read and are empty
	}
	return found, differing
}

// bucketSet restricts rows to chosen buckets.
type bucketSet struct {
	count  int64
	chosen []int64
}

// condition is SQL over the first hash half of the identity; "" when the list would be too long.
func (b *bucketSet) condition(half string) string {
	if b == nil || len(b.chosen) > maxListed {
		return ""
	}
	numbers := make([]string, len(b.chosen))
	for i, n := range b.chosen {
		numbers[i] = strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("(%s) & %d IN (%s)", half, b.count-1, strings.Join(numbers, ", "))
}

// holds tells whether an identity with that first hash half is in a chosen bucket.
func (b *bucketSet) holds(half int64) bool {
	if b == nil {
		return true
	}
	_, found := slices.BinarySearch(b.chosen, half&(b.count-1))
	return found
}
