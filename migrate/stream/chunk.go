package stream

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/slipway-db/slipway/postgres"
)

// chunk is a run of events with the memory they point into. When a slice has to grow, the events so far keep
// pointing into the old one, which lives as long as they do.
type chunk struct {
	events []Event
	tuples []Tuple
	values []Value
	data   []byte
	size   int // of the events, by their Size
	grown  int // bytes in slices that were replaced by larger ones and may still be pointed at
}

// Sizes of the structures for accounting, in bytes.
const (
	eventBytes = 120
	tupleBytes = 24
	valueBytes = 32
)

// chunkBytes is when a chunk is full. Only a single change may be larger.
const chunkBytes = 1 << 20

// memory is what the chunk holds, used or not.
func (c *chunk) memory() int {
	return cap(c.events)*eventBytes + cap(c.tuples)*tupleBytes + cap(c.values)*valueBytes + cap(c.data) + c.grown
}

// reset empties the chunk and lets go of memory above the ordinary.
func (c *chunk) reset() {
	if c.memory() > 4*chunkBytes {
		*c = chunk{}
		return
	}
	clear(c.events)
	c.events, c.tuples, c.values, c.data = c.events[:0], c.tuples[:0], c.values[:0], c.data[:0]
	c.size, c.grown = 0, 0
}

// builder fills chunks with events and passes full ones to the queue. It belongs to the decoding goroutine.
type builder struct {
	queue   *queue
	chunk   *chunk
	kept    int          // bytes of chunk.data that events point into; what is beyond is scratch
	last    postgres.LSN // end of what was delivered: of the last Commit or Position
	counted *counters
}

// counters are totals of what was delivered.
type counters struct {
	transactions, changes atomic.Int64
}

func newBuilder(q *queue, start postgres.LSN, counted *counters) *builder {
	return &builder{queue: q, chunk: q.newChunk(), last: start, counted: counted}
}

// grab gives n bytes of the chunk's memory for a message. They are given again for the next message unless add made
// them part of an event.
func (b *builder) grab(ctx context.Context, n int) ([]byte, error) {
	if b.chunk.size > 0 && b.chunk.size+n > chunkBytes {
		if err := b.flush(ctx); err != nil {
			return nil, err
		}
	}
	c := b.chunk
	if cap(c.data)-b.kept < n {
		if b.kept > 0 {
			c.grown += cap(c.data)
		}
		c.data = make([]byte, 0, max(n, min(2*cap(c.data), 256<<10), 4<<10))
		b.kept = 0
	}
	c.data = c.data[:b.kept+n]
	return c.data[b.kept : b.kept+n : b.kept+n], nil
}

// tuple gives a tuple of n values, to be set by the caller, all of them.
func (b *builder) tuple(n int) *Tuple {
	c := b.chunk
	if cap(c.values)-len(c.values) < n {
		c.grown += cap(c.values) * valueBytes
		c.values = make([]Value, 0, max(n, 2*cap(c.values), 64))
	}
	from := len(c.values)
	c.values = c.values[:from+n]
	if len(c.tuples) == cap(c.tuples) {
		c.grown += cap(c.tuples) * tupleBytes
		c.tuples = make([]Tuple, 0, max(2*cap(c.tuples), 16))
	}
	c.tuples = append(c.tuples, Tuple{Values: c.values[from : from+n : from+n]})
	return &c.tuples[len(c.tuples)-1]
}

// change adds a change whose tuples point into the last message that was grabbed.
func (b *builder) change(ctx context.Context, e Event) error {
	message := len(b.chunk.data) - b.kept
	b.kept = len(b.chunk.data)
	e.Size = eventBytes + message
	for _, t := range []*Tuple{e.New, e.Old} {
		if t != nil {
			e.Size += tupleBytes + valueBytes*len(t.Values)
		}
	}
	b.counted.changes.Add(1)
	return b.add(ctx, e)
}

func (b *builder) add(ctx context.Context, e Event) error {
	if e.Size == 0 {
		e.Size = eventBytes
	}
	c := b.chunk
	c.events = append(c.events, e)
	c.size += e.Size
	if c.size >= chunkBytes {
		return b.flush(ctx)
	}
	return nil
}

// begin opens a transaction.
func (b *builder) begin(ctx context.Context, e Event) error {
	e.Kind = Begin
	return b.add(ctx, e)
}

// commit ends a transaction. Commits must come in the order of their positions; anything else would make a resume
// lose a transaction.
func (b *builder) commit(ctx context.Context, e Event) error {
	if e.LSN <= b.last {
		return fmt.Errorf("%w: a commit at %s after position %s", ErrProtocol, e.LSN, b.last)
	}
	e.Kind = Commit
	b.last = e.LSN
	b.counted.transactions.Add(1)
	return b.add(ctx, e)
}

// position adds a Position if it is news; one that follows another replaces it.
func (b *builder) position(ctx context.Context, lsn postgres.LSN) error {
	if lsn <= b.last {
		return nil
	}
	b.last = lsn
	if n := len(b.chunk.events); n > 0 && b.chunk.events[n-1].Kind == Position {
		b.chunk.events[n-1].LSN = lsn
		return nil
	}
	return b.add(ctx, Event{Kind: Position, LSN: lsn})
}

// flush passes the chunk on, if there is anything in it.
func (b *builder) flush(ctx context.Context) error {
	if len(b.chunk.events) == 0 {
		return nil
	}
	if err := b.queue.push(ctx, b.chunk); err != nil {
		return err
	}
	b.chunk, b.kept = b.queue.newChunk(), 0
	return nil
}
