package verify

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"
)

// sighting is what one look at one side found for a suspect: its rows by hash, and the versions of these rows. Two
// sightings with the same versions prove that nothing wrote the rows between them.
type sighting struct {
	rows     map[hash128]int64
	versions string
}

func (s sighting) same(other sighting) bool { return maps.Equal(s.rows, other.rows) }

// untouched tells that both sightings are of the same row versions. Of absent rows it proves nothing.
func (s sighting) untouched(later sighting) bool {
	return s.versions != "" && s.versions == later.versions
}

// open is a suspect that is neither cleared nor proven yet.
type open struct {
	*suspect
	// seen are the states in which the source had the suspect since it was first looked at. The target may show any
	// of them: it follows behind.
	seen   []sighting
	proofs int
	source sighting
	target sighting
}

const (
	// extraRounds are looked at beyond the proofs that a difference needs, before a suspect counts as unsettled.
	extraRounds = 8
	// maxSeen bounds the states kept per suspect.
	maxSeen = 1000
)

// settle looks at suspects again until each is cleared, proven different, or has shown that it never rests.
func (t *table) settle(ctx context.Context, l *lane, d dialect, batch []*suspect, found *tally) error {
	waiting := make([]*open, len(batch))
	for i, s := range batch {
		waiting[i] = &open{suspect: s}
	}
	if t.run.fence == nil && !(d.foreign && len(t.key) > 0) {
		// At rest the chunk itself was the look. Only keys that the sides may print differently are looked up again,
		// so that each finds its partner.
		for _, o := range waiting {
			o.source, o.target = sighting{rows: o.suspect.source}, sighting{rows: o.suspect.target}
		}
		return t.classify(ctx, l, d, waiting, found)
	}
	proven := []*open{}
	needed, rounds := 1, 1
	if t.run.fence != nil {
		needed, rounds = t.run.Recheck, t.run.Recheck+extraRounds
	}
	for round := 0; round < rounds && len(waiting) > 0; round++ {
		if round > 0 {
			rest, err := t.watch(ctx, l, d, waiting)
			if err != nil {
				return err
			}
			waiting = rest
		}
		rest, err := t.look(ctx, l, d, waiting)
		if err != nil {
			return err
		}
		waiting = waiting[:0:0]
		for _, o := range rest {
			if o.proofs >= needed {
				proven = append(proven, o)
			} else {
				waiting = append(waiting, o)
			}
		}
	}
	for _, o := range waiting {
		found.note(Difference{Kind: RowUnsettled, Key: t.keyOf(o.suspect)}, 1)
	}
	return t.classify(ctx, l, d, proven, found)
}

// look reads the suspects once on both sides and gives back those that still differ, with one more proof where there
// is one. At rest one look is the proof. Otherwise:
//
//   - if the source's rows were not written between a look before and a look after the target was read, and the target
//     had applied all that the first look saw, then the target had to show these rows;
//   - if the target's rows were not written between a look before and a look after it applied all that the source
//     showed in between, then these rows are what it has for that state of the source.
func (t *table) look(ctx context.Context, l *lane, d dialect, suspects []*open) ([]*open, error) {
	if len(suspects) == 0 {
		return nil, nil
	}
	live := t.run.fence != nil
	var before, first, after, last map[hash128]sighting
	var err error
	if live {
		if before, err = t.sight(ctx, l.targetProbe, d, suspects); err != nil {
			return nil, err
		}
	}
	if first, err = t.sight(ctx, l.sourceProbe, d, suspects); err != nil {
		return nil, err
	}
	if live {
		position, err := l.sourceProbe.position(ctx)
		if err != nil {
			return nil, err
		}
		if err := t.run.fence.wait(ctx, position); err != nil {
			return nil, err
		}
	}
	if after, err = t.sight(ctx, l.targetProbe, d, suspects); err != nil {
		return nil, err
	}
	if last = first; live {
		if last, err = t.sight(ctx, l.sourceProbe, d, suspects); err != nil {
			return nil, err
		}
	}
	rest := []*open{}
	for _, o := range suspects {
		id := o.identity
		o.saw(first[id])
		o.saw(last[id])
		if o.cleared(after[id]) {
			continue
		}
		o.source, o.target = first[id], after[id]
		if !live || first[id].untouched(last[id]) || before[id].untouched(after[id]) {
			o.proofs++
		}
		rest = append(rest, o)
	}
	return rest, nil
}

// watch looks at suspects in quick turns for the recheck interval. A row that is written many times a second is
// cleared here: some state that the target shows is one that the source was seen in.
func (t *table) watch(ctx context.Context, l *lane, d dialect, suspects []*open) ([]*open, error) {
	until := time.Now().Add(t.run.RecheckInterval)
	hot := []*open{}
	for _, o := range suspects {
		if o.proofs == 0 {
			hot = append(hot, o)
		}
	}
	cleared := map[*open]bool{}
	for len(hot) > 0 && time.Now().Before(until) {
		source, err := t.sight(ctx, l.sourceProbe, d, hot)
		if err != nil {
			return nil, err
		}
		target, err := t.sight(ctx, l.targetProbe, d, hot)
		if err != nil {
			return nil, err
		}
		rest := hot[:0:0]
		for _, o := range hot {
			o.saw(source[o.identity])
			if o.cleared(target[o.identity]) {
				cleared[o] = true
			} else {
				rest = append(rest, o)
			}
		}
		hot = rest
	}
	rest := []*open{}
	for _, o := range suspects {
		if !cleared[o] {
			rest = append(rest, o)
		}
	}
	return rest, sleep(ctx, time.Until(until))
}

func (o *open) saw(s sighting) {
	if len(o.seen) < maxSeen && !o.cleared(s) {
		o.seen = append(o.seen, s)
	}
}

// cleared tells whether the target shows a state that the source was seen in.
func (o *open) cleared(target sighting) bool {
	for _, s := range o.seen {
		if s.same(target) {
			return true
		}
	}
	return false
}

// sight reads the rows of the suspects on one side. A suspect without rows is not in the answer.
func (t *table) sight(ctx context.Context, s *session, d dialect, suspects []*open) (map[hash128]sighting, error) {
	var rows []row
	err := attempt(ctx, func() (err error) {
		rows, err = s.query(ctx, t.sightSQL(s.side, d, suspects))
		return err
	})
	if err != nil {
		return nil, err
	}
	seen := map[hash128]sighting{}
	for _, r := range rows {
		numbers := [4]int64{}
		for i := range numbers {
			if numbers[i], err = r.int(i); err != nil {
				return nil, err
			}
		}
		id := hash128{numbers[1], numbers[2]}
		if len(t.key) > 0 {
			id = suspects[numbers[0]].identity
		}
		known, ok := seen[id]
		if !ok {
			known.rows = map[hash128]int64{}
		}
		known.rows[hash128{numbers[1], numbers[2]}] += numbers[3]
		known.versions += r.text(4) + ";"
		seen[id] = known
	}
	return seen, nil
}

func (t *table) sightSQL(s *side, d dialect, suspects []*open) string {
	a, b := d.halves("q.r")
	const grouped = `SELECT n, h1, h2, pg_catalog.count(*), ` + versionSum + `
		FROM (SELECT %s AS n, %s AS h1, %s AS h2, q.v FROM %s) AS h GROUP BY n, h1, h2 ORDER BY n, h1, h2`
	extra := []string{rowVersion + " AS v"}
	if len(t.key) == 0 {
		halves := make([]string, len(suspects))
		for i, o := range suspects {
			halves[i] = fmt.Sprint(o.identity.a)
		}
		return fmt.Sprintf(grouped, "0", a, b,
			t.hashes(d, s, "", extra...)+" WHERE "+a+" IN ("+strings.Join(halves, ", ")+")")
	}
	keys := make([][]string, len(suspects))
	for i, o := range suspects {
		keys[i] = o.key
	}
	inner := append([]string{d.prehash(d.rowText(t.columns(s))) + " AS r", "w.n"}, extra...)
	return fmt.Sprintf(grouped, "q.n", a, b,
		"(SELECT "+strings.Join(inner, ", ")+" FROM "+t.joinKeys(s, keys)+" OFFSET 0) AS q")
}

// joinKeys is a FROM list that finds the rows with the given keys by an index where there is one; w.n is the position
// of the key in the list.
func (t *table) joinKeys(s *side, keys [][]string) string {
	columns := t.keyColumns(s)
	values, names, conditions := make([]string, len(keys)), []string{"n"}, make([]string, len(columns))
	for i, c := range columns {
		names = append(names, fmt.Sprintf("k%d", i))
		left := attribute(c)
		if !c.hasSystemEquality() {
			left = plainText(left)
		}
		conditions[i] = fmt.Sprintf("%s = w.k%d", left, i)
	}
	for n, key := range keys {
		fields := []string{fmt.Sprint(n)}
		for i, c := range columns {
			if c.hasSystemEquality() {
				fields = append(fields, literal(c, key[i]))
			} else {
				fields = append(fields, literal(column{sqlType: "pg_catalog.text"}, key[i]))
			}
		}
		values[n] = "(" + strings.Join(fields, ", ") + ")"
	}
	return "(VALUES " + strings.Join(values, ", ") + ") AS w(" + strings.Join(names, ", ") + ") JOIN " + t.sql(s) +
		" ON " + strings.Join(conditions, " AND ")
}

// hasSystemEquality tells whether = of pg_catalog compares values of the type. Types of extensions have an operator
// of their own, which our sessions do not look for.
func (c column) hasSystemEquality() bool {
	return c.builtIn || c.typtype == 'e' || c.typtype == 'r' || c.typtype == 'c' || c.element != ""
}
