package stream

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/slipway-db/slipway/postgres"
)

// wire is a walsender connection in the hands of the reader. One goroutine may read while another one writes.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
	head [5]byte
	out  []byte // of the writer
}

// readBuffer is what is read from the socket at once.
const readBuffer = 64 << 10

// writeTimeout bounds how long the server may leave a status message unread. It reads them even while it sends.
const writeTimeout = time.Minute

// maxMessage is the protocol's limit for one message.
const maxMessage = 1<<30 - 1

// newWire takes the connection over. It must be idle.
func newWire(conn *pgconn.PgConn) (*wire, error) {
	taken, err := conn.Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the replication connection: %w", err)
	}
	if n := taken.Frontend.ReadBufferLen(); n > 0 {
		_ = taken.Conn.Close()
		return nil, fmt.Errorf("%w: %d bytes before the stream was asked for", ErrProtocol, n)
	}
	return &wire{conn: taken.Conn, in: bufio.NewReaderSize(taken.Conn, readBuffer)}, nil
}

// header waits for the next message and returns its type and the length of its body.
func (w *wire) header() (byte, int, error) {
	if _, err := io.ReadFull(w.in, w.head[:]); err != nil {
		return 0, 0, fmt.Errorf("read from the source: %w", err)
	}
	length := binary.BigEndian.Uint32(w.head[1:])
	if length < 4 || length > maxMessage {
		return 0, 0, fmt.Errorf("%w: type %q with length %d", ErrProtocol, w.head[0], length)
	}
	return w.head[0], int(length) - 4, nil
}

// fill reads the body that header announced.
func (w *wire) fill(body []byte) error {
	if _, err := io.ReadFull(w.in, body); err != nil {
		return fmt.Errorf("read from the source: %w", err)
	}
	return nil
}

// atHand tells whether a message (at least its header) was read from the socket already.
func (w *wire) atHand() bool { return w.in.Buffered() >= len(w.head) }

// startCopy sends a replication command and waits until the server streams. After an error of the server the
// connection can take another command.
func (w *wire) startCopy(command string) error {
	query, err := (&pgproto3.Query{String: command}).Encode(nil)
	if err != nil {
		return err
	}
	if err := w.write(query); err != nil {
		return err
	}
	var refused error
	for {
		kind, n, err := w.header()
		if err != nil {
			return err
		}
		body := make([]byte, n)
		if err := w.fill(body); err != nil {
			return err
		}
		switch kind {
		case 'W': // CopyBothResponse
			return nil
		case 'E':
			if refused, err = serverError(body); err != nil {
				return err
			}
		case 'Z': // ready for the next command
			if refused != nil {
				return refused
			}
			return fmt.Errorf("%w: no answer to START_REPLICATION", ErrProtocol)
		case 'N', 'S':
		default:
			return fmt.Errorf("%w: type %q in answer to START_REPLICATION", ErrProtocol, kind)
		}
	}
}

// serverError reads an ErrorResponse; the second error is about the message itself.
func serverError(body []byte) (error, error) {
	var response pgproto3.ErrorResponse
	if err := response.Decode(body); err != nil {
		return nil, fmt.Errorf("%w: error response: %w", ErrProtocol, err)
	}
	return pgconn.ErrorResponseToPgError(&response), nil
}

// status is a standby status update.
type status struct {
	written, flushed postgres.LSN
	at               time.Time
	askReply         bool
}

// sendStatus is for the writing goroutine.
func (w *wire) sendStatus(s status) error {
	const body = 1 + 3*8 + 8 + 1
	w.out = append(w.out[:0], 'd')
	w.out = binary.BigEndian.AppendUint32(w.out, 4+body)
	w.out = append(w.out, 'r')
	w.out = binary.BigEndian.AppendUint64(w.out, uint64(s.written))
	w.out = binary.BigEndian.AppendUint64(w.out, uint64(s.flushed))
	w.out = binary.BigEndian.AppendUint64(w.out, uint64(s.flushed)) // applied: visible on the target
	w.out = binary.BigEndian.AppendUint64(w.out, uint64(s.at.UnixMicro()-epoch*1e6))
	if s.askReply {
		w.out = append(w.out, 1)
	} else {
		w.out = append(w.out, 0)
	}
	return w.write(w.out)
}

// sendTerminate ends the session.
func (w *wire) sendTerminate() error { return w.write([]byte{'X', 0, 0, 0, 4}) }

func (w *wire) write(message []byte) error {
	if err := w.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("write to the source: %w", err)
	}
	if _, err := w.conn.Write(message); err != nil {
		return fmt.Errorf("write to the source: %w", err)
	}
	return nil
}

// goodbye ends the session in order, so that the slot is free at once, and waits for the server to hang up, but not
// for long. What the server still sends is thrown away: it was not acknowledged and will be sent again.
func (w *wire) goodbye(last status) {
	const patience = 5 * time.Second
	if w.sendStatus(last) == nil && w.sendTerminate() == nil && w.conn.SetReadDeadline(time.Now().Add(patience)) == nil {
		_, _ = io.Copy(io.Discard, w.in) // ends with the connection, in whatever way
	}
}
