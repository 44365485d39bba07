package stream

import (
	"context"
	"fmt"

	"github.com/slipway-db/slipway/postgres"
)

// pgoutput decodes the messages of PostgreSQL's own output plugin, protocol versions 1 and 2. It does no I/O but for
// the spools of streamed transactions, and knows nothing of the connection.
type pgoutput struct {
	out *builder
	// relations as the server described them outside of streamed transactions or in committed ones.
	relations map[uint32]described
	// seen counts descriptions, so that the latest one wins when a streamed transaction commits.
	seen uint64

	// open is the transaction between BEGIN and COMMIT, and whether its Begin was delivered: it is held back until
	// there is a change, because many transactions touch nothing that is published.
	open      *Event
	delivered bool

	// streams are the transactions that the server sends before their end; streaming is the one whose block is open.
	streams   map[uint32]*streamed
	streaming *streamed
	newSpool  func() *spool
}

// described is a relation with the number of the message that described it.
type described struct {
	relation *Relation
	seen     uint64
}

func newPgoutput(out *builder, newSpool func() *spool) *pgoutput {
	return &pgoutput{out: out, relations: map[uint32]described{}, streams: map[uint32]*streamed{}, newSpool: newSpool}
}

// between tells whether no transaction and no block of a streamed one is open.
func (d *pgoutput) between() bool { return d.open == nil && d.streaming == nil }

// message decodes one message. The position that the server sent along is not needed.
func (d *pgoutput) message(ctx context.Context, _ postgres.LSN, body []byte) error {
	c := cursor{data: body}
	kind := c.byte()
	if c.err != nil {
		return c.err
	}
	var err error
	if d.streaming != nil {
		err = d.inBlock(kind, &c, body)
	} else {
		err = d.outside(ctx, kind, &c)
	}
	if err != nil {
		return fmt.Errorf("pgoutput message %q: %w", kind, err)
	}
	return nil
}

// outside decodes what is not in a block of a streamed transaction.
func (d *pgoutput) outside(ctx context.Context, kind byte, c *cursor) error {
	switch kind {
	case 'B':
		return d.begin(c)
	case 'C':
		return d.commit(ctx, c)
	case 'O': // origin: where the change was first made; all of them are ours to follow
		c.lsn()
		c.string()
		return c.end()
	case 'R':
		relation := readRelation(c)
		if err := c.end(); err != nil {
			return err
		}
		d.describe(relation)
		return nil
	case 'Y':
		return readType(c)
	case 'M':
		return readLogicalMessage(c)
	case 'I', 'U', 'D', 'T':
		if d.open == nil {
			return fmt.Errorf("%w: a change outside of a transaction", ErrProtocol)
		}
		if err := d.deliverBegin(ctx); err != nil {
			return err
		}
		return d.change(ctx, kind, c, d.lookup)
	case 'S':
		return d.streamStart(c)
	case 'c':
		return d.streamCommit(ctx, c)
	case 'A':
		return d.streamAbort(c)
	}
	return fmt.Errorf("%w: unknown kind", ErrProtocol)
}

func (d *pgoutput) begin(c *cursor) error {
	e := Event{LSN: c.lsn(), CommitTime: c.time(), XID: c.uint32()}
	if err := c.end(); err != nil {
		return err
	}
	if d.open != nil {
		return fmt.Errorf("%w: transaction %d begins inside transaction %d", ErrProtocol, e.XID, d.open.XID)
	}
	d.open, d.delivered = &e, false
	return nil
}

func (d *pgoutput) deliverBegin(ctx context.Context) error {
	if d.delivered {
		return nil
	}
	d.delivered = true
	return d.out.begin(ctx, *d.open)
}

func (d *pgoutput) commit(ctx context.Context, c *cursor) error {
	c.byte() // flags, unused
	start, end, at := c.lsn(), c.lsn(), c.time()
	if err := c.end(); err != nil {
		return err
	}
	if d.open == nil || d.open.LSN != start {
		return fmt.Errorf("%w: the commit at %s does not belong to the open transaction", ErrProtocol, start)
	}
	xid := d.open.XID
	d.open = nil
	if !d.delivered {
		return d.out.position(ctx, end)
	}
	return d.out.commit(ctx, Event{LSN: end, CommitTime: at, XID: xid})
}

// describe takes a description over. One that says nothing new leaves the known Relation in place.
func (d *pgoutput) describe(relation *Relation) {
	d.seen++
	if known, ok := d.relations[relation.OID]; ok && known.relation.equal(relation) {
		relation = known.relation
	}
	d.relations[relation.OID] = described{relation, d.seen}
}

func (d *pgoutput) lookup(oid uint32) *Relation { return d.relations[oid].relation }

// change decodes an insert, update, delete or truncate.
func (d *pgoutput) change(ctx context.Context, kind byte, c *cursor, lookup func(uint32) *Relation) error {
	e := Event{Kind: EventKind(kind)}
	if kind == 'T' {
		d.truncate(c, &e, lookup)
	} else {
		oid := c.uint32()
		if e.Relation = lookup(oid); e.Relation == nil {
			c.fail("relation %d was not described", oid)
		}
	}
	if c.err != nil {
		return c.err
	}
	part := byte(0)
	if kind != 'T' {
		part = c.byte()
	}
	if (kind == 'U' || kind == 'D') && (part == 'K' || part == 'O') {
		e.OldIsKey = part == 'K'
		e.Old = d.tuple(c, e.Relation, e.OldIsKey)
		if kind == 'U' {
			part = c.byte()
		}
	} else if kind == 'D' {
		c.fail("a delete without its old row")
	}
	if kind == 'I' || kind == 'U' {
		if part != 'N' {
			c.fail("%q in place of the new row", part)
		}
		e.New = d.tuple(c, e.Relation, false)
	}
	if err := c.end(); err != nil {
		return err
	}
	return d.out.change(ctx, e)
}

func (d *pgoutput) truncate(c *cursor, e *Event, lookup func(uint32) *Relation) {
	n := int(c.uint32())
	flags := c.byte()
	if n > len(c.data)/4 {
		c.fail("%d relations in %d bytes", n, len(c.data))
		return
	}
	if flags&^3 != 0 {
		c.fail("unknown flags %x", flags)
	}
	e.Cascade, e.RestartIdentity = flags&1 != 0, flags&2 != 0
	e.Relations = make([]*Relation, n)
	for i := range e.Relations {
		oid := c.uint32()
		if e.Relations[i] = lookup(oid); e.Relations[i] == nil {
			c.fail("relation %d was not described", oid)
		}
	}
}

// tuple reads a row. In a key the server sends NULL for columns outside of it.
func (d *pgoutput) tuple(c *cursor, relation *Relation, isKey bool) *Tuple {
	n := int(c.uint16())
	if c.err != nil {
		return nil
	}
	if n != len(relation.Columns) || n > len(c.data) {
		c.fail("%d columns in %d bytes for %s.%s, which has %d", n, len(c.data), relation.Schema, relation.Name, len(relation.Columns))
		return nil
	}
	t := d.out.tuple(n)
	for i := range t.Values {
		v := Value{}
		switch kind := c.byte(); kind {
		case 'n':
			v.Kind = Null
			if isKey && !relation.Columns[i].Key {
				v.Kind = Absent
			}
		case 'u':
			v.Kind = Unchanged
		case 't':
			v.Kind, v.Data = Text, c.bytes(int(c.uint32()))
		default:
			c.fail("unknown kind of value %q", kind)
		}
		t.Values[i] = v
	}
	return t
}

// readRelation reads a description of a table.
func readRelation(c *cursor) *Relation {
	r := &Relation{OID: c.uint32(), Schema: c.string(), Name: c.string(), Identity: c.byte()}
	if r.Schema == "" {
		r.Schema = "pg_catalog" // which the server abbreviates
	}
	n := int(c.uint16())
	if n > len(c.data)/10 { // flags, an empty name, type, modifier
		c.fail("%d columns in %d bytes", n, len(c.data))
		return r
	}
	r.Columns = make([]RelationColumn, n)
	for i := range r.Columns {
		flags := c.byte()
		if flags&^1 != 0 {
			c.fail("unknown flags %x of a column", flags)
		}
		r.Columns[i] = RelationColumn{Key: flags == 1, Name: c.string(), TypeOID: c.uint32(), TypeMod: int32(c.uint32())}
	}
	return r
}

// readType checks a description of a type, which nobody needs: values are text.
func readType(c *cursor) error {
	c.uint32()
	c.string()
	c.string()
	return c.end()
}

// readLogicalMessage checks what pg_logical_emit_message wrote. It is not asked for and not for us.
func readLogicalMessage(c *cursor) error {
	c.byte()
	c.lsn()
	c.string()
	c.bytes(int(c.uint32()))
	return c.end()
}

// equal compares definitions.
func (r *Relation) equal(other *Relation) bool {
	if r.OID != other.OID || r.Schema != other.Schema || r.Name != other.Name || r.Identity != other.Identity ||
		len(r.Columns) != len(other.Columns) {
		return false
	}
	for i := range r.Columns {
		if r.Columns[i] != other.Columns[i] {
			return false
		}
	}
	return true
}

func (d *pgoutput) close() error { return d.closeStreams() }
