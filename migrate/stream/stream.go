// Package stream reads a logical replication slot and turns what the server sends into events in commit order. It
// acknowledges to the server only what the consumer has made durable.
package stream

import (
	"time"

	"github.com/slipway-db/slipway/postgres"
)

// EventKind tells what an Event is.
type EventKind byte

// The kinds of events. A transaction is Begin, any number of changes, Commit; transactions never interleave (streamed
// ones are held back in a spool until their commit) and come in commit order.
const (
	Begin    EventKind = 'B'
	Commit   EventKind = 'C'
	Insert   EventKind = 'I'
	Update   EventKind = 'U'
	Delete   EventKind = 'D'
	Truncate EventKind = 'T'
	// Position says that everything up to LSN was delivered and nothing is open: an idle or filtered source still
	// moves forward. It never comes inside a transaction.
	Position EventKind = 'P'
)

// Event is one step of the stream. Events and all they point to must not be changed or kept by the consumer after it
// asked for the next batch of events.
type Event struct {
	Kind EventKind
	// LSN: of Begin, the start of the commit record (what a snapshot's consistent point is compared with: a
	// transaction is contained in a snapshot exactly when this is below the consistent point); of Commit, the end of
	// the commit record (the position to resume at); of Position, the position; of changes, 0.
	LSN postgres.LSN
	// CommitTime of Begin and Commit by the source's clock.
	CommitTime time.Time
	XID        uint32
	// Relation of Insert, Update, Delete.
	Relation *Relation
	// Relations, Cascade and RestartIdentity of Truncate.
	Relations       []*Relation
	Cascade         bool
	RestartIdentity bool
	// New is the new row of Insert and Update, Old the old row or key of Update and Delete (nil when the server sent
	// none, which for Update means that the identity columns did not change and are found in New).
	New *Tuple
	Old *Tuple
	// OldIsKey tells that Old holds only the identity columns (the others are Absent).
	OldIsKey bool
	// Size is the approximate memory of the event in bytes, for bounded queues.
	Size int
}

// Relation is what the stream knows about a table. The same pointer is used until the server describes the table
// anew; a new pointer with the same OID means that the definition may have changed.
type Relation struct {
	OID      uint32 // on the source
	Schema   string
	Name     string
	Identity byte // 'd', 'n', 'f', 'i'
	Columns  []RelationColumn
}

// RelationColumn describes one column as the stream delivers it.
type RelationColumn struct {
	Name    string
	Key     bool // part of the replica identity
	TypeOID uint32
	TypeMod int32
	// TypeName is known only from test_decoding, which sends names instead of OIDs.
	TypeName string
}

// ValueKind tells what a column value is.
type ValueKind byte

// The kinds of values.
const (
	Null      ValueKind = 'n'
	Text      ValueKind = 't' // text representation in the pinned session settings
	Unchanged ValueKind = 'u' // TOASTed value that the update did not touch: not sent, must stay as it is
	Absent    ValueKind = 0   // not part of this tuple (non-key column of a key)
)

// Value is one column value.
type Value struct {
	Kind ValueKind
	Data []byte
}

// Tuple holds one value per column of the relation, in the relation's order.
type Tuple struct {
	Values []Value
}
