package schema

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-db/slipway/postgres"
)

// Stage is a part of the structure that is created at one point of a migration.
type Stage string

// The stages, in the order in which they run.
const (
	// StagePreData is everything that rows need: schemas, extensions, types, functions, tables, views, sequences.
	StagePreData Stage = "pre-data"
	// StageIndexes is indexes, primary keys, unique and exclusion constraints, extended statistics, and what pg_dump
	// moved behind a primary key (views and functions that group by it).
	StageIndexes Stage = "indexes"
	// StageConstraints is foreign keys and those check constraints that stand alone.
	StageConstraints Stage = "constraints"
	// StageLate is what must not act on copied or replicated rows, or must not be visible before: triggers, rules,
	// row security, publications, then privileges.
	StageLate Stage = "late"
	// StageFinal fills materialized views and then creates event triggers, which would fire on our own statements.
	StageFinal Stage = "final"
)

// Stages lists all stages in order.
var Stages = []Stage{StagePreData, StageIndexes, StageConstraints, StageLate, StageFinal}

// PlanOptions say which entries of an archive are wanted and for which server.
type PlanOptions struct {
	Selection Selection
	// Relations are the chosen tables, partitions, views, materialized views, sequences and foreign tables, from the
	// catalog. It decides about relations whenever the selection names anything.
	Relations map[Name]bool
	// NoOwner leaves everything to the user who connects; NoPrivileges leaves out all grants.
	NoOwner, NoPrivileges bool
	// Target is the version of the server that executes the plan.
	Target postgres.Version
	// Ignore tells entries that are never wanted, such as the engine's own publication on the source. May be nil.
	Ignore func(*Entry) bool
}

// Plan is the chosen part of an archive, in stages.
type Plan struct {
	// LeftOut are entries that the selection would take but that need something it does not take.
	LeftOut []LeftOut

	stages map[Stage][]*step
	tables map[Name][]*step // the steps of StageIndexes by table
}

// LeftOut is an entry that is not created, and why.
type LeftOut struct {
	Entry  *Entry
	Reason string
}

// String is one line for people.
func (l LeftOut) String() string { return l.Entry.String() + ": " + l.Reason }

// step is an entry with all that its execution needs.
type step struct {
	entry *Entry
	stage Stage
	pass  int  // order within a stage before the order of the archive
	table Name // what the entry belongs to, zero when it does not belong to one table
	needs []*step
	// locks are the relations that the statement locks in a way that another step would wait for.
	locks []Name
	sql   string
}

// Passes within a stage: privileges come when everything is there, event triggers when nothing more is created.
const (
	passUsual = iota
	passPrivileges
	passEvents
)

// Plan chooses entries and sorts them into stages. The error is about archives that Dump did not make, which our
// sessions would misread.
func (a *Archive) Plan(o PlanOptions) (*Plan, error) {
	if err := a.checkSession(); err != nil {
		return nil, err
	}
	c := newChooser(a, o)
	c.choose()
	p := &Plan{LeftOut: c.leftOut, stages: map[Stage][]*step{}, tables: map[Name][]*step{}}
	steps := make(map[int]*step, len(c.kept))
	for _, e := range a.Entries {
		if !c.kept[e.ID] {
			continue
		}
		s := c.step(e, steps)
		steps[e.ID] = s
		p.stages[s.stage] = append(p.stages[s.stage], s)
	}
	for _, list := range p.stages {
		slices.SortStableFunc(list, func(a, b *step) int { return cmp.Compare(a.pass, b.pass) })
	}
	for _, s := range p.stages[StageIndexes] {
		if s.table != (Name{}) {
			p.tables[s.table] = append(p.tables[s.table], s)
		}
	}
	return p, nil
}

// checkSession compares what the archive wants of a session with what all of ours have.
func (a *Archive) checkSession() error {
	wanted := map[string]string{
		"ENCODING":   "SET client_encoding = 'UTF8';",
		"STDSTRINGS": "SET standard_conforming_strings = 'on';",
	}
	for _, e := range a.Entries {
		if want, ok := wanted[e.Desc]; ok && strings.TrimSpace(e.SQL) != want {
			return fmt.Errorf("archive wants %q, not %q", strings.TrimSpace(e.SQL), want)
		}
	}
	return nil
}

// Entries are the entries of a stage in the order in which they run one after the other.
func (p *Plan) Entries(stage Stage) []*Entry { return entriesOf(p.stages[stage]) }

// TableEntries are the entries of StageIndexes that belong to one table.
func (p *Plan) TableEntries(table Name) []*Entry { return entriesOf(p.tables[table]) }

func entriesOf(steps []*step) []*Entry {
	entries := make([]*Entry, len(steps))
	for i, s := range steps {
		entries[i] = s.entry
	}
	return entries
}

// step needs the steps of everything earlier in the archive.
func (c *chooser) step(e *Entry, steps map[int]*step) *step {
	s := &step{entry: e, stage: e.rule().stage, sql: c.statement(e)}
	if parent := c.parentOf(e); parent != nil && e.rule().class == classChild {
		s.table = parent.name()
	}
	if e.Desc == descIndexAttach {
		s.table = c.attachTable(e)
	}
	for _, id := range e.Depends {
		if need := steps[id]; need != nil && !separate(s, need) && !slices.Contains(s.needs, need) {
			s.needs = append(s.needs, need)
		}
	}
	c.settle(s, steps)
	s.needs = slices.DeleteFunc(s.needs, func(need *step) bool { return need.stage != s.stage })
	return s
}

// settle finds the stage and the pass: a property goes with what it describes, and nothing runs before what it needs.
func (c *chooser) settle(s *step, steps map[int]*step) {
	switch e := s.entry; {
	case e.Desc == descEventTrigger:
		s.pass = passEvents
	case e.Desc == descACL || e.Desc == descDefaultACL:
		s.pass = passPrivileges
	case e.rule().class == classProperty:
		s.stage = StagePreData
		if parent := steps[c.parentID(e)]; parent != nil {
			s.stage, s.pass, s.table = parent.stage, parent.pass, parent.table
		}
	}
	for _, need := range s.needs {
		if order(need.stage) > order(s.stage) {
			s.stage = need.stage
		}
		if need.stage == s.stage {
			s.pass = max(s.pass, need.pass)
		}
		s.locks = append(s.locks, need.relations()...)
	}
	slices.SortFunc(s.locks, compareNames)
	s.locks = slices.Compact(s.locks)
}

// relations are what a step that needs this one will lock: the relation itself, or the table of an index.
func (s *step) relations() []Name {
	switch {
	case s.table != (Name{}):
		return []Name{s.table}
	case s.entry.rule().class == classRelation:
		return []Name{s.entry.name()}
	}
	return nil
}

// separate tells that the need is only one of order on paper: the index of a partition can be built before that of
// its parent, because both are built alone and attached later.
func separate(s, need *step) bool {
	return s.table != need.table && isIndex(s.entry) && isIndex(need.entry)
}

func isIndex(e *Entry) bool { return e.Desc == descIndex || e.Desc == descConstraint }

func order(stage Stage) int { return slices.Index(Stages, stage) }

func compareNames(a, b Name) int {
	return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
}

func (e *Entry) name() Name { return Name{Schema: e.Schema, Name: e.Tag} }
