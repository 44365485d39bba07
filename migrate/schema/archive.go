package schema

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Archive is what pg_dump says about the structure of one database: the table of contents of a custom-format archive.
//
// Structure is pg_dump's, because its fidelity is the reference, but we read its archive and execute the entries
// ourselves over the wire protocol. So every object that fails is known by entry, statement and error, entries run in
// parallel by dependency and are recorded one by one, and no text of a foreign database ever reaches a program that
// takes commands from it (psql).
type Archive struct {
	// ServerVersion and DumpVersion are the version strings of the source and of pg_dump.
	ServerVersion, DumpVersion string
	// Raw is the archive itself when Dump made it: ReadArchive reads the same from it again.
	Raw []byte
	// Entries are in the order in which pg_dump would restore them.
	Entries []*Entry
}

// The versions of the archive format that we know. 1.12 (PostgreSQL 10) has all members that we need; 1.14 (12) added
// the access method, 1.15 (16) the compression algorithm, 1.16 (17) the relkind.
const (
	oldestFormat       = 12
	tableAMFormat      = 14
	compressionFormat  = 15
	relkindFormat      = 16
	newestFormat       = 16
	customFormat       = 1
	maxStringBytes     = 1 << 30 // a text value of the server has no more
	maxDependencies    = 1 << 24
	maxEntries         = 1 << 28
	dateFields         = 7
	offsetFlagBytes    = 1
	maxIntBytes        = 8
	usualDependencyCap = 4
)

// ErrArchive is wrapped by every error about bytes that are not an archive we can read.
var ErrArchive = errors.New("not a pg_dump archive that can be read")

// ReadArchive reads the header and the table of contents of a custom-format archive, and nothing behind them.
func ReadArchive(r io.Reader) (*Archive, error) {
	d := &archiveReader{r: bufio.NewReaderSize(r, 1<<16)}
	archive := &Archive{}
	if err := d.header(archive); err != nil {
		return nil, fmt.Errorf("read archive header: %w", err)
	}
	count := d.int()
	if d.err == nil && (count < 0 || count > maxEntries) {
		d.fail("%d entries", count)
	}
	for i := 0; d.err == nil && i < count; i++ {
		archive.Entries = append(archive.Entries, d.entry())
	}
	if d.err != nil {
		return nil, fmt.Errorf("read archive entry %d of %d: %w", len(archive.Entries), count, d.err)
	}
	assignKeys(archive.Entries)
	return archive, nil
}

// archiveReader keeps the first error; after it every read gives zero values.
type archiveReader struct {
	r          *bufio.Reader
	err        error
	minor      int // of the format's version 1.x
	intBytes   int
	offsetSize int
}

func (d *archiveReader) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrArchive, fmt.Sprintf(format, args...))
	}
}

func (d *archiveReader) header(archive *Archive) error {
	magic := make([]byte, 5)
	if _, err := io.ReadFull(d.r, magic); err != nil || string(magic) != "PGDMP" {
		return errors.Join(fmt.Errorf("%w: it does not begin with PGDMP", ErrArchive), err)
	}
	major, minor, _ := d.byte(), d.byte(), d.byte()
	if d.err == nil && (major != 1 || minor < oldestFormat || minor > newestFormat) {
		d.fail("format %d.%d, known are 1.%d to 1.%d", major, minor, oldestFormat, newestFormat)
	}
	d.minor, d.intBytes, d.offsetSize = int(minor), int(d.byte()), int(d.byte())
	if d.err == nil && (d.intBytes < 1 || d.intBytes > maxIntBytes || d.offsetSize < 1 || d.offsetSize > maxIntBytes) {
		d.fail("integers of %d and offsets of %d bytes", d.intBytes, d.offsetSize)
	}
	if format := d.byte(); d.err == nil && format != customFormat {
		d.fail("container %d is not the custom format", format)
	}
	if d.minor >= compressionFormat {
		d.byte()
	} else {
		d.int()
	}
	for range dateFields {
		d.int()
	}
	d.string() // the database's name
	archive.ServerVersion, _ = d.string()
	archive.DumpVersion, _ = d.string()
	return d.err
}

func (d *archiveReader) entry() *Entry {
	e := &Entry{ID: d.int()}
	if d.err == nil && e.ID <= 0 {
		d.fail("entry number %d", e.ID)
	}
	d.int() // whether data follows
	e.ClassOID, e.OID = d.oid(), d.oid()
	e.Tag, _ = d.string()
	e.Desc, _ = d.string()
	e.Section = Section(d.int())
	e.SQL, _ = d.string()
	e.DropSQL, _ = d.string()
	d.string() // the COPY statement
	e.Schema, _ = d.string()
	e.Tablespace, _ = d.string()
	if d.minor >= tableAMFormat {
		e.TableAM, _ = d.string()
	}
	if d.minor >= relkindFormat {
		e.Relkind = Kind(d.int())
	}
	e.Owner, _ = d.string()
	d.string() // WITH OIDS, which no version that we write to has
	e.Depends = d.dependencies()
	d.skip(offsetFlagBytes + d.offsetSize)
	return e
}

func (d *archiveReader) dependencies() []int {
	var depends []int
	for d.err == nil {
		text, ok := d.string()
		if !ok {
			break
		}
		id, err := strconv.Atoi(text)
		if err != nil || len(depends) >= maxDependencies {
			d.fail("dependency %q", text)
			break
		}
		if depends == nil {
			depends = make([]int, 0, usualDependencyCap)
		}
		depends = append(depends, id)
	}
	return depends
}

// oid reads an OID, which the archive keeps as text.
func (d *archiveReader) oid() uint32 {
	text, ok := d.string()
	if d.err != nil || !ok {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		d.fail("OID %q", text)
	}
	return uint32(n)
}

// int reads a sign byte and the value, least significant byte first.
func (d *archiveReader) int() int {
	negative := d.byte() != 0
	var n uint64
	for i := range d.intBytes {
		n |= uint64(d.byte()) << (8 * i)
	}
	if d.err == nil && n > 1<<31-1 {
		d.fail("integer %d is too large", n)
	}
	if d.err != nil {
		return 0
	}
	if negative {
		return -int(n)
	}
	return int(n)
}

// string reads a length and that many bytes; ok is false for the NULL string, which has length -1. Memory grows with
// the bytes that are there, not with the length that is claimed.
func (d *archiveReader) string() (s string, ok bool) {
	n := d.int()
	if d.err != nil || n < 0 {
		return "", false
	}
	if n > maxStringBytes {
		d.fail("string of %d bytes", n)
		return "", false
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, d.r, int64(n)); err != nil {
		d.truncated(err)
		return "", false
	}
	return b.String(), true
}

func (d *archiveReader) byte() byte {
	if d.err != nil {
		return 0
	}
	b, err := d.r.ReadByte()
	if err != nil {
		d.truncated(err)
	}
	return b
}

func (d *archiveReader) skip(n int) {
	if d.err != nil {
		return
	}
	if _, err := d.r.Discard(n); err != nil {
		d.truncated(err)
	}
}

func (d *archiveReader) truncated(err error) {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	d.err = fmt.Errorf("%w: %w", ErrArchive, err)
}
