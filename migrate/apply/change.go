package apply

import (
	"fmt"

	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// change is one change of the stream, bound to its target. It is read only: folding copies what it merges, so that
// the batch can still be written change by change.
type change struct {
	kind stream.EventKind
	bind *binding     // nil for Truncate
	lsn  postgres.LSN // where the transaction's commit record starts
	// old is the old row or key (nil when the source sent none), new the new row, both in the relation's order.
	old, new []stream.Value
	truncate *truncation
}

// truncation empties several tables at once.
type truncation struct {
	tables  []*target
	restart bool // identity sequences too
}

// newChange binds the values of a row change and checks that there is what the kind needs.
func newChange(e *stream.Event, bind *binding, lsn postgres.LSN) (change, error) {
	c := change{kind: e.Kind, bind: bind, lsn: lsn}
	fail := func(reason string, sentinel error) (change, error) {
		return change{}, &Conflict{
			Table: bind.target.source, Target: bind.target.Target, LSN: lsn, Kind: e.Kind,
			Err: fmt.Errorf("%s: %w", reason, sentinel),
		}
	}
	if e.New != nil {
		c.new = e.New.Values
	}
	if e.Old != nil {
		c.old = e.Old.Values
	}
	columns := len(bind.relation.Columns)
	if (c.new != nil && len(c.new) != columns) || (c.old != nil && len(c.old) != columns) {
		return fail("row and description differ in the number of columns", ErrProtocol)
	}
	if e.Kind == stream.Delete && c.old == nil || e.Kind != stream.Delete && e.New == nil {
		return fail("row missing", ErrProtocol)
	}
	if e.Kind != stream.Delete {
		if bind.missing != "" {
			return change{}, &Drift{Table: bind.target.source, Column: bind.missing, Reason: "was dropped or renamed on the source"}
		}
		if reason := c.checkNew(); reason != "" {
			return fail(reason, ErrIncomplete)
		}
	}
	if e.Kind != stream.Insert {
		if reason := c.checkFindable(); reason != "" {
			return fail(reason, ErrIncomplete)
		}
	}
	return c, nil
}

func (c *change) checkNew() string {
	for i, v := range c.new {
		switch {
		case c.bind.columns[i] < 0:
		case v.Kind == stream.Absent:
			return "column " + c.bind.relation.Columns[i].Name + " was not sent"
		case v.Kind == stream.Unchanged && c.kind == stream.Insert:
			return "column " + c.bind.relation.Columns[i].Name + " of a new row was not sent"
		}
	}
	return ""
}

// checkFindable makes sure that the row can be named on the target.
func (c *change) checkFindable() string {
	if len(c.bind.key) > 0 {
		for i := range c.bind.key {
			if c.keyBefore(i).Kind != stream.Text {
				return "key column " + c.bind.relation.Columns[c.bind.key[i].at].Name + " was not sent"
			}
		}
		return ""
	}
	if !c.bind.full || c.old == nil {
		return "the table has no replica identity, so its row cannot be found"
	}
	for i, v := range c.old {
		if c.bind.columns[i] >= 0 && v.Kind != stream.Text && v.Kind != stream.Null {
			return "column " + c.bind.relation.Columns[i].Name + " of the old row was not sent, so the row cannot be told from others"
		}
	}
	return ""
}

// keyBefore is the value of key column i that finds the row; keyAfter the one that the row has then.
func (c *change) keyBefore(i int) stream.Value {
	at := c.bind.key[i].at
	if c.old != nil && c.old[at].Kind != stream.Absent {
		return c.old[at]
	}
	return c.new[at]
}

func (c *change) keyAfter(i int) stream.Value {
	if v := c.new[c.bind.key[i].at]; v.Kind != stream.Unchanged {
		return v
	}
	return c.keyBefore(i)
}

// movesKey tells whether an update gives the row another key, byte by byte.
func (c *change) movesKey() bool {
	if c.old == nil {
		return false
	}
	for i := range c.bind.key {
		if !sameValue(c.keyBefore(i), c.keyAfter(i)) {
			return true
		}
	}
	return false
}

func sameValue(a, b stream.Value) bool {
	return a.Kind == b.Kind && string(a.Data) == string(b.Data)
}

// conflict says that the target did not do this change.
func (c *change) conflict(rows int64, err error) error {
	if c.kind == stream.Truncate {
		t := c.truncate.tables[0]
		return &Conflict{Table: t.source, Target: t.Target, LSN: c.lsn, Kind: c.kind, Rows: rows, Err: err}
	}
	return &Conflict{Table: c.bind.target.source, Target: c.bind.target.Target, LSN: c.lsn, Kind: c.kind, Rows: rows, Err: err}
}
