package apply

import (
	"maps"

	"github.com/slipway-db/slipway/migrate/stream"
)

// Folded applies changes of one made-up table to rows by folding them, as the statements of its steps would, and
// reports a step that does not find exactly the rows that it should. The first column is the key; when whole is false
// key updates cannot be folded.
func Folded(rows map[string]string, changes []stream.Event, whole bool) (after map[string]string, ok bool) {
	bind := &binding{
		relation: &stream.Relation{Columns: make([]stream.RelationColumn, 2)}, columns: []int{0, 1}, replaceable: whole,
		target: &target{columns: make([]column, 2)}, key: []keyColumn{{at: 0}},
	}
	bound := make([]change, 0, len(changes))
	for i := range changes {
		c, err := newChange(&changes[i], bind, 0)
		if err != nil {
			return nil, false
		}
		bound = append(bound, c)
	}
	p := &pretended{rows: maps.Clone(rows), ok: true}
	for _, s := range fold(bound, func(*target) bool { return false }) {
		for _, c := range s.ordered {
			p.single(c)
		}
		if s.group != nil {
			p.set(s.group)
		}
	}
	return p.rows, p.ok
}

type pretended struct {
	rows map[string]string
	ok   bool
}

func (p *pretended) set(g *group) {
	for _, r := range g.order {
		if r.delete {
			p.remove(string(r.values[0].Data))
		}
	}
	for _, r := range g.order {
		if r.update != nil {
			p.update(string(r.values[0].Data), r.update[1])
		}
	}
	for _, r := range g.order {
		if r.insert != nil {
			p.add(string(r.values[0].Data), r.insert[1])
		}
	}
}

func (p *pretended) single(c *change) {
	switch c.kind {
	case stream.Insert:
		p.add(string(c.new[0].Data), c.new[1])
	case stream.Delete:
		p.remove(string(c.old[0].Data))
	case stream.Update:
		before, after := string(c.keyBefore(0).Data), string(c.keyAfter(0).Data)
		value := p.rows[before]
		p.remove(before)
		p.add(after, stream.Value{Kind: stream.Text, Data: []byte(value)})
		p.update(after, c.new[1])
	}
}

func (p *pretended) add(key string, v stream.Value) {
	_, there := p.rows[key]
	p.ok = p.ok && !there && v.Kind == stream.Text
	p.rows[key] = string(v.Data)
}

func (p *pretended) remove(key string) {
	_, there := p.rows[key]
	p.ok = p.ok && there
	delete(p.rows, key)
}

func (p *pretended) update(key string, v stream.Value) {
	_, there := p.rows[key]
	p.ok = p.ok && there
	if v.Kind == stream.Text {
		p.rows[key] = string(v.Data)
	}
}
