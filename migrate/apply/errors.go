package apply

import (
	"errors"
	"fmt"
	"strings"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// Errors that a caller tests for.
var (
	// ErrFenced says that the record of the position was not ours any more: another runner took over.
	ErrFenced = errors.New("another runner took this migration over")
	// ErrUnknownTable says that the stream holds a change of a table that was not chosen.
	ErrUnknownTable = errors.New("table is not part of this migration")
	// ErrProtocol says that the source's events do not follow the contract of package stream.
	ErrProtocol = errors.New("events out of order")
	// ErrIncomplete says that the source did not send what it takes to find or to write a row.
	ErrIncomplete = errors.New("the source sent too little to apply it")
)

// Conflict says that a change could not be applied as it was on the source: the row is missing or there already, or
// the target refused it. Nothing of its transaction is on the target, and the position stands before it.
type Conflict struct {
	Table  schema.Name // on the source
	Target schema.Name
	// LSN is where the commit record of the source transaction starts.
	LSN  postgres.LSN
	Kind stream.EventKind
	// Rows is how many rows the statement found when the target reported no error; it should have been one.
	Rows int64
	// Err is what the target said, nil when it found a wrong number of rows. Its detail can hold row values.
	Err error
}

// Error names table, kind and position, never a row's values.
func (c *Conflict) Error() string {
	what := fmt.Sprintf("%s of %s in the transaction at %s: ", kindName(c.Kind), c.Table, c.LSN)
	const goOn = "; the change was not skipped: correct the target (compare shows the rows) and run again"
	switch {
	case errors.Is(c.Err, ErrProtocol), errors.Is(c.Err, ErrIncomplete):
		return what + c.Err.Error()
	case c.Err != nil:
		return what + describe(c.Err) + goOn
	case c.Rows == 0:
		return what + "the row is not on the target" + goOn
	}
	return what + fmt.Sprintf("%d rows of the target have its key", c.Rows) + goOn
}

// Unwrap gives the target's own error.
func (c *Conflict) Unwrap() error { return c.Err }

// Drift says that the structure of a table does not fit what the stream delivers. DDL is not followed.
type Drift struct {
	Table  schema.Name // on the source
	Column string      // empty when the table itself is meant
	Reason string
}

// Error names the table, the column and how to go on.
func (d *Drift) Error() string {
	what := "table " + d.Table.String()
	if d.Column != "" {
		what = "column " + d.Column + " of " + d.Table.String()
	}
	return what + " " + d.Reason + ": DDL is not followed; make the same change on the target and run again, or start the table over"
}

func kindName(kind stream.EventKind) string {
	switch kind {
	case stream.Insert:
		return "insert"
	case stream.Update:
		return "update"
	case stream.Delete:
		return "delete"
	case stream.Truncate:
		return "truncate"
	}
	return fmt.Sprintf("event %q", byte(kind))
}

// describe leaves out messages of class 22 (invalid data), which quote the value.
func describe(err error) string {
	code := postgres.Code(err)
	if strings.HasPrefix(code, "22") {
		return "the target does not accept a value (SQLSTATE " + code + ")"
	}
	return err.Error()
}
