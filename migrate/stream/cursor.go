package stream

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/slipway-db/slipway/postgres"
)

// cursor reads the fields of one message. It never reads past the end: the first field that does not fit sets err,
// and everything after that is zero. Slices that it returns are parts of the message.
type cursor struct {
	data []byte
	err  error
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, args...)...)
	}
}

func (c *cursor) bytes(n int) []byte {
	if c.err != nil {
		return nil
	}
	if n < 0 || n > len(c.data) {
		c.fail("%d bytes wanted, %d left", n, len(c.data))
		return nil
	}
	taken := c.data[:n:n]
	c.data = c.data[n:]
	return taken
}

func (c *cursor) byte() byte {
	if b := c.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if b := c.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if b := c.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if b := c.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) lsn() postgres.LSN { return postgres.LSN(c.uint64()) }

// string reads a NUL-terminated string.
func (c *cursor) string() string {
	if c.err != nil {
		return ""
	}
	end := bytes.IndexByte(c.data, 0)
	if end < 0 {
		c.fail("a string without its end")
		return ""
	}
	s := string(c.data[:end])
	c.data = c.data[end+1:]
	return s
}

// epoch is where PostgreSQL's timestamps begin, in Unix seconds: 2000-01-01.
const epoch = 946684800

// time reads microseconds since PostgreSQL's epoch.
func (c *cursor) time() time.Time {
	return serverTime(int64(c.uint64()))
}

func serverTime(microseconds int64) time.Time {
	// UnixMicro cannot take the sum in all cases, so that the seconds are moved to Unix's epoch by themselves.
	return time.Unix(microseconds/1e6+epoch, microseconds%1e6*1000).UTC()
}

// end makes sure that nothing is left: an unknown field is as bad as a missing one.
func (c *cursor) end() error {
	if c.err == nil && len(c.data) > 0 {
		c.fail("%d bytes more than expected", len(c.data))
	}
	return c.err
}
