package snapshot

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Sizes of the buffers of a COPY. Rows larger than a buffer pass through in pieces, so memory does not depend on them.
const (
	readBuffer  = 256 << 10 // the source's data
	replyBuffer = 4 << 10   // the target's answers
	frameBytes  = 256 << 10 // one CopyData message to the target, and the size at which the buffer is written out
)

// Message types of the protocol that a COPY meets.
const (
	msgQuery           = 'Q'
	msgCopyData        = 'd'
	msgCopyDone        = 'c'
	msgCopyFail        = 'f'
	msgCopyInResponse  = 'G'
	msgCopyOutResponse = 'H'
	msgCommandComplete = 'C'
	msgRowDescription  = 'T'
	msgDataRow         = 'D'
	msgReadyForQuery   = 'Z'
	msgErrorResponse   = 'E'
	msgNotice          = 'N'
	msgParameterStatus = 'S'
	msgNotification    = 'A'
)

// headerBytes is the type and the length in front of every message.
const headerBytes = 5

// expired is a deadline that interrupts whoever reads or writes.
var expired = time.Unix(1, 0)

// wire speaks the protocol on the socket of a session whose driver is idle. The driver's own COPY takes one message
// per row through a pipe; here rows go from one buffer to the other without being looked at.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
	// frame is the position in out of the CopyData message that takes rows now, -1 when none is open.
	frame int
}

func newWire(readSize int) *wire {
	return &wire{in: bufio.NewReaderSize(nil, readSize), frame: -1}
}

// take borrows the socket from an idle session. The session is usable again once the last message that was read from
// the wire is the ReadyForQuery of the last query.
func (w *wire) take(ctx context.Context, conn *pgconn.PgConn) error {
	if err := conn.SyncConn(ctx); err != nil {
		return err
	}
	w.conn = conn.Conn()
	w.in.Reset(w.conn)
	w.out, w.frame = w.out[:0], -1
	return nil
}

// header reads the type and the length of the body of the next message.
func (w *wire) header() (byte, int, error) {
	head, err := w.in.Peek(headerBytes)
	if err != nil {
		return 0, 0, cutShort(err)
	}
	kind, length := head[0], int(int32(binary.BigEndian.Uint32(head[1:])))-4
	if length < 0 {
		return 0, 0, fmt.Errorf("protocol: message %q of %d bytes", kind, length)
	}
	_, err = w.in.Discard(headerBytes)
	return kind, length, err
}

// cutShort makes the end of the stream between messages what it is: a lost connection.
func cutShort(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// body reads a message that is not data.
func (w *wire) body(length int) ([]byte, error) {
	body := make([]byte, length)
	_, err := io.ReadFull(w.in, body)
	return body, cutShort(err)
}

// next reads the next message that is not data and not asynchronous. An ErrorResponse becomes the error.
func (w *wire) next() (byte, []byte, error) {
	for {
		kind, length, err := w.header()
		if err != nil {
			return 0, nil, err
		}
		if kind == msgCopyData {
			return kind, nil, w.discard(length)
		}
		body, err := w.body(length)
		if err != nil {
			return 0, nil, err
		}
		switch kind {
		case msgNotice, msgParameterStatus, msgNotification:
		case msgErrorResponse:
			return kind, nil, serverError(body)
		default:
			return kind, body, nil
		}
	}
}

func (w *wire) discard(length int) error {
	_, err := w.in.Discard(length)
	return cutShort(err)
}

// settle handles what the server sent of its own accord after the last answer, so that nothing of it is lost to the
// driver: above all the reason why it ends the session.
func (w *wire) settle() error {
	for w.in.Buffered() > 0 {
		kind, length, err := w.header()
		if err != nil {
			return err
		}
		body, err := w.body(length)
		if err != nil {
			return err
		}
		switch kind {
		case msgNotice, msgParameterStatus, msgNotification:
		case msgErrorResponse:
			return serverError(body)
		default:
			return unexpected(kind)
		}
	}
	return nil
}

func serverError(body []byte) error {
	msg := pgproto3.ErrorResponse{}
	if err := msg.Decode(body); err != nil {
		return fmt.Errorf("protocol: error response: %w", err)
	}
	return pgconn.ErrorResponseToPgError(&msg)
}

func unexpected(kind byte) error { return fmt.Errorf("protocol: unexpected message %q", kind) }

// tagRows is the number in the command tag of COPY.
func tagRows(body []byte) int64 {
	return pgconn.NewCommandTag(string(bytes.TrimRight(body, "\x00"))).RowsAffected()
}

// query appends a simple query.
func (w *wire) query(sql string) {
	w.message(msgQuery, append([]byte(sql), 0))
}

// message closes an open data frame and appends a message.
func (w *wire) message(kind byte, body []byte) {
	w.closeFrame()
	w.out = append(w.out, kind)
	w.out = binary.BigEndian.AppendUint32(w.out, uint32(len(body)+4))
	w.out = append(w.out, body...)
}

// data appends bytes of a COPY stream; how they are cut into messages has no meaning to the server.
func (w *wire) data(b []byte) {
	if w.frame < 0 {
		w.frame = len(w.out)
		w.out = append(w.out, msgCopyData, 0, 0, 0, 0)
	}
	w.out = append(w.out, b...)
}

func (w *wire) closeFrame() {
	if w.frame >= 0 {
		binary.BigEndian.PutUint32(w.out[w.frame+1:], uint32(len(w.out)-w.frame-1))
		w.frame = -1
	}
}

// flush writes out what was appended.
func (w *wire) flush() error {
	w.closeFrame()
	if len(w.out) == 0 {
		return nil
	}
	_, err := w.conn.Write(w.out)
	w.out = w.out[:0]
	return err
}
