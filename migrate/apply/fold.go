package apply

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/slipway-db/slipway/migrate/stream"
)

// step is a part of a batch that is written at one go. The steps of one table are in order; steps of different tables
// do not depend on each other, since nothing fires and all become visible together.
type step struct {
	bind *binding // nil for a truncation
	// Exactly one of these is set: rows folded per key, rows inserted into a table without key, or changes that are
	// written one by one.
	group   *group
	inserts []*change
	ordered []*change
}

// group holds at most one net effect per key.
type group struct {
	rows  map[string]*row
	order []*row // by first appearance
}

// row is the net effect on one key. Deleting runs before updating, updating before inserting, so a row that is
// deleted and inserted again is simply both.
type row struct {
	key    string
	values []stream.Value // of the key, in the binding's key order
	delete bool
	update []stream.Value // of a row that was there before the batch; Unchanged and Absent where it stays
	insert []stream.Value
	gone   bool // known not to exist at this point of the batch
	owned  bool // update or insert is a copy of ours and may be written to
}

// errUnfoldable says that the changes of a key contradict each other, such as two inserts. Written one by one they
// either work out after all or name the change that does not.
var errUnfoldable = errors.New("changes of one key contradict each other")

// fold turns changes into steps. Tables for which ordered says so, and those whose changes cannot be folded, are
// written change by change.
func fold(changes []change, ordered func(*target) bool) []*step {
	plain := map[*target]bool{}
	for {
		f := &folder{open: map[*target]*step{}, ordered: func(t *target) bool { return plain[t] || ordered(t) }}
		failed := f.addAll(changes)
		if failed == nil {
			return f.steps
		}
		plain[failed] = true
	}
}

type folder struct {
	steps   []*step
	open    map[*target]*step // the last step of each table, if more can be added to it
	ordered func(*target) bool
	scratch []byte
}

// addAll returns the table whose changes cannot be folded, nil when all could.
func (f *folder) addAll(changes []change) *target {
	for i := range changes {
		if err := f.add(&changes[i]); err != nil {
			return changes[i].bind.target
		}
	}
	return nil
}

func (f *folder) add(c *change) error {
	if c.kind == stream.Truncate {
		for _, t := range c.truncate.tables {
			delete(f.open, t)
		}
		f.steps = append(f.steps, &step{ordered: []*change{c}})
		return nil
	}
	b := c.bind
	switch {
	case b.ordered || f.ordered(b.target):
		f.addOrdered(c)
		return nil
	case len(b.key) == 0:
		if c.kind == stream.Insert {
			f.addInsert(c)
		} else {
			f.addOrdered(c)
		}
		return nil
	}
	return f.addKeyed(c)
}

// current returns the table's open step when it has the wanted form, else opens one.
func (f *folder) current(b *binding, fits func(*step) bool) *step {
	if s := f.open[b.target]; s != nil && s.bind == b && fits(s) {
		return s
	}
	s := &step{bind: b}
	f.steps = append(f.steps, s)
	f.open[b.target] = s
	return s
}

func (f *folder) addOrdered(c *change) {
	s := f.current(c.bind, func(s *step) bool { return s.ordered != nil })
	s.ordered = append(s.ordered, c)
}

func (f *folder) addInsert(c *change) {
	s := f.current(c.bind, func(s *step) bool { return s.inserts != nil })
	s.inserts = append(s.inserts, c)
}

func (f *folder) addKeyed(c *change) error {
	s := f.current(c.bind, func(s *step) bool { return s.group != nil })
	if s.group == nil {
		s.group = &group{rows: map[string]*row{}}
	}
	switch c.kind {
	case stream.Insert:
		return s.group.insert(f.row(s.group, c, c.keyAfter), c.new)
	case stream.Delete:
		return s.group.delete(f.row(s.group, c, c.keyBefore))
	}
	if c.movesKey() {
		return f.addMove(s.group, c)
	}
	return f.row(s.group, c, c.keyBefore).change(c.new)
}

// addMove handles an update of the key. With the whole row at hand it is a delete and an insert, which is what it
// means for the rows; without, it ends the folding and is written by itself.
func (f *folder) addMove(g *group, c *change) error {
	whole, complete := wholeRow(c, g.rows[string(f.key(c, c.keyBefore))])
	if !complete {
		f.addOrdered(c)
		return nil
	}
	if err := g.delete(f.row(g, c, c.keyBefore)); err != nil {
		return err
	}
	return g.insert(f.row(g, c, c.keyAfter), whole)
}

// wholeRow fills what the update did not send from the old row or from what this batch has written to it before.
func wholeRow(c *change, before *row) (values []stream.Value, complete bool) {
	if !c.bind.replaceable {
		return nil, false
	}
	values = c.new
	copied := false
	for i, v := range c.new {
		if v.Kind != stream.Unchanged || c.bind.columns[i] < 0 {
			continue
		}
		v = earlier(c, before, i)
		if v.Kind != stream.Text && v.Kind != stream.Null {
			return nil, false
		}
		if !copied {
			values, copied = append([]stream.Value(nil), c.new...), true
		}
		values[i] = v
	}
	return values, true
}

func earlier(c *change, before *row, at int) stream.Value {
	if c.old != nil && c.old[at].Kind != stream.Absent {
		return c.old[at]
	}
	if before != nil && before.insert != nil {
		return before.insert[at]
	}
	if before != nil && before.update != nil {
		return before.update[at]
	}
	return stream.Value{}
}

// row finds or makes the row of a key.
func (f *folder) row(g *group, c *change, value func(int) stream.Value) *row {
	key := f.key(c, value)
	if r, known := g.rows[string(key)]; known {
		return r
	}
	r := &row{key: string(key), values: make([]stream.Value, len(c.bind.key))}
	for i := range c.bind.key {
		r.values[i] = value(i)
	}
	g.rows[r.key] = r
	g.order = append(g.order, r)
	return r
}

// key writes the values of a key so that different keys never look alike. Text that differs although the target's
// type holds it equal (1.0 and 1.00) makes two rows here; since a row's text never changes without an update of its
// key, both orders of events come out right: the one key is deleted before the other is inserted.
func (f *folder) key(c *change, value func(int) stream.Value) []byte {
	f.scratch = f.scratch[:0]
	for i := range c.bind.key {
		v := value(i)
		f.scratch = append(f.scratch, byte(v.Kind))
		if len(c.bind.key) > 1 {
			f.scratch = binary.AppendUvarint(f.scratch, uint64(len(v.Data)))
		}
		f.scratch = append(f.scratch, v.Data...)
	}
	return f.scratch
}

func (g *group) insert(r *row, values []stream.Value) error {
	if r.insert != nil || r.update != nil {
		return errUnfoldable
	}
	r.insert, r.gone, r.owned = values, false, false
	return nil
}

func (g *group) delete(r *row) error {
	switch {
	case r.insert != nil:
		r.insert = nil
	case r.gone:
		return errUnfoldable
	default:
		r.update, r.delete = nil, true
	}
	r.gone = true
	return nil
}

// change merges an update that keeps the key: what it sent replaces, what it did not send stays.
func (r *row) change(values []stream.Value) error {
	switch {
	case r.insert != nil:
		r.insert = r.merge(r.insert, values)
	case r.gone:
		return errUnfoldable
	case r.update == nil:
		r.update = values
	default:
		r.update = r.merge(r.update, values)
	}
	return nil
}

// merge copies before it writes: the values of a change are kept as they came.
func (r *row) merge(before, after []stream.Value) []stream.Value {
	if !r.owned {
		before, r.owned = append([]stream.Value(nil), before...), true
	}
	for i, v := range after {
		if v.Kind != stream.Unchanged {
			before[i] = v
		}
	}
	return before
}

// effects are the net effects as changes of their own: deletes, then updates, then inserts.
func (g *group) effects(b *binding) []*change {
	var deletes, updates, inserts []*change
	for _, r := range g.order {
		var key []stream.Value
		if r.delete || r.update != nil {
			key = make([]stream.Value, len(b.columns))
			for i, k := range b.key {
				key[k.at] = r.values[i]
			}
		}
		if r.delete {
			deletes = append(deletes, &change{kind: stream.Delete, bind: b, old: key})
		}
		if r.update != nil {
			updates = append(updates, &change{kind: stream.Update, bind: b, old: key, new: r.update})
		}
		if r.insert != nil {
			inserts = append(inserts, &change{kind: stream.Insert, bind: b, new: r.insert})
		}
	}
	return slices.Concat(deletes, updates, inserts)
}
