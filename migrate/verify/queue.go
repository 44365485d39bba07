package verify

import (
	"context"
	"sync"
)

// task is one chunk of work. It may push what follows it.
type task func(ctx context.Context, l *lane)

// queue gives the newest task first: a table once begun goes on before the next is begun. Each table has at most one
// task waiting, so the queue never holds more than there are tables.
type queue struct {
	mu    sync.Mutex
	ready sync.Cond
	tasks []task
	open  int // waiting and running
}

func newQueue() *queue {
	q := &queue{}
	q.ready.L = &q.mu
	return q
}

func (q *queue) push(t task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tasks = append(q.tasks, t)
	q.open++
	q.ready.Signal()
}

// pop waits for a task; false when all work is done or ctx has ended.
func (q *queue) pop(ctx context.Context) (task, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.tasks) == 0 && q.open > 0 && ctx.Err() == nil {
		q.ready.Wait()
	}
	if len(q.tasks) == 0 || ctx.Err() != nil {
		return nil, false
	}
	t := q.tasks[len(q.tasks)-1]
	q.tasks = q.tasks[:len(q.tasks)-1]
	return t, true
}

func (q *queue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open--
	if q.open == 0 {
		q.ready.Broadcast()
	}
}

// work runs all tasks, and those that they push, on n lanes and returns when nothing is left or ctx has ended.
func (q *queue) work(ctx context.Context, n int, open func() *lane) {
	stop := context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.ready.Broadcast()
	})
	defer stop()
	var lanes sync.WaitGroup
	for range n {
		lanes.Go(func() {
			l := open()
			defer l.close()
			for {
				t, ok := q.pop(ctx)
				if !ok {
					return
				}
				t(ctx, l)
				q.done()
			}
		})
	}
	lanes.Wait()
}
