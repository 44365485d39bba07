package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// aheadBytes bounds the query that is sent before the answer to the one before it was read. The kernel's buffers hold
// that much in any case, so neither side can end up writing to the other while nobody reads.
const aheadBytes = 8 << 10

// abortWait bounds the orderly end of a COPY that failed; after it the session is closed.
const abortWait = 5 * time.Second

// splice passes parts, one after another, from a session that is inside the snapshot to a session that is inside a
// transaction. No answer is waited for between two parts.
type splice struct {
	source, target *wire
	parts          []Part
	formats        []format
	limit          *limiter
	progress       *progress

	results []result
	// due is the number of queries whose ReadyForQuery the source still owes, rest the bytes of its data message that
	// are not read yet, open tells that the target is inside a COPY.
	due, rest int
	open      bool
}

// result is what one part moved. file is where the rows were read from.
type result struct {
	rows, bytes int64
	file        string
}

// progress counts while data flows; rows and bytes of a part that fails are taken back by its owner.
type progress struct{ rows, bytes atomic.Int64 }

// sideError tells which side an error came from.
type sideError struct {
	side Side
	part int // index into parts
	err  error
}

func (e *sideError) Error() string { return string(e.side) + ": " + e.err.Error() }
func (e *sideError) Unwrap() error { return e.err }

// errInterrupted is the cause with which the receiver stops the sender.
var errInterrupted = errors.New("the target refused the data")

// received is the outcome of the receiver: rows per part as the target counted them.
type received struct {
	rows []int64
	err  error
	part int
}

// run copies all parts, or returns a *sideError or the cause of ctx. After an error the target session is of no use;
// the source session is, when drained.
func (s *splice) run(ctx context.Context) error {
	flow, interrupt := context.WithCancelCause(ctx)
	defer interrupt(nil)
	stopFlow := context.AfterFunc(flow, func() {
		_ = s.source.conn.SetReadDeadline(expired)
		_ = s.source.conn.SetWriteDeadline(expired)
		_ = s.target.conn.SetWriteDeadline(expired)
	})
	defer stopFlow()
	// The receiver outlives the flow for a moment, because the target's reason is worth more than a broken pipe.
	stopAll := context.AfterFunc(ctx, func() { _ = s.target.conn.SetReadDeadline(expired) })
	defer stopAll()

	answers := make(chan received, 1)
	go func() {
		r := s.receive()
		if r.err != nil {
			interrupt(errInterrupted)
		}
		answers <- r
	}()
	sendErr := s.send(flow)
	interrupted := context.Cause(flow) == errInterrupted
	if sendErr != nil && ctx.Err() == nil {
		stopFlow()
		s.abort(sendErr)
	}
	answer := <-answers
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.outcome(sendErr, answer, interrupted)
}

// abort ends the receiver: an orderly refusal where the target is inside a COPY, and a deadline in any case.
func (s *splice) abort(cause error) {
	side, _ := errors.AsType[*sideError](cause)
	if side != nil && side.side == SourceSide && !s.open {
		_ = s.target.conn.SetReadDeadline(expired)
		return
	}
	deadline := time.Now().Add(abortWait)
	_ = s.target.conn.SetReadDeadline(deadline)
	if side != nil && side.side == SourceSide {
		_ = s.target.conn.SetWriteDeadline(deadline)
		s.target.message(msgCopyFail, []byte("the source could not send the rows\x00"))
		_ = s.target.flush()
	}
}

// outcome finds the root of a failure: what the target said first counts more than a write that it cut short.
func (s *splice) outcome(sendErr error, answer received, interrupted bool) error {
	side, _ := errors.AsType[*sideError](sendErr)
	switch {
	case sendErr == nil && answer.err == nil:
		return s.compare(answer.rows)
	case answer.err != nil && (interrupted || side == nil || side.side == TargetSide):
		return &sideError{side: TargetSide, part: min(answer.part, len(s.parts)-1), err: answer.err}
	default:
		return sendErr
	}
}

// compare holds the two servers' own counts against each other.
func (s *splice) compare(rows []int64) error {
	for i, r := range s.results {
		if rows[i] != r.rows {
			err := fmt.Errorf("the source sent %d rows, the target took %d", r.rows, rows[i])
			return &sideError{side: TargetSide, part: i, err: err}
		}
	}
	if err := s.target.settle(); err != nil {
		return &sideError{side: TargetSide, part: len(s.parts) - 1, err: err}
	}
	if err := s.source.settle(); err != nil {
		return &sideError{side: SourceSide, part: len(s.parts) - 1, err: err}
	}
	return nil
}

// receive reads the target's answers to all parts.
func (s *splice) receive() received {
	r := received{rows: make([]int64, 0, len(s.parts))}
	for len(r.rows) < len(s.parts) {
		kind, body, err := s.target.next()
		if err != nil {
			r.err = err
			return r
		}
		switch kind {
		case msgCopyInResponse:
		case msgCommandComplete:
			r.rows = append(r.rows, tagRows(body))
		case msgReadyForQuery:
			continue
		default:
			r.err = unexpected(kind)
			return r
		}
		r.part = len(r.rows)
	}
	if kind, _, err := s.target.next(); err != nil || kind != msgReadyForQuery {
		r.err = errors.Join(err, unexpectedUnless(kind, msgReadyForQuery, err))
	}
	return r
}

func unexpectedUnless(kind, want byte, err error) error {
	if err != nil || kind == want {
		return nil
	}
	return unexpected(kind)
}

// send moves the data of all parts.
func (s *splice) send(ctx context.Context) error {
	s.results = make([]result, len(s.parts))
	for i := range s.parts {
		if err := s.ask(i); err != nil {
			return &sideError{side: SourceSide, part: i, err: err}
		}
		if err := s.sendPart(ctx, i); err != nil {
			return err
		}
	}
	if err := s.target.flush(); err != nil {
		return &sideError{side: TargetSide, part: len(s.parts) - 1, err: err}
	}
	return nil
}

// sourceQuery reads one part, then where the table is kept, and lets go of the lock on it: a savepoint of the
// transaction that holds the snapshot bounds how long the source's users may have to wait for us.
func (s *splice) sourceQuery(i int) string {
	return copyOut(s.parts[i], s.formats[i]) + "; " + fileOf(s.parts[i].Table) + "; ROLLBACK TO SAVEPOINT part"
}

// ask sends the query of part i, unless it went ahead already, and of the next one if it is small enough.
func (s *splice) ask(i int) error {
	if s.due == 0 {
		s.source.query(s.sourceQuery(i))
		s.due++
	}
	if i+1 < len(s.parts) && s.due == 1 {
		if next := s.sourceQuery(i + 1); len(next) <= aheadBytes {
			s.source.query(next)
			s.due++
		}
	}
	return s.source.flush()
}

func (s *splice) sendPart(ctx context.Context, i int) error {
	kind, _, err := s.source.next()
	if err == nil && kind != msgCopyOutResponse {
		err = unexpected(kind)
	}
	if err != nil {
		return &sideError{side: SourceSide, part: i, err: err}
	}
	s.target.query(copyIn(s.parts[i], s.formats[i]))
	s.open = true
	if err := s.pump(ctx, i); err != nil {
		return err
	}
	s.target.message(msgCopyDone, nil)
	s.open = false
	if err := s.finishPart(&s.results[i]); err != nil {
		return &sideError{side: SourceSide, part: i, err: err}
	}
	return nil
}

// pump moves rows until the source's CopyDone.
func (s *splice) pump(ctx context.Context, i int) error {
	batch, rows, counted := s.limit.batch(), int64(0), int64(0)
	for {
		kind, length, err := s.source.header()
		if err != nil {
			return &sideError{side: SourceSide, part: i, err: err}
		}
		if kind != msgCopyData {
			done, err := s.endOfData(kind, length)
			if err != nil {
				return &sideError{side: SourceSide, part: i, err: err}
			}
			if !done {
				continue
			}
			s.progress.rows.Add(rows - counted)
			return s.pace(ctx, i, batch, rows)
		}
		if err := s.forward(i, length); err != nil {
			return err
		}
		rows++
		if rows-counted >= 256 || batch > 0 && rows >= batch {
			s.progress.rows.Add(rows - counted)
			counted = rows
		}
		if batch > 0 && rows >= batch || rows >= 4096 {
			if err := s.pace(ctx, i, batch, rows); err != nil {
				return err
			}
			batch, rows, counted = s.limit.batch(), 0, 0
		}
	}
}

// endOfData reads a message that is not data and tells whether it is CopyDone. What the server says of its own accord
// in between is passed over; its error becomes one.
func (s *splice) endOfData(kind byte, length int) (bool, error) {
	body, err := s.source.body(length)
	if err != nil {
		return false, err
	}
	switch kind {
	case msgCopyDone:
		return true, nil
	case msgNotice, msgParameterStatus, msgNotification:
		return false, nil
	case msgErrorResponse:
		return false, serverError(body)
	default:
		return false, unexpected(kind)
	}
}

// forward moves one message's worth of data, in pieces no larger than the read buffer.
func (s *splice) forward(i, length int) error {
	s.results[i].bytes += int64(length)
	s.progress.bytes.Add(int64(length))
	for s.rest = length; s.rest > 0; {
		if _, err := s.source.in.Peek(1); err != nil {
			return &sideError{side: SourceSide, part: i, err: cutShort(err)}
		}
		n := min(s.rest, s.source.in.Buffered())
		piece, err := s.source.in.Peek(n)
		if err != nil {
			return &sideError{side: SourceSide, part: i, err: err}
		}
		s.target.data(piece)
		if err := s.source.discard(n); err != nil {
			return &sideError{side: SourceSide, part: i, err: err}
		}
		s.rest -= n
		if len(s.target.out) >= frameBytes {
			if err := s.target.flush(); err != nil {
				return &sideError{side: TargetSide, part: i, err: err}
			}
		}
	}
	return nil
}

// pace gives rows their time under the limit; what was collected goes out before the pause.
func (s *splice) pace(ctx context.Context, i int, batch, rows int64) error {
	if batch == 0 {
		return nil
	}
	if err := s.target.flush(); err != nil {
		return &sideError{side: TargetSide, part: i, err: err}
	}
	return s.limit.wait(ctx, rows)
}

// finishPart reads what follows the data: the count, where the table is kept, the release of its lock.
func (s *splice) finishPart(r *result) error {
	for commands := 0; ; {
		kind, body, err := s.source.next()
		if err != nil {
			return err
		}
		switch kind {
		case msgCommandComplete:
			if commands == 0 {
				r.rows = tagRows(body)
			}
			commands++
		case msgRowDescription:
		case msgDataRow:
			if err := r.readFile(body); err != nil {
				return err
			}
		case msgReadyForQuery:
			s.due--
			return r.check()
		default:
			return unexpected(kind)
		}
	}
}

// readFile takes the two columns of fileOf.
func (r *result) readFile(body []byte) error {
	values := [2][]byte{}
	if len(body) < 2 || binary.BigEndian.Uint16(body) != 2 {
		return unexpected(msgDataRow)
	}
	body = body[2:]
	for i := range values {
		if len(body) < 4 {
			return unexpected(msgDataRow)
		}
		length := int(int32(binary.BigEndian.Uint32(body)))
		body = body[4:]
		if length < 0 {
			continue
		}
		if len(body) < length {
			return unexpected(msgDataRow)
		}
		values[i], body = body[:length], body[length:]
	}
	r.file = string(values[1])
	// VACUUM FULL and CLUSTER move a table too, but they keep what older snapshots see.
	if r.rows == 0 && !bytes.Equal(values[0], values[1]) {
		return ErrRewritten
	}
	return nil
}

// check fails when the table, as the snapshot knew it, is gone: another one of its name was read instead.
func (r *result) check() error {
	if r.file == "" {
		return ErrRewritten
	}
	return nil
}

// drain ends what the source still sends after a failure, and returns the session to the start of a part with its
// snapshot intact. An error means that the session has to be closed.
func (s *splice) drain(ctx context.Context, conn *pgx.Conn, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*abortWait)
	defer cancel()
	if err := s.source.conn.SetDeadline(time.Now().Add(abortWait)); err != nil {
		return err
	}
	// A source that failed by itself has ended its query already.
	if side, _ := errors.AsType[*sideError](cause); s.due > 0 && (side == nil || side.side == TargetSide) {
		if err := conn.PgConn().CancelRequest(ctx); err != nil {
			return err
		}
	}
	if err := s.source.discard(s.rest); err != nil {
		return err
	}
	for s.due > 0 {
		kind, length, err := s.source.header()
		if err != nil {
			return err
		}
		if err := s.source.discard(length); err != nil {
			return err
		}
		if kind == msgReadyForQuery {
			s.due--
		}
	}
	if err := s.source.settle(); err != nil {
		return err
	}
	if err := s.source.conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	_, err := conn.PgConn().Exec(ctx, "ROLLBACK TO SAVEPOINT part").ReadAll()
	return err
}
