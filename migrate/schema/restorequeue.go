package schema

import (
	"slices"
	"sync"
)

// Groups are bounded so that a transaction holds few locks (max_locks_per_transaction is 64 by default, for each of
// max_connections) and a failure repeats little.
const (
	groupEntries = 64
	groupBytes   = 1 << 20
)

// queue hands out groups of steps to sessions: what they need is done, and no two sessions hold locks on the same
// relation, which would only wait for each other or end in a deadlock.
type queue struct {
	jobs         int
	groupEntries int
	large        map[Name]bool

	mu       sync.Mutex
	changed  *sync.Cond
	waiting  []*step
	pending  map[*step]bool // waiting or running
	busy     map[Name]bool  // relations of the running groups
	running  int
	stopped  bool
	failures []Failure
}

func (x *Executor) queue(steps []*step, jobs int) *queue {
	q := &queue{
		jobs: max(1, jobs), groupEntries: x.groupEntries, large: x.o.Large, waiting: slices.Clone(steps),
		pending: make(map[*step]bool, len(steps)), busy: map[Name]bool{},
	}
	q.changed = sync.NewCond(&q.mu)
	for _, s := range steps {
		q.pending[s] = true
	}
	return q
}

// take waits for a group that can run; nil when there is nothing more to do.
func (q *queue) take() []*step {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopped && len(q.waiting) > 0 {
		if group := q.pick(); len(group) > 0 {
			q.running++
			for _, s := range group {
				for _, name := range s.locks {
					q.busy[name] = true
				}
			}
			return group
		}
		q.changed.Wait()
	}
	return nil
}

// pick takes the first steps that can run out of the waiting ones. While several sessions share what is left, a
// group is no more than one session's share.
func (q *queue) pick() []*step {
	share := q.groupEntries
	if q.jobs > 1 {
		share = min(share, (len(q.waiting)+q.jobs-1)/q.jobs)
	}
	var group, passed []*step
	taken := map[*step]bool{}
	bytes, seen := 0, 0
	for ; seen < len(q.waiting) && len(group) < share && bytes <= groupBytes; seen++ {
		s := q.waiting[seen]
		if !q.ready(s, taken) || q.alone(s) && len(group) > 0 {
			passed = append(passed, s)
			continue
		}
		group, taken[s] = append(group, s), true
		bytes += len(s.sql)
		if q.alone(s) {
			bytes += groupBytes
		}
	}
	if len(group) == 0 && q.running == 0 {
		// Dependencies that form a circle: the order of the archive is as good as any.
		group, passed = []*step{passed[0]}, passed[1:]
	}
	rest := q.waiting[seen-len(passed):]
	copy(rest, passed)
	q.waiting = rest
	return group
}

func (q *queue) ready(s *step, taken map[*step]bool) bool {
	for _, need := range s.needs {
		if q.pending[need] && !taken[need] {
			return false
		}
	}
	return !slices.ContainsFunc(s.locks, func(n Name) bool { return q.busy[n] })
}

// alone tells steps that read all rows of a large table.
func (q *queue) alone(s *step) bool {
	if s.stage != StageIndexes && s.stage != StageConstraints {
		return false
	}
	return slices.ContainsFunc(s.locks, func(n Name) bool { return q.large[n] })
}

func (q *queue) finish(group []*step) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	for _, s := range group {
		delete(q.pending, s)
		for _, name := range s.locks {
			delete(q.busy, name)
		}
	}
	q.changed.Broadcast()
}

func (q *queue) report(f Failure) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failures = append(q.failures, f)
}

// stop lets running groups end and hands out no more.
func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.changed.Broadcast()
}
