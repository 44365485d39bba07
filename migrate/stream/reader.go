package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/slipway-db/slipway/postgres"
)

// Plugin is an output plugin of logical decoding.
type Plugin string

// The plugins that ship with every server.
const (
	Pgoutput     Plugin = "pgoutput"      // PostgreSQL 10 and later
	TestDecoding Plugin = "test_decoding" // the only one in 9.4 to 9.6
)

// Config says what to read. Endpoint, Slot and Plugin are required, Publications with pgoutput.
type Config struct {
	Endpoint postgres.Endpoint
	// Slot exists already; see CreateSlot.
	Slot string
	// Publications are for pgoutput.
	Publications []string
	Plugin       Plugin
	// ServerVersion of the source; 0 asks it.
	ServerVersion postgres.Version
	// Start is the position to resume at: transactions whose Commit.LSN is not above it were applied. 0 means that
	// nothing was ever read and everything since the slot was made is wanted.
	Start postgres.LSN
	// Identity is the server that must answer; the zero value takes any. A caller that allows a promoted source gives
	// the new timeline here.
	Identity Identity
	// Session names the connections, see postgres.Session; empty means "stream".
	Session string
	// QueueBytes bounds the memory of events that wait for the consumer; 0 means 32 MiB.
	QueueBytes int
	// SpoolDir is where transactions wait that the server sends before they end; empty means os.TempDir. It should
	// not be a RAM disk. The files have no names and go with the process.
	SpoolDir string
	// StatusInterval is how often the server hears from us at the latest; 0 means 10 s. A third of the server's
	// wal_sender_timeout is used when that is shorter.
	StatusInterval time.Duration
	// ActiveTimeout is how long to wait for another session to leave the slot; 0 means 30 s.
	ActiveTimeout time.Duration
	// SilenceTimeout is how long the server may say nothing before it is asked over another connection whether it
	// still serves this one; 0 means 60 s.
	SilenceTimeout time.Duration
	// Tables chooses tables with test_decoding, which knows no publications; nil means all.
	Tables func(schema, name string) bool
}

func (c *Config) setDefaults() {
	c.Session = cmp.Or(c.Session, "stream")
	c.QueueBytes = cmp.Or(c.QueueBytes, 32<<20)
	c.StatusInterval = cmp.Or(c.StatusInterval, 10*time.Second)
	c.ActiveTimeout = cmp.Or(c.ActiveTimeout, 30*time.Second)
	c.SilenceTimeout = cmp.Or(c.SilenceTimeout, time.Minute)
}

// Validate tells what is missing or wrong.
func (c *Config) Validate() error {
	if err := validSlotName(c.Slot); err != nil {
		return err
	}
	switch c.Plugin {
	case Pgoutput:
		if len(c.Publications) == 0 {
			return errors.New("stream: pgoutput needs a publication")
		}
	case TestDecoding:
	default:
		return fmt.Errorf("stream: unknown plugin %q", c.Plugin)
	}
	if c.QueueBytes < 0 || c.StatusInterval < 0 || c.ActiveTimeout < 0 || c.SilenceTimeout < 0 {
		return errors.New("stream: negative bound")
	}
	return nil
}

// Stats tell where the stream is. All of them are read at slightly different moments.
type Stats struct {
	Received     postgres.LSN // up to here everything was received; it may still wait in the queue or in a spool
	Server       postgres.LSN // how far the server has read its log, as it said last
	Confirmed    postgres.LSN // durable on the target, as the consumer said
	LastMessage  time.Time    // when the server was heard last, by our clock
	QueueBytes   int64        // memory of events that wait for the consumer
	SpoolBytes   int64        // disk held by transactions that have not committed yet
	Transactions int64        // delivered to the queue
	Changes      int64        // delivered to the queue
}

// Reader follows one slot. Run does the work; one consumer calls Next and Confirm. A Reader runs once: after an error
// make a new one, at the position that the target has recorded.
type Reader struct {
	config Config
	queue  *queue
	taken  *chunk // what the consumer looks at

	confirmed   atomic.Uint64
	received    atomic.Uint64
	server      atomic.Uint64
	lastMessage atomic.Int64 // Unix nanoseconds
	listening   atomic.Int64 // since when we wait for the server, Unix nanoseconds; 0 while we wait for the consumer
	spooled     atomic.Int64
	counted     counters
	wake        chan struct{} // capacity 1: send a status now
}

// New makes a reader; nothing happens before Run.
func New(config Config) *Reader {
	config.setDefaults()
	return &Reader{config: config, queue: newQueue(config.QueueBytes), wake: make(chan struct{}, 1)}
}

// Run connects, follows the slot and returns when ctx ends, with its cause, or on an error. It does not reconnect.
// Errors that pass are those of postgres.Retryable.
func (r *Reader) Run(ctx context.Context) (err error) {
	defer func() { r.queue.close(err) }()
	if err := r.config.Validate(); err != nil {
		return err
	}
	s, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer s.wire.conn.Close()
	return r.follow(ctx, s)
}

// follow runs the two goroutines of a stream, one that reads and one that writes, until one fails or ctx ends.
func (r *Reader) follow(parent context.Context, s *session) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	unblocked := make(chan struct{})
	unblock := context.AfterFunc(ctx, func() {
		defer close(unblocked)
		_ = s.wire.conn.SetReadDeadline(time.Unix(1, 0)) // a read that waits returns
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		cancel(r.feedback(ctx, s))
	}()
	cancel(r.receive(ctx, s))
	<-done
	if !unblock() {
		<-unblocked
	}
	if parent.Err() != nil {
		s.wire.goodbye(r.status(false))
	}
	return context.Cause(ctx)
}

// receive decodes until an error; the end of ctx is one.
func (r *Reader) receive(ctx context.Context, s *session) (err error) {
	out := newBuilder(r.queue, s.start, &r.counted)
	decode := r.newDecoder(out)
	defer func() { err = errors.Join(err, decode.close()) }()
	for {
		if !s.wire.atHand() {
			if err := out.flush(ctx); err != nil {
				return err
			}
		}
		r.listening.Store(time.Now().UnixNano())
		kind, n, err := s.wire.header()
		r.listening.Store(0)
		if err != nil {
			return err
		}
		body, err := out.grab(ctx, n)
		if err != nil {
			return err
		}
		r.listening.Store(time.Now().UnixNano())
		err = s.wire.fill(body)
		r.listening.Store(0)
		if err != nil {
			return err
		}
		r.lastMessage.Store(time.Now().UnixNano())
		if err := r.message(ctx, kind, body, out, decode); err != nil {
			return err
		}
	}
}

// decoder turns the messages of an output plugin into events.
type decoder interface {
	// message decodes one message; lsn is the position that came with it.
	message(ctx context.Context, lsn postgres.LSN, body []byte) error
	// between tells whether no transaction is open.
	between() bool
	close() error
}

func (r *Reader) newDecoder(out *builder) decoder {
	spool := func() *spool { return &spool{dir: r.config.SpoolDir, total: &r.spooled} }
	if r.config.Plugin == Pgoutput {
		return newPgoutput(out, spool)
	}
	text := newTestDecoding(out, spool(), r.config.Tables, catalog{endpoint: r.config.Endpoint, session: r.config.Session})
	text.oids = !r.config.ServerVersion.AtLeast(12)
	return text
}

// message handles one protocol message.
func (r *Reader) message(ctx context.Context, kind byte, body []byte, out *builder, decode decoder) error {
	switch kind {
	case 'd':
		return r.copyData(ctx, body, out, decode)
	case 'E':
		refused, err := serverError(body)
		if err != nil {
			return err
		}
		return r.slotError(refused)
	case 'N', 'S':
		return nil
	case 'c', 'C': // CopyDone or CommandComplete: the server shuts down in order
		return fmt.Errorf("the source ended the stream: %w", errEnded)
	}
	return fmt.Errorf("%w: type %q in the stream", ErrProtocol, kind)
}

// copyData handles what the walsender sends: XLogData with a message of the plugin, or a keep-alive.
func (r *Reader) copyData(ctx context.Context, body []byte, out *builder, decode decoder) error {
	c := cursor{data: body}
	switch kind := c.byte(); kind {
	case 'w':
		lsn, end := c.lsn(), c.lsn()
		c.uint64() // when it was sent
		if c.err != nil {
			return c.err
		}
		advance(&r.received, lsn)
		advance(&r.server, end)
		if err := decode.message(ctx, lsn, c.data); err != nil {
			if ctx.Err() != nil {
				return err
			}
			return fmt.Errorf("decode the message at %s: %w", lsn, err)
		}
		return nil
	case 'k':
		end := c.lsn()
		c.uint64()
		reply := c.byte()
		if err := c.end(); err != nil {
			return err
		}
		advance(&r.received, end)
		advance(&r.server, end)
		if reply != 0 {
			signal(r.wake)
		}
		if !decode.between() {
			return nil
		}
		return out.position(ctx, end)
	default:
		return fmt.Errorf("%w: copy data of kind %q", ErrProtocol, kind)
	}
}

// advance raises a position and never lowers it: at its start the server reads its log again from before the slot's
// confirmed position.
func advance(position *atomic.Uint64, lsn postgres.LSN) {
	for {
		old := position.Load()
		if uint64(lsn) <= old || position.CompareAndSwap(old, uint64(lsn)) {
			return
		}
	}
}

// Next returns the next events, at least one, usually no more than 1 MiB of them: a transaction may span many calls.
// The slice and everything it points to belong to the caller until the next call. When Run has ended, Next gives what
// is left and then Run's error. One goroutine may call it.
func (r *Reader) Next(ctx context.Context) ([]Event, error) {
	if r.taken != nil {
		r.queue.recycle(r.taken)
		r.taken = nil
	}
	c, err := r.queue.pop(ctx)
	if err != nil {
		return nil, err
	}
	r.taken = c
	return c.events, nil
}

// Confirm says that everything up to lsn is durable on the target. The server is told at once and may then forget it.
// A lower position than before changes nothing.
func (r *Reader) Confirm(lsn postgres.LSN) {
	advance(&r.confirmed, lsn)
	signal(r.wake)
}

// Stats may be called from any goroutine.
func (r *Reader) Stats() Stats {
	stats := Stats{
		Received:     postgres.LSN(r.received.Load()),
		Server:       postgres.LSN(r.server.Load()),
		Confirmed:    postgres.LSN(r.confirmed.Load()),
		QueueBytes:   int64(r.queue.size()),
		SpoolBytes:   r.spooled.Load(),
		Transactions: r.counted.transactions.Load(),
		Changes:      r.counted.changes.Load(),
	}
	if at := r.lastMessage.Load(); at != 0 {
		stats.LastMessage = time.Unix(0, at)
	}
	return stats
}
