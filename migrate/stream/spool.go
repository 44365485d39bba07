package stream

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync/atomic"
)

// spool holds back the messages of one transaction that has not committed yet: a little in memory, the rest in a
// file that has no name any more from the moment it is made, so that nothing is left behind however we end.
type spool struct {
	dir     string
	pending []byte // not yet in the file
	file    *os.File
	written int64         // bytes in the file
	records int           // messages
	total   *atomic.Int64 // bytes in all files of the reader
}

// spoolBuffer is what one transaction keeps in memory. There can be as many transactions as the source has sessions.
const spoolBuffer = 256 << 10

// add appends a copy of the message.
func (s *spool) add(message []byte) error {
	if len(s.pending)+4+len(message) > spoolBuffer && len(s.pending) > 0 {
		if err := s.write(s.pending); err != nil {
			return err
		}
		s.pending = s.pending[:0]
	}
	s.records++
	s.pending = binary.BigEndian.AppendUint32(s.pending, uint32(len(message)))
	if len(message) > spoolBuffer {
		// Not through the buffer: it would stay that large.
		header := s.pending
		s.pending = s.pending[:0]
		if err := s.write(header); err != nil {
			return err
		}
		return s.write(message)
	}
	s.pending = append(s.pending, message...)
	return nil
}

func (s *spool) write(data []byte) error {
	if s.file == nil {
		file, err := os.CreateTemp(s.dir, "slipway-spool-")
		if err != nil {
			return fmt.Errorf("spool a transaction: %w", err)
		}
		s.file = file
		if err := os.Remove(file.Name()); err != nil {
			return fmt.Errorf("spool a transaction: %w", err)
		}
	}
	if _, err := s.file.Write(data); err != nil {
		return fmt.Errorf("spool a transaction: %w", err)
	}
	s.written += int64(len(data))
	s.total.Add(int64(len(data)))
	return nil
}

// memory gives room for a message.
type memory interface {
	grab(ctx context.Context, n int) ([]byte, error)
}

// replay gives every message in order; each is in memory of its own from into.
func (s *spool) replay(ctx context.Context, into memory, each func(index int, message []byte) error) error {
	var in io.Reader = &sliceReader{s.pending}
	if s.file != nil {
		in = io.MultiReader(bufio.NewReaderSize(io.NewSectionReader(s.file, 0, s.written), spoolBuffer), in)
	}
	var header [4]byte
	for i := range s.records {
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return fmt.Errorf("read a spooled transaction: %w", spoolError{err})
		}
		message, err := into.grab(ctx, int(binary.BigEndian.Uint32(header[:])))
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(in, message); err != nil {
			return fmt.Errorf("read a spooled transaction: %w", spoolError{err})
		}
		if err := each(i, message); err != nil {
			return err
		}
	}
	return nil
}

// spoolError hides io.EOF, which elsewhere means that the connection was lost.
type spoolError struct{ cause error }

func (e spoolError) Error() string { return e.cause.Error() }

type sliceReader struct{ rest []byte }

func (r *sliceReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// reset empties the spool for the next transaction and gives the file's space back.
func (s *spool) reset() error {
	s.pending, s.records = s.pending[:0], 0
	s.total.Add(-s.written)
	s.written = 0
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	if err != nil {
		return fmt.Errorf("close a spool: %w", err)
	}
	return nil
}
