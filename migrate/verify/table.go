package verify

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/slipway-db/slipway/migrate/schema"
)

// table is one table pair while it is compared.
type table struct {
	run            *run
	source, target relation
	// from and to are the columns that are compared, paired by name, in the source's order.
	from, to []column
	// key holds the positions in from and to of the key columns; empty without a usable key.
	key     []int
	dialect dialect
	// left counts the tasks that are waiting or running.
	left   atomic.Int64
	failed atomic.Bool
	// began is when the first chunk began, in Unix nanoseconds.
	began atomic.Int64
	// sampled tells that at least one chunk was chosen. Only the chain of boundaries touches it.
	sampled bool

	report TableReport // guarded by run.mu
}

func newTable(r *run, pair TablePair) *table {
	t := &table{run: r, dialect: newDialect(r.source, r.target)}
	t.source.name, t.target.name = pair.Source.Name, pair.Target
	t.report = TableReport{Name: pair.Source.Name, Target: pair.Target}
	return t
}

func bySize(tables []*table) []*table {
	sorted := slices.Clone(tables)
	// Ascending, because the queue gives the newest first.
	slices.SortStableFunc(sorted, func(a, b *table) int { return cmp.Compare(a.source.pages, b.source.pages) })
	return sorted
}

// plan decides how the table is compared and queues its first chunk, or concludes at once.
func (t *table) plan() {
	if reason := t.obstacle(); reason != "" {
		t.conclude(Different, reason)
		return
	}
	if reason := t.nothingToCompare(); reason != "" {
		t.conclude(Skipped, reason)
		return
	}
	if reason := t.pairColumns(); reason != "" {
		t.conclude(Different, reason)
		return
	}
	t.chooseKey()
	switch {
	case t.run.Mode == Rows:
		t.push(t.countTask)
	case t.ranged():
		t.push(t.rangeTask(0, nil))
	default:
		t.push(t.bucketTask)
	}
}

func (t *table) obstacle() string {
	switch {
	case !t.source.exists:
		return "the source has no such table"
	case !t.target.exists:
		return "the target has no such table"
	case t.source.kind == schema.MaterializedView && t.run.fence == nil && t.source.populated != t.target.populated:
		return "the materialized view is populated on one side only"
	case t.source.kind == schema.Ordinary && t.target.kind != schema.Ordinary && t.target.kind != schema.Partitioned:
		return "the target has a relation of another kind"
	}
	return ""
}

func (t *table) nothingToCompare() string {
	live := t.run.fence != nil
	switch {
	case t.source.kind == schema.Partitioned:
		return "a partitioned table holds no rows itself: its partitions are compared"
	case t.source.kind == schema.MaterializedView && !t.source.populated:
		return "the materialized view is not populated on either side"
	case t.source.kind == schema.MaterializedView && live:
		return "materialized views are refreshed at completion"
	case t.source.kind != schema.Ordinary && t.source.kind != schema.MaterializedView:
		return "not a relation that holds rows of its own"
	case t.source.unlogged && live:
		return "changes of an unlogged table are not in the stream"
	}
	return ""
}

// pairColumns pairs the columns by name; the order may differ.
func (t *table) pairColumns() string {
	missing := []string{}
	for _, c := range t.source.columns {
		other, ok := t.target.column(c.name)
		if !ok {
			missing = append(missing, c.name)
			continue
		}
		t.from, t.to = append(t.from, c), append(t.to, other)
		if c.sqlType != other.sqlType {
			t.dialect.foreign = true
			t.report.Notes = append(t.report.Notes,
				fmt.Sprintf("column %q is %s on the source and %s on the target", c.name, c.sqlType, other.sqlType))
		}
	}
	for _, c := range t.target.columns {
		if _, ok := t.source.column(c.name); !ok {
			t.report.Notes = append(t.report.Notes, fmt.Sprintf("column %q exists on the target only", c.name))
		}
	}
	if len(missing) > 0 {
		return "missing on the target: column " + strings.Join(missing, ", ")
	}
	t.plainPairs()
	return ""
}

// plainPairs makes both sides of a pair whose base types differ compare by plain text: bits of different types never
// agree.
func (t *table) plainPairs() {
	for i := range t.from {
		if t.from[i].base == t.to[i].base && t.from[i].element == t.to[i].element {
			continue
		}
		for _, c := range []*column{&t.from[i], &t.to[i]} {
			c.base, c.element, c.subtype, c.builtIn = "", "", "", false
		}
	}
}

// chooseKey takes the source's first key, which is the primary key if there is one, or the first one that can be
// walked by ranges on both sides.
func (t *table) chooseKey() {
	for _, k := range t.source.keys {
		positions := make([]int, len(k.columns))
		for i, name := range k.columns {
			positions[i] = slices.IndexFunc(t.from, func(c column) bool { return c.name == name })
		}
		if t.key == nil {
			t.key = positions
		}
		walkable := t.target.has(k)
		for _, p := range positions {
			walkable = walkable && isOrderable(t.from[p]) && isOrderable(t.to[p])
		}
		if walkable {
			t.key = positions
			return
		}
	}
}

// ranged tells whether the table is compared by ranges of its key.
func (t *table) ranged() bool {
	if len(t.key) == 0 {
		return false
	}
	names := make([]string, len(t.key))
	for i, p := range t.key {
		names[i] = t.from[p].name
		if !isOrderable(t.from[p]) || !isOrderable(t.to[p]) {
			return false
		}
	}
	return t.target.has(key{columns: names})
}

// columns are the compared columns on one side, keyColumns those of the key.
func (t *table) columns(s *side) []column {
	if s == t.run.source {
		return t.from
	}
	return t.to
}

func (t *table) keyColumns(s *side) []column {
	columns := make([]column, len(t.key))
	for i, p := range t.key {
		columns[i] = t.columns(s)[p]
	}
	return columns
}

// sql is the table on one side as statements name it: without its inheritance children, under the alias t.
func (t *table) sql(s *side) string {
	if s == t.run.source {
		return "ONLY " + t.source.name.SQL() + " AS t"
	}
	if t.target.kind == schema.Partitioned {
		return t.target.name.SQL() + " AS t"
	}
	return "ONLY " + t.target.name.SQL() + " AS t"
}

// push queues one task of the table and keeps count of what is left.
func (t *table) push(work task) {
	t.left.Add(1)
	t.run.queue.push(func(ctx context.Context, l *lane) {
		t.began.CompareAndSwap(0, time.Now().UnixNano())
		work(ctx, l)
		if t.left.Add(-1) == 0 {
			t.ended()
		}
	})
}

func (t *table) ended() {
	t.run.mu.Lock()
	defer t.run.mu.Unlock()
	t.report.Duration = time.Since(time.Unix(0, t.began.Load()))
	t.run.progress.TablesDone++
}

// fail records why the table could not be compared; its first error stays.
func (t *table) fail(err error) {
	t.failed.Store(true)
	t.run.mu.Lock()
	defer t.run.mu.Unlock()
	if t.report.Err == "" {
		t.report.Err = err.Error()
	}
}

func (t *table) conclude(result Result, reason string) {
	t.run.mu.Lock()
	defer t.run.mu.Unlock()
	t.report.Result, t.report.Reason = result, reason
	t.run.progress.TablesDone++
}

// finish gives the table's report once no task runs any more. stopped is why the comparison ended early, if it did.
func (t *table) finish(stopped error) TableReport {
	t.run.mu.Lock()
	defer t.run.mu.Unlock()
	r := &t.report
	if r.Result != "" {
		return *r
	}
	switch {
	case stopped != nil && t.left.Load() > 0 && r.Err == "":
		r.Err = "stopped before the table was compared: " + stopped.Error()
	case r.Unsettled > 0 && r.Err == "":
		r.Err = fmt.Sprintf("%d rows were written faster than they could be compared: compare again", r.Unsettled)
	case r.Chunks == 0 && r.Err == "":
		r.Err = "no chunk was compared"
	}
	switch {
	case r.Err != "":
		r.Result = Failed
	case r.Missing+r.Extra+r.Different > 0 || r.SourceRows != r.TargetRows && t.run.fence == nil:
		r.Result = Different
	default:
		r.Result = Same
	}
	return *r
}

// chosen tells whether chunk n belongs to the sample: by hash, so that the same seed chooses the same chunks.
func (t *table) chosen(n int64) bool {
	if t.run.Mode != Sample {
		return true
	}
	h := fnv.New64a()
	var numbers [16]byte
	binary.BigEndian.PutUint64(numbers[:8], t.run.Seed)
	binary.BigEndian.PutUint64(numbers[8:], uint64(n))
	_, _ = h.Write([]byte(t.source.name.Schema + "\x00" + t.source.name.Name + "\x00"))
	_, _ = h.Write(numbers[:])
	// Mix once more: FNV's last bytes hardly reach the high bits.
	mixed := h.Sum64()
	mixed ^= mixed >> 32
	mixed *= 0x9E3779B97F4A7C15
	mixed ^= mixed >> 29
	return float64(mixed%1_000_000) < t.run.SampleRate*10_000
}
