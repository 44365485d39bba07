package stream

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/slipway-db/slipway/postgres"
)

// testDecoding decodes the text of test_decoding.
//
// The text of BEGIN says neither where the transaction commits nor when, so that each transaction waits in the spool
// for its COMMIT. Even that comes only with the end of the commit record. Begin.LSN, its start, is not known; the
// byte before the end stands for it. Where it matters, in comparing it with a snapshot's consistent point, both give
// the same: that point is the end of some record, and no record's end lies inside the commit record.
type testDecoding struct {
	out    *builder
	spool  *spool // of the open transaction
	chosen func(schema, name string) bool
	tables tableSource

	inside bool
	xid    uint32
	known  map[string]*textTable // by the name as the server quotes it
	text   textChange            // scratch

	// oids tells that the server is older than PostgreSQL 12: tables may have the system column oid, which comes first
	// in their rows. No column of a user can have that name there.
	oids bool
}

// tableSource knows tables as they are now. A missing table is nil.
type tableSource interface {
	table(ctx context.Context, schema, name string) (*Relation, error)
}

// textTable is a table by its quoted name. A table that is not chosen has no relation.
type textTable struct {
	schema, name string
	chosen       bool
	relation     *Relation
	// columns are names and types as the server prints them for a whole row, to notice a new definition.
	columns []textColumn
}

// textColumn is a column; quoted is its name as the server prints it, empty when it was not seen in a message yet.
type textColumn struct{ quoted, name, typeName string }

func newTestDecoding(out *builder, s *spool, chosen func(string, string) bool, tables tableSource) *testDecoding {
	return &testDecoding{out: out, spool: s, chosen: chosen, tables: tables, known: map[string]*textTable{}}
}

func (d *testDecoding) between() bool { return !d.inside }

func (d *testDecoding) close() error { return d.spool.reset() }

var (
	beginPrefix   = []byte("BEGIN ")
	commitPrefix  = []byte("COMMIT ")
	tablePrefix   = []byte("table ")
	messagePrefix = []byte("message: ")
)

// message decodes one message; the position of a COMMIT is the end of the commit record.
func (d *testDecoding) message(ctx context.Context, lsn postgres.LSN, body []byte) error {
	switch {
	case bytes.HasPrefix(body, tablePrefix):
		return d.keep(body)
	case bytes.HasPrefix(body, beginPrefix):
		xid, err := strconv.ParseUint(string(body[len(beginPrefix):]), 10, 32)
		if err != nil || d.inside {
			return fmt.Errorf("%w: %.100q", ErrProtocol, body)
		}
		d.inside, d.xid = true, uint32(xid)
		return nil
	case bytes.HasPrefix(body, commitPrefix):
		return d.commit(ctx, lsn, body)
	case bytes.HasPrefix(body, messagePrefix):
		return nil // pg_logical_emit_message, not for us
	}
	return fmt.Errorf("%w: %.100q", ErrProtocol, body)
}

// keep spools a change unless none of its tables is chosen.
func (d *testDecoding) keep(body []byte) error {
	if !d.inside {
		return fmt.Errorf("%w: a change outside of a transaction", ErrProtocol)
	}
	if err := d.text.parseTables(body[len(tablePrefix):]); err != nil {
		return err
	}
	if !slices.ContainsFunc(d.text.tables, func(quoted []byte) bool { return d.find(quoted).chosen }) {
		return nil
	}
	return d.spool.add(body)
}

// find knows the table of a quoted name.
func (d *testDecoding) find(quoted []byte) *textTable {
	t := d.known[string(quoted)]
	if t == nil {
		t = &textTable{chosen: true}
		t.schema, t.name = splitQualified(string(quoted))
		if d.chosen != nil {
			t.chosen = d.chosen(t.schema, t.name)
		}
		d.known[string(quoted)] = t
	}
	return t
}

func (d *testDecoding) commit(ctx context.Context, end postgres.LSN, body []byte) error {
	xid, at, err := parseCommit(body[len(commitPrefix):])
	if err != nil {
		return err
	}
	if !d.inside || xid != d.xid || end == 0 {
		return fmt.Errorf("%w: commit of transaction %d at %s", ErrProtocol, xid, end)
	}
	d.inside = false
	if d.spool.records == 0 {
		return d.out.position(ctx, end)
	}
	if err := d.out.begin(ctx, Event{LSN: end - 1, CommitTime: at, XID: xid}); err != nil {
		return err
	}
	err = d.spool.replay(ctx, d.out, func(_ int, message []byte) error { return d.change(ctx, message) })
	if err != nil {
		return err
	}
	if err := d.spool.reset(); err != nil {
		return err
	}
	return d.out.commit(ctx, Event{LSN: end, CommitTime: at, XID: xid})
}

// change decodes a spooled change, whose memory is the builder's.
func (d *testDecoding) change(ctx context.Context, message []byte) error {
	text := &d.text
	if err := text.parse(message[len(tablePrefix):]); err != nil {
		return err
	}
	if d.oids {
		text.old, text.fresh = withoutOID(text.old), withoutOID(text.fresh)
	}
	if text.kind == Truncate {
		return d.truncate(ctx)
	}
	t := d.find(text.tables[0])
	e := Event{Kind: text.kind}
	if err := d.describe(ctx, t); err != nil {
		return err
	}
	if text.hasNew {
		e.New = d.out.tuple(len(text.fresh))
		for i := range text.fresh {
			e.New.Values[i] = text.fresh[i].value
		}
	}
	if text.hasOld {
		if err := d.old(t, &e); err != nil {
			return err
		}
	} else if text.kind == Delete || (text.kind == Update && !canIdentify(t.relation)) {
		return fmt.Errorf("%w: a change of %s.%s", ErrNoIdentity, t.schema, t.name)
	}
	if text.kind != Delete && !text.hasNew {
		return fmt.Errorf("%w: a change of %s.%s without its new row", ErrProtocol, t.schema, t.name)
	}
	e.Relation = t.relation
	return d.out.change(ctx, e)
}

// withoutOID leaves the system column out: it is not part of the table's data and later versions have none.
func withoutOID(row []textField) []textField {
	if len(row) > 0 && string(row[0].name) == "oid" && string(row[0].typeName) == "oid" {
		return row[1:]
	}
	return row
}

func (d *testDecoding) truncate(ctx context.Context) error {
	e := Event{Kind: Truncate, Cascade: d.text.cascade, RestartIdentity: d.text.restart}
	for _, quoted := range d.text.tables {
		t := d.find(quoted)
		if !t.chosen {
			continue
		}
		if t.relation == nil {
			if err := d.load(ctx, t); err != nil {
				return err
			}
		}
		e.Relations = append(e.Relations, t.relation)
	}
	return d.out.change(ctx, e)
}

// describe makes sure that the relation is the one of the change: a new row with other columns than known before, or
// an old one with unknown columns, means that the table was altered.
func (d *testDecoding) describe(ctx context.Context, t *textTable) error {
	text := &d.text
	if t.relation != nil {
		if text.hasNew && t.sameColumns(text.fresh) {
			return nil
		}
		if !text.hasNew && !slices.ContainsFunc(text.old, func(f textField) bool { return t.column(f) < 0 }) {
			return nil
		}
	}
	if err := d.load(ctx, t); err != nil {
		return err
	}
	for _, f := range text.old {
		if t.column(f) < 0 {
			return fmt.Errorf("%w: %s.%s has no column %s any more: DDL is not followed", ErrProtocol, t.schema, t.name, f.name)
		}
	}
	return nil
}

// load reads the table from the catalogue. The columns of the new row, if the change has one, win: the catalogue is of
// now, the row of then.
func (d *testDecoding) load(ctx context.Context, t *textTable) error {
	now, err := d.tables.table(ctx, t.schema, t.name)
	if err != nil {
		return err
	}
	if now == nil {
		return fmt.Errorf("%w: table %s.%s is not there any more: DDL is not followed", ErrProtocol, t.schema, t.name)
	}
	t.relation, t.columns = now, t.columns[:0]
	if !d.text.hasNew {
		for _, c := range now.Columns {
			t.columns = append(t.columns, textColumn{name: c.Name, typeName: c.TypeName})
		}
		return nil
	}
	columns := make([]RelationColumn, len(d.text.fresh))
	for i, f := range d.text.fresh {
		seen := textColumn{string(f.name), unquoteIdent(string(f.name)), string(f.typeName)}
		t.columns = append(t.columns, seen)
		at := slices.IndexFunc(now.Columns, func(c RelationColumn) bool { return c.Name == seen.name })
		if at >= 0 {
			columns[i] = now.Columns[at]
		}
		columns[i].Name, columns[i].TypeName = seen.name, seen.typeName
	}
	now.Columns = columns
	return nil
}

func (t *textTable) sameColumns(row []textField) bool {
	return slices.EqualFunc(t.columns, row, func(c textColumn, f textField) bool {
		return c.quoted == string(f.name) && c.typeName == string(f.typeName)
	})
}

// column finds a field's column, -1 when there is none.
func (t *textTable) column(f textField) int {
	for i := range t.columns {
		if c := &t.columns[i]; c.quoted == string(f.name) || c.quoted == "" && c.name == unquoteIdent(string(f.name)) {
			return i
		}
	}
	return -1
}

// old makes the old tuple. The server leaves NULLs out of it, so that a whole row (identity FULL) and a key have to
// be told apart: a key holds exactly the columns of the identity.
func (d *testDecoding) old(t *textTable, e *Event) error {
	r := t.relation
	missing := Null
	if r.Identity != 'f' && d.isKey(t) {
		e.OldIsKey, missing = true, Absent
	}
	e.Old = d.out.tuple(len(r.Columns))
	for i := range e.Old.Values {
		e.Old.Values[i] = Value{Kind: missing}
	}
	for _, f := range d.text.old {
		i := t.column(f)
		if i < 0 {
			return fmt.Errorf("%w: unknown column %s of %s.%s", ErrProtocol, f.name, t.schema, t.name)
		}
		e.Old.Values[i] = f.value
	}
	return nil
}

func (d *testDecoding) isKey(t *textTable) bool {
	keys := 0
	for _, c := range t.relation.Columns {
		if c.Key {
			keys++
		}
	}
	return keys == len(d.text.old) && !slices.ContainsFunc(d.text.old, func(f textField) bool {
		i := t.column(f)
		return i < 0 || !t.relation.Columns[i].Key
	})
}

// canIdentify tells whether rows of the table can be found at all.
func canIdentify(r *Relation) bool {
	return r.Identity == 'f' || slices.ContainsFunc(r.Columns, func(c RelationColumn) bool { return c.Key })
}

// parseCommit reads "729 (at 2026-08-01 12:00:00.123456+00)".
func parseCommit(text []byte) (uint32, time.Time, error) {
	malformed := fmt.Errorf("%w: COMMIT %.100q", ErrProtocol, text)
	number, rest, found := bytes.Cut(text, []byte(" (at "))
	stamp, ok := bytes.CutSuffix(rest, []byte(")"))
	if !found || !ok {
		return 0, time.Time{}, malformed
	}
	xid, err := strconv.ParseUint(string(number), 10, 32)
	if err != nil {
		return 0, time.Time{}, malformed
	}
	at, err := time.Parse("2006-01-02 15:04:05.999999-07", string(stamp))
	if err != nil {
		return 0, time.Time{}, malformed
	}
	return uint32(xid), at.UTC(), nil
}
