package stream

import (
	"context"
	"math"
	"sync/atomic"

	"github.com/slipway-db/slipway/postgres"
)

// Message is one message of an output plugin with the position that came with it.
type Message struct {
	LSN  postgres.LSN
	Body []byte
}

// Decode runs messages through a decoder without a server, and gives the events before the first error. With
// test_decoding every table exists, has one key column id, and an identity of the given kind.
func Decode(plugin Plugin, dir string, identity byte, messages []Message) ([]Event, error) {
	ctx := context.Background()
	var total atomic.Int64
	newSpool := func() *spool { return &spool{dir: dir, total: &total} }
	out := newBuilder(newQueue(math.MaxInt), 0, &counters{})
	var d decoder = newPgoutput(out, newSpool)
	if plugin == TestDecoding {
		d = newTestDecoding(out, newSpool(), nil, fixedTables(identity))
	}
	var err error
	for _, m := range messages {
		var body []byte
		if body, err = out.grab(ctx, len(m.Body)); err != nil {
			break
		}
		copy(body, m.Body)
		if err = d.message(ctx, m.LSN, body); err != nil {
			break
		}
	}
	if flushErr := out.flush(ctx); flushErr != nil {
		err = flushErr
	}
	if closeErr := d.close(); closeErr != nil {
		err = closeErr
	}
	var events []Event
	for c, _ := out.queue.tryPop(); c != nil; c, _ = out.queue.tryPop() {
		events = append(events, c.events...)
	}
	if n := total.Load(); n != 0 {
		panic("a spool was not accounted for")
	}
	return events, err
}

type fixedTables byte

func (f fixedTables) table(_ context.Context, schema, name string) (*Relation, error) {
	return &Relation{OID: 1, Schema: schema, Name: name, Identity: byte(f), Columns: []RelationColumn{{Name: "id", Key: true}}}, nil
}
