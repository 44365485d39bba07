package verify

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-db/slipway/migrate/schema"
)

// SequenceReport is the outcome for one sequence.
type SequenceReport struct {
	Name   schema.Name `json:"name"`
	Target schema.Name `json:"target"`
	// SourceValue and TargetValue are last_value; the Called ones tell whether that value was given out.
	SourceValue  int64  `json:"source_value"`
	SourceCalled bool   `json:"source_called"`
	TargetValue  int64  `json:"target_value"`
	TargetCalled bool   `json:"target_called"`
	Result       Result `json:"result"`
	// Reason explains a result other than Same, and a target that is ahead, which loses nothing.
	Reason string `json:"reason,omitempty"`
}

// sequenceBatch bounds how many sequences one statement reads.
const sequenceBatch = 200

type sequenceState struct {
	known, called bool
	last, step    int64
}

// next is the value that nextval gives.
func (s sequenceState) next() int64 {
	if s.called {
		return s.last + s.step
	}
	return s.last
}

// compareSequences compares values. A stream does not carry them, so before completion there is nothing to compare.
func (r *run) compareSequences(ctx context.Context, report *Report) {
	if len(r.Sequences) == 0 {
		return
	}
	if r.fence != nil {
		for _, pair := range r.Sequences {
			report.Sequences = append(report.Sequences, SequenceReport{
				Name: pair.Source, Target: pair.Target, Result: Skipped, Reason: "aligned at completion",
			})
		}
		return
	}
	sources, targets := make([]schema.Name, len(r.Sequences)), make([]schema.Name, len(r.Sequences))
	for i, pair := range r.Sequences {
		sources[i], targets[i] = pair.Source, pair.Target
	}
	var states [2][]sequenceState
	err := both(func(source bool) (err error) {
		if source {
			states[0], err = r.source.sequences(ctx, sources)
		} else {
			states[1], err = r.target.sequences(ctx, targets)
		}
		return err
	})
	if err != nil {
		report.Errors = append(report.Errors, fmt.Sprintf("compare sequences: %v", err))
		return
	}
	for i, pair := range r.Sequences {
		report.Sequences = append(report.Sequences, judgeSequence(pair, states[0][i], states[1][i]))
	}
}

func judgeSequence(pair SequencePair, source, target sequenceState) SequenceReport {
	s := SequenceReport{
		Name: pair.Source, Target: pair.Target, Result: Same,
		SourceValue: source.last, SourceCalled: source.called, TargetValue: target.last, TargetCalled: target.called,
	}
	ahead := source.step > 0 && target.next() > source.next() || source.step < 0 && target.next() < source.next()
	switch {
	case !source.known:
		s.Result, s.Reason = Different, "the source has no such sequence"
	case !target.known:
		s.Result, s.Reason = Different, "the target has no such sequence"
	case source.last == target.last && source.called == target.called:
	case ahead:
		s.Reason = "the target is ahead, so no value comes twice"
	default:
		s.Result, s.Reason = Different, "the target would give out other values than the source"
	}
	return s
}

// sequences reads the states of the named sequences; one that does not exist stays unknown.
func (s *side) sequences(ctx context.Context, names []schema.Name) ([]sequenceState, error) {
	session := &session{side: s}
	defer session.close()
	states := make([]sequenceState, len(names))
	offset := 0
	for batch := range slices.Chunk(names, sequenceBatch) {
		err := attempt(ctx, func() error { return session.sequences(ctx, batch, states[offset:offset+len(batch)]) })
		if err != nil {
			return nil, err
		}
		offset += len(batch)
	}
	return states, nil
}

func (s *session) sequences(ctx context.Context, names []schema.Name, states []sequenceState) error {
	relations := make([]*relation, len(names))
	for i, name := range names {
		relations[i] = &relation{name: name}
	}
	steps := "1"
	join := ""
	if s.side.version.AtLeast(10) {
		steps, join = "q.seqincrement", " JOIN pg_catalog.pg_sequence q ON q.seqrelid = w.relid"
	}
	known, err := s.query(ctx, wantedCTE(relations)+" SELECT w.n, "+steps+" FROM wanted w"+join+
		" JOIN pg_catalog.pg_class k ON k.oid = w.relid AND k.relkind = 'S'")
	if err != nil || len(known) == 0 {
		return err
	}
	reads := []string{}
	for _, r := range known {
		i, err := r.int(0)
		if err != nil {
			return err
		}
		step := r.text(1)
		if join == "" {
			step = "increment_by"
		}
		reads = append(reads, fmt.Sprintf("SELECT %d, last_value, is_called, %s FROM %s", i, step, names[i].SQL()))
	}
	rows, err := s.query(ctx, strings.Join(reads, " UNION ALL "))
	if err != nil {
		return err
	}
	for _, r := range rows {
		i, err := strconv.Atoi(r.text(0))
		if err != nil {
			return err
		}
		state := sequenceState{known: true, called: r.text(2) == "t"}
		if state.last, err = r.int(1); err != nil {
			return err
		}
		if state.step, err = r.int(3); err != nil {
			return err
		}
		states[i] = state
	}
	return nil
}
