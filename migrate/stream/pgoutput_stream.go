package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// streamed is a transaction that the server sends before it ends, because it is large. Its changes wait in a spool
// until it commits; then they are delivered as if it had come at once.
type streamed struct {
	xid   uint32
	spool *spool
	// relations that were described in it, in order. The server describes a relation once per streamed transaction,
	// even when the first subtransaction to use it was rolled back since, so that none of these may be dropped before
	// the transaction ends.
	relations []streamedRelation
	known     map[uint32]int // where in relations the last one of an OID is
	aborted   []uint32       // subtransactions that were rolled back
}

// streamedRelation holds from the record of the spool on that has its index.
type streamedRelation struct {
	index int
	described
}

func (d *pgoutput) streamStart(c *cursor) error {
	xid, first := c.uint32(), c.byte()
	if err := c.end(); err != nil {
		return err
	}
	if d.open != nil {
		return fmt.Errorf("%w: a streamed block inside transaction %d", ErrProtocol, d.open.XID)
	}
	s := d.streams[xid]
	switch {
	case first == 1 && s == nil:
		s = &streamed{xid: xid, spool: d.newSpool(), known: map[uint32]int{}}
		d.streams[xid] = s
	case first != 0 || s == nil:
		return fmt.Errorf("%w: block of streamed transaction %d out of order", ErrProtocol, xid)
	}
	d.streaming = s
	return nil
}

// inBlock takes what comes between stream start and stream stop. Changes are kept as they are, descriptions are read.
func (d *pgoutput) inBlock(kind byte, c *cursor, body []byte) error {
	switch kind {
	case 'E':
		d.streaming = nil
		return c.end()
	case 'I', 'U', 'D', 'T':
		return d.streaming.spool.add(body)
	case 'R':
		c.uint32() // subtransaction
		relation := readRelation(c)
		if err := c.end(); err != nil {
			return err
		}
		d.describeStreamed(relation)
		return nil
	case 'Y':
		c.uint32()
		return readType(c)
	case 'M':
		c.uint32()
		return readLogicalMessage(c)
	case 'O':
		c.lsn()
		c.string()
		return c.end()
	}
	return fmt.Errorf("%w: unknown kind in a streamed block", ErrProtocol)
}

func (d *pgoutput) describeStreamed(relation *Relation) {
	s := d.streaming
	d.seen++
	if i, ok := s.known[relation.OID]; ok && s.relations[i].relation.equal(relation) {
		s.relations[i].seen = d.seen // nothing new, but the latest word on the relation
		return
	}
	if global, ok := d.relations[relation.OID]; ok && global.relation.equal(relation) {
		relation = global.relation
	}
	s.known[relation.OID] = len(s.relations)
	s.relations = append(s.relations, streamedRelation{s.spool.records, described{relation, d.seen}})
}

func (d *pgoutput) streamCommit(ctx context.Context, c *cursor) error {
	xid := c.uint32()
	c.byte() // flags, unused
	start, end, at := c.lsn(), c.lsn(), c.time()
	if err := c.end(); err != nil {
		return err
	}
	s := d.streams[xid]
	if s == nil || d.open != nil {
		return fmt.Errorf("%w: commit of streamed transaction %d, of which nothing was sent", ErrProtocol, xid)
	}
	d.open, d.delivered = &Event{LSN: start, CommitTime: at, XID: xid}, false
	if err := d.deliverStreamed(ctx, s); err != nil {
		return err
	}
	delivered := d.delivered
	d.open = nil
	if err := d.endStream(s); err != nil {
		return err
	}
	if !delivered {
		return d.out.position(ctx, end)
	}
	return d.out.commit(ctx, Event{LSN: end, CommitTime: at, XID: xid})
}

// deliverStreamed delivers the spooled changes but those of subtransactions that were rolled back.
//
// The descriptions that came with them hold only here while it goes on. At the end each becomes the known one unless
// the server has described the relation anew since: that is what the server takes for granted from then on.
func (d *pgoutput) deliverStreamed(ctx context.Context, s *streamed) error {
	slices.Sort(s.aborted)
	current := map[uint32]*Relation{}
	lookup := func(oid uint32) *Relation { return current[oid] }
	next := 0
	err := s.spool.replay(ctx, d.out, func(index int, message []byte) error {
		for ; next < len(s.relations) && s.relations[next].index <= index; next++ {
			current[s.relations[next].relation.OID] = s.relations[next].relation
		}
		c := cursor{data: message}
		kind := c.byte()
		subxid := c.uint32()
		if _, gone := slices.BinarySearch(s.aborted, subxid); gone {
			return c.err
		}
		if err := d.deliverBegin(ctx); err != nil {
			return err
		}
		return d.change(ctx, kind, &c, lookup)
	})
	if err != nil {
		return err
	}
	for _, r := range s.relations {
		if known := d.relations[r.relation.OID]; known.seen < r.seen {
			d.relations[r.relation.OID] = r.described
		}
	}
	return nil
}

// streamAbort forgets a streamed transaction, or the changes of one of its subtransactions. Nested ones are rolled
// back by messages of their own.
func (d *pgoutput) streamAbort(c *cursor) error {
	xid, subxid := c.uint32(), c.uint32()
	if err := c.end(); err != nil {
		return err
	}
	s := d.streams[xid]
	switch {
	case s == nil:
		return nil // nothing of it was sent, so there is nothing to forget
	case xid == subxid:
		return d.endStream(s)
	}
	s.aborted = append(s.aborted, subxid)
	return nil
}

func (d *pgoutput) endStream(s *streamed) error {
	delete(d.streams, s.xid)
	return s.spool.reset()
}

func (d *pgoutput) closeStreams() error {
	var errs []error
	for _, s := range d.streams {
		errs = append(errs, d.endStream(s))
	}
	return errors.Join(errs...)
}
