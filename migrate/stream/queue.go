package stream

import (
	"context"
	"sync"
)

// queue hands chunks from the one goroutine that decodes to the one that consumes, bounded by the memory they hold.
// Chunks are used again, so that a running stream allocates nothing.
type queue struct {
	limit    int
	readable chan struct{} // capacity 1: something to read, or closed
	writable chan struct{} // capacity 1: there may be room again

	mu     sync.Mutex
	chunks []*chunk
	free   []*chunk
	bytes  int
	closed bool
	err    error
}

// maxFree bounds how many empty chunks are kept.
const maxFree = 8

func newQueue(limit int) *queue {
	return &queue{limit: limit, readable: make(chan struct{}, 1), writable: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// push waits until there is room. A chunk that alone is above the limit (one huge row) goes in when nothing else is
// there.
func (q *queue) push(ctx context.Context, c *chunk) error {
	for !q.tryPush(c) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-q.writable:
		}
	}
	return nil
}

func (q *queue) tryPush(c *chunk) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes > 0 && q.bytes+c.memory() > q.limit {
		return false
	}
	q.chunks = append(q.chunks, c)
	q.bytes += c.memory()
	signal(q.readable)
	return true
}

// pop waits for the next chunk. After close it gives what is left, then the error of close.
func (q *queue) pop(ctx context.Context) (*chunk, error) {
	for {
		c, err := q.tryPop()
		if c != nil || err != nil {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-q.readable:
		}
	}
}

func (q *queue) tryPop() (*chunk, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.chunks) == 0 {
		if q.closed {
			signal(q.readable) // for the next call
			return nil, q.err
		}
		return nil, nil
	}
	c := q.chunks[0]
	copy(q.chunks, q.chunks[1:])
	q.chunks[len(q.chunks)-1] = nil
	q.chunks = q.chunks[:len(q.chunks)-1]
	q.bytes -= c.memory()
	signal(q.writable)
	return c, nil
}

// close ends the queue; err is what the consumer gets once everything before was taken.
func (q *queue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.err = true, err
	signal(q.readable)
}

// size is the memory of the chunks that wait.
func (q *queue) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

func (q *queue) newChunk() *chunk {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.free); n > 0 {
		c := q.free[n-1]
		q.free = q.free[:n-1]
		return c
	}
	return &chunk{}
}

// recycle takes a chunk that nobody looks at any more.
func (q *queue) recycle(c *chunk) {
	c.reset()
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.free) < maxFree {
		q.free = append(q.free, c)
	}
}
