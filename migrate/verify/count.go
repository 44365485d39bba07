package verify

import (
	"context"
	"fmt"
)

// countTask compares the numbers of rows. While changes stream, counts that differ, or that cannot be taken at rest,
// are settled by comparing the table's rows, because only these tell a lost row from one on its way.
func (t *table) countTask(ctx context.Context, l *lane) {
	source, target, settled, err := t.counts(ctx, l)
	if err != nil {
		t.fail(fmt.Errorf("count rows: %w", err))
		return
	}
	if t.run.fence != nil && (!settled || source != target) {
		if t.ranged() {
			t.push(t.rangeTask(0, nil))
		} else {
			t.push(t.bucketTask)
		}
		return
	}
	found := tally{sourceRows: source, targetRows: target, chunks: 1}
	found.missing, found.extra = max(0, source-target), max(0, target-source)
	t.add(found)
}

// counts counts both sides. While changes stream, equal counts of different moments prove nothing (a lost row and a
// new one cancel out), so the source must not have been written between a count before and a count after the target
// was counted behind a fence.
func (t *table) counts(ctx context.Context, l *lane) (source, target int64, settled bool, err error) {
	if t.run.fence == nil {
		first, err := t.census(ctx, l.source)
		if err != nil {
			return 0, 0, false, err
		}
		second, err := t.census(ctx, l.target)
		return first.rows, second.rows, err == nil, err
	}
	for range t.run.Recheck {
		before, err := t.census(ctx, l.source)
		if err != nil {
			return 0, 0, false, err
		}
		position, err := l.source.position(ctx)
		if err != nil {
			return 0, 0, false, err
		}
		if err := t.run.fence.wait(ctx, position); err != nil {
			return 0, 0, false, err
		}
		counted, err := t.census(ctx, l.target)
		if err != nil {
			return 0, 0, false, err
		}
		after, err := t.census(ctx, l.source)
		if err != nil {
			return 0, 0, false, err
		}
		if before == after {
			return before.rows, counted.rows, true, nil
		}
	}
	return 0, 0, false, nil
}

// census is the number of rows and the sum of the transactions that wrote them. Every write leaves a newer
// transaction in place of an older one, adds one or takes one away, so no write leaves both numbers as they are.
type census struct {
	rows    int64
	writers string
}

func (t *table) census(ctx context.Context, s *session) (census, error) {
	writers := "0"
	if t.run.fence != nil {
		writers = "pg_catalog.sum(t.xmin::pg_catalog.text::pg_catalog.int8)"
	}
	var found census
	err := attempt(ctx, func() error {
		r, err := s.one(ctx, "SELECT pg_catalog.count(*), "+writers+" FROM "+t.sql(s.side))
		if err != nil {
			return err
		}
		found.writers = r.text(1)
		found.rows, err = r.int(0)
		return err
	})
	return found, err
}
