// Package snapshot copies the rows of chosen tables, as one exported snapshot sees them, from a source to a target:
// in parts, in parallel, byte for byte as the servers speak COPY to each other, with a record of each finished part
// in the same target transaction as its rows. Large objects are aligned with it.
package snapshot

import (
	"errors"
	"fmt"

	"github.com/slipway-db/slipway/migrate/schema"
)

// Errors that a caller tests for.
var (
	// ErrFenced tells that the record of a part did not go in because another runner owns the migration now. Nothing
	// of the part was committed.
	ErrFenced = errors.New("another runner has taken over this migration")
	// ErrSnapshotLost tells that no session holds the snapshot any more. What is committed stays; the rest can only be
	// copied under a new snapshot.
	ErrSnapshotLost = errors.New("the exported snapshot is gone")
	// ErrRewritten tells that a table was truncated, rewritten or replaced on the source after the snapshot was taken,
	// so that the snapshot no longer shows its rows.
	ErrRewritten = errors.New("the table was truncated, rewritten or replaced on the source after the snapshot")
)

// Part is what one worker copies in one target transaction: a whole table, or a range of a large one.
type Part struct {
	Table  *schema.Table
	Target schema.Name
	// Number counts from 1 to Of.
	Number, Of int
	// Range limits the rows; the zero value means all of them.
	Range Range
	// Plain adds rows by ordinary COPY. Otherwise the target table is truncated first in the same transaction, which
	// lets COPY write frozen rows. Split tables are always plain, and so must be a Target that is partitioned.
	Plain bool
	// Bytes is the estimated size on the source's disk, TOAST included.
	Bytes int64
}

// String names the part for messages.
func (p Part) String() string {
	if p.Of <= 1 {
		return p.Table.Name.String()
	}
	return fmt.Sprintf("%s (part %d of %d)", p.Table.Name, p.Number, p.Of)
}

// Range is a half-open interval [From, To) of heap blocks, or of the values of an integer key. A nil bound is open:
// the first and the last part of a table take all that the estimates did not know of.
type Range struct {
	// Key is the column; empty for heap blocks.
	Key      string
	From, To *int64
}

// Recorder gives the statements that keep the state of parts in the target database.
type Recorder interface {
	// RecordPart is executed in the same target transaction as the rows of the part. It must affect exactly one row as
	// long as this runner owns the migration, and none when another one took over.
	RecordPart(p Part, rows, bytes int64) (sql string, args []any)
	// PartRecorded returns one row with one boolean: whether RecordPart was committed for this part. It is asked when
	// the connection was lost before the answer to a COMMIT came.
	PartRecorded(p Part) (sql string, args []any)
}

// Side is one end of the copy.
type Side string

// The two ends.
const (
	SourceSide Side = "source"
	TargetSide Side = "target"
)

// PartError says which part could not be copied and which side refused.
type PartError struct {
	Part Part
	Side Side
	Err  error
}

// Error names the table, the part and the side.
func (e *PartError) Error() string {
	return fmt.Sprintf("copy table %s: %s: %v", e.Part, e.Side, e.Err)
}

// Unwrap gives the cause, so that postgres.Retryable and postgres.Code see through.
func (e *PartError) Unwrap() error { return e.Err }
