package stream

import (
	"errors"
	"fmt"

	"github.com/slipway-db/slipway/postgres"
)

// States of a slot or a source in which the stream cannot go on. Test for them with errors.Is; a *SlotError says more.
var (
	// ErrSlotMissing: the slot does not exist. Changes since it went are not known: start over.
	ErrSlotMissing = errors.New("the replication slot does not exist")
	// ErrSlotExists: a slot of that name is there already.
	ErrSlotExists = errors.New("the replication slot already exists")
	// ErrSlotLost: the server removed WAL that the slot needed, or invalidated it. Start over.
	ErrSlotLost = errors.New("the replication slot was invalidated by the server")
	// ErrSlotAhead: the slot was advanced or made anew beyond the position to resume at; what lies between can no
	// longer be read. Start over.
	ErrSlotAhead = errors.New("the replication slot is ahead of the position to resume at: changes between the two are gone")
	// ErrSlotActive: another session reads the slot.
	ErrSlotActive = errors.New("the replication slot is in use by another session")
	// ErrSlotMismatch: the slot belongs to another database or uses another output plugin.
	ErrSlotMismatch = errors.New("the replication slot is not the one of this migration")
	// ErrSourceReplaced: the server is another one, or its WAL ends before a position that was already read from it.
	ErrSourceReplaced = errors.New("the source is not the server that was read before")
	// ErrTimeline: the server is on another timeline: a standby was promoted, or a backup was restored.
	ErrTimeline = errors.New("the source changed its timeline")
	// ErrPublicationChanged: the publication is gone or no longer what it was made as; see *PublicationError.
	ErrPublicationChanged = errors.New("the publication is not as it was made")
	// ErrProtocol: the server sent what the output plugin's protocol does not allow. Nothing is skipped: the stream
	// stops there.
	ErrProtocol = errors.New("the server sent a message that cannot be understood")
	// ErrEncoding: the output plugin prints text in an encoding that cannot be read.
	ErrEncoding = errors.New("changes cannot be read in the encoding of the source")
	// ErrNoIdentity: an update or a delete came without the old key, so its row cannot be found.
	ErrNoIdentity = errors.New("a change carries no replica identity")
)

// SlotError tells what is wrong with a slot.
type SlotError struct {
	Slot string
	// State is one of the ErrSlot errors.
	State error
	// Detail is the server's reason, for people.
	Detail string
	// PID is the process that reads the slot, for ErrSlotActive.
	PID int
	// Confirmed and Wanted are the positions of ErrSlotAhead.
	Confirmed, Wanted postgres.LSN
	// Err is the server's error, if there was one.
	Err error
}

// Error names the slot, the state and the reason.
func (e *SlotError) Error() string {
	message := fmt.Sprintf("slot %q: %v", e.Slot, e.State)
	if e.PID != 0 {
		message += fmt.Sprintf(" (process %d)", e.PID)
	}
	if e.Confirmed != 0 {
		message += fmt.Sprintf(" (confirmed %s, wanted %s)", e.Confirmed, e.Wanted)
	}
	if e.Detail != "" {
		message += ": " + e.Detail
	}
	return message
}

// Unwrap gives the state and the server's error.
func (e *SlotError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.State}
	}
	return []error{e.State, e.Err}
}
