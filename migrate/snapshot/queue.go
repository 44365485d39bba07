package snapshot

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// Tables smaller than smallBytes share target transactions, of at most groupParts tables and groupBytes of rows: the
// cost of a small table is the commit and the round trips, not its rows.
const (
	smallBytes = 1 << 20
	groupBytes = 8 << 20
	groupParts = 100
)

// item is what a worker takes at once: one part, or a group of small tables.
type item struct {
	parts []Part
	bytes int64
	// failedSince is when the present row of failures began; failures counts them.
	failedSince time.Time
	failures    int
	notBefore   time.Time
	// unknown tells that an attempt ended between COMMIT and its answer; results are what it had copied.
	unknown bool
	results []result
}

// makeItems groups small tables and puts the largest items first, so that no worker ends long after the others.
func makeItems(parts []Part) []*item {
	items, group := []*item{}, &item{}
	for _, p := range parts {
		if p.Of > 1 || p.Bytes >= smallBytes {
			items = append(items, &item{parts: []Part{p}, bytes: p.Bytes})
			continue
		}
		if len(group.parts) == groupParts || group.bytes+p.Bytes > groupBytes {
			items, group = append(items, group), &item{}
		}
		group.parts = append(group.parts, p)
		group.bytes += p.Bytes
	}
	if len(group.parts) > 0 {
		items = append(items, group)
	}
	slices.SortStableFunc(items, func(a, b *item) int { return cmp.Compare(b.bytes, a.bytes) })
	return items
}

// queue hands items to workers. Numbers of workers go from 0; one whose number is not below the wanted one is let go.
type queue struct {
	mu    sync.Mutex
	ready []*item // those that failed come back to the front
	left  int     // items that are not done
	jobs  int
	wake  chan struct{} // closed and replaced at every change
}

func newQueue(items []*item, jobs int) *queue {
	return &queue{ready: items, left: len(items), jobs: jobs, wake: make(chan struct{})}
}

// changed wakes all who wait; the caller holds mu.
func (q *queue) changed() {
	close(q.wake)
	q.wake = make(chan struct{})
}

// take waits for an item. It returns nil without an error when the worker is not needed any more.
func (q *queue) take(ctx context.Context, worker int) (*item, error) {
	for {
		next, pause, wake := q.try(worker)
		if next != nil || wake == nil {
			return next, nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-wake:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
		timer.Stop()
	}
}

// try returns an item, or how long and for what to wait, or neither when the worker may go.
func (q *queue) try(worker int) (*item, time.Duration, <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.left == 0 || worker >= q.jobs {
		return nil, 0, nil
	}
	now, pause := time.Now(), time.Hour
	for i, candidate := range q.ready {
		if wait := candidate.notBefore.Sub(now); wait > 0 {
			pause = min(pause, wait)
			continue
		}
		q.ready = slices.Delete(q.ready, i, i+1)
		return candidate, 0, nil
	}
	return nil, pause, q.wake
}

func (q *queue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.left--
	q.changed()
}

func (q *queue) putBack(it *item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ready = slices.Insert(q.ready, 0, it)
	q.changed()
}

func (q *queue) setJobs(jobs int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.jobs = jobs
	q.changed()
}

// wanted is the number of workers, or 0 when all is done, and a channel that tells of the next change.
func (q *queue) wanted() (int, <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.left == 0 {
		return 0, q.wake
	}
	return q.jobs, q.wake
}
