package apply

import (
	"context"

	"github.com/slipway-db/slipway/migrate/stream"
)

// feed calls Source.Next ahead of the run, so that decoding goes on while the target works, and copies the events,
// which are only valid until the next call. At most two chunks wait: what is in flight stays bounded by the source's
// chunk size.
type feed struct {
	chunks chan []stream.Event
	done   chan struct{}
	err    error // why the source ended; to be read after done
}

func startFeed(ctx context.Context, source Source) *feed {
	f := &feed{chunks: make(chan []stream.Event, 1), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		f.err = f.pump(ctx, source)
	}()
	return f
}

func (f *feed) pump(ctx context.Context, source Source) error {
	for {
		events, err := source.Next(ctx)
		if err != nil {
			return err
		}
		select {
		case f.chunks <- clone(events):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// wait returns after the goroutine has ended; its context must have ended or be about to.
func (f *feed) wait() { <-f.done }

// clone copies the events and the values that they point to. Relations are shared: they never change.
func clone(events []stream.Event) []stream.Event {
	tuples, values, bytes := 0, 0, 0
	measure := func(t *stream.Tuple) {
		if t == nil {
			return
		}
		tuples++
		values += len(t.Values)
		for i := range t.Values {
			bytes += len(t.Values[i].Data)
		}
	}
	for i := range events {
		measure(events[i].New)
		measure(events[i].Old)
	}
	arena := arena{
		tuples: make([]stream.Tuple, 0, tuples),
		values: make([]stream.Value, 0, values),
		bytes:  make([]byte, 0, bytes),
	}
	copied := make([]stream.Event, len(events))
	for i := range events {
		copied[i] = events[i]
		copied[i].New = arena.clone(events[i].New)
		copied[i].Old = arena.clone(events[i].Old)
	}
	return copied
}

// arena holds all copies of one chunk in three allocations. It is made large enough beforehand: a slice that grew
// would leave the earlier copies behind.
type arena struct {
	tuples []stream.Tuple
	values []stream.Value
	bytes  []byte
}

func (a *arena) clone(t *stream.Tuple) *stream.Tuple {
	if t == nil {
		return nil
	}
	from := len(a.values)
	for _, v := range t.Values {
		start := len(a.bytes)
		a.bytes = append(a.bytes, v.Data...)
		a.values = append(a.values, stream.Value{Kind: v.Kind, Data: a.bytes[start:len(a.bytes):len(a.bytes)]})
	}
	a.tuples = append(a.tuples, stream.Tuple{Values: a.values[from:len(a.values):len(a.values)]})
	return &a.tuples[len(a.tuples)-1]
}
