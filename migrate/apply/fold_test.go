package apply_test

import (
	"maps"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate/apply"
	"github.com/slipway-db/slipway/migrate/stream"
)

// model keeps the rows of one table with an immediate key and writes the events of what happens to it.
type model struct {
	random *rand.Rand
	rows   map[string]string
	events []stream.Event
	next   int
}

func (m *model) value() string { m.next++; return "v" + strconv.Itoa(m.next) }

func (m *model) key() string { return strconv.Itoa(m.random.IntN(6)) }

func (m *model) step() {
	key := m.key()
	_, there := m.rows[key]
	if !there {
		m.rows[key] = m.value()
		m.events = append(m.events, stream.Event{Kind: stream.Insert, New: tuple(key, m.rows[key])})
		return
	}
	switch m.random.IntN(5) {
	case 0:
		delete(m.rows, key)
		m.events = append(m.events, stream.Event{Kind: stream.Delete, Old: tuple(key, absent{})})
	case 1:
		m.events = append(m.events, stream.Event{Kind: stream.Update, New: tuple(key, unchanged{})})
	case 2, 3:
		m.move(key)
	case 4:
		m.rows[key] = m.value()
		m.events = append(m.events, stream.Event{Kind: stream.Update, New: tuple(key, m.rows[key])})
	}
}

func (m *model) move(key string) {
	to := m.key()
	if _, taken := m.rows[to]; taken && to != key {
		return
	}
	value := any(unchanged{})
	row := m.rows[key]
	if m.random.IntN(2) == 0 {
		row = m.value()
		value = row
	}
	delete(m.rows, key)
	m.rows[to] = row
	m.events = append(m.events, stream.Event{Kind: stream.Update, Old: tuple(key, absent{}), New: tuple(to, value)})
}

// TestFold_EqualsOneByOne folds random histories and compares with what the source holds in the end. Each step of the
// folding has to find exactly the rows that it should.
func TestFold_EqualsOneByOne(t *testing.T) {
	for seed := range uint64(20000) {
		m := &model{random: rand.New(rand.NewPCG(seed, 1)), rows: map[string]string{}}
		for m.random.IntN(4) > 0 {
			m.rows[m.key()] = m.value()
		}
		before := maps.Clone(m.rows)
		for range m.random.IntN(30) {
			m.step()
		}
		got, ok := apply.Folded(before, m.events, seed%2 == 0)
		if diff := cmp.Diff(m.rows, got); diff != "" || !ok {
			t.Fatalf("seed %d: every step found its rows: %v (-want +got):\n%s", seed, ok, diff)
		}
	}
}

// TestFold_NeverHidesAContradiction plants one change that cannot be applied (an insert of a row that is there, or a
// change of one that is not) at the end of a history: some step has to notice.
func TestFold_NeverHidesAContradiction(t *testing.T) {
	for seed := range uint64(5000) {
		m := &model{random: rand.New(rand.NewPCG(seed, 2)), rows: map[string]string{}}
		for range 5 {
			m.step()
		}
		before := maps.Clone(m.rows)
		m.events = nil
		for range m.random.IntN(6) {
			m.step()
		}
		key := m.key()
		if _, there := m.rows[key]; there {
			m.events = append(m.events, stream.Event{Kind: stream.Insert, New: tuple(key, "planted")})
		} else {
			m.events = append(m.events, stream.Event{Kind: stream.Delete, Old: tuple(key, absent{})})
		}
		if _, ok := apply.Folded(before, m.events, true); ok {
			t.Fatalf("seed %d: the change of key %s that cannot be applied went unnoticed", seed, key)
		}
	}
}
