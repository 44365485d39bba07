package migrate

import (
	"errors"
	"fmt"
	"strings"

	"github.com/slipway-db/slipway/migrate/snapshot"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// Errors that a caller tests for.
var (
	// ErrStopped says that the run was stopped on request; the same command goes on where it ended.
	ErrStopped = errors.New("stopped")
	// ErrChecksFailed says that a check item failed, so nothing was begun.
	ErrChecksFailed = errors.New("a check failed")
	// ErrNothingToDo says that the target holds no migration.
	ErrNothingToDo = state.ErrNone
)

// ObjectError says which objects of the structure could not be created.
type ObjectError struct {
	Failures []state.Failure
}

// Error names the first few objects, with what the server said and the statement.
func (e *ObjectError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d object(s) could not be created on the target:", len(e.Failures))
	for i, f := range e.Failures {
		if i == 5 {
			fmt.Fprintf(&b, "\n  and %d more (slipway migrate status lists all)", len(e.Failures)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %s: %s\n    %s", f.Key, f.Message, shorten(f.Statement, 400))
	}
	b.WriteString("\nmend the cause on the target and run again, or run with --on-object-error continue to go on without them")
	return b.String()
}

// retryable tells whether a new attempt may succeed. What an attempt held and lost (a snapshot, the slot to a session
// that is about to end) the next one makes anew.
func retryable(err error) bool {
	return postgres.Retryable(err) || errors.Is(err, snapshot.ErrSnapshotLost) || errors.Is(err, snapshot.ErrRewritten) ||
		errors.Is(err, stream.ErrSlotActive)
}

// advise says what is left to do where the changes of the source can never be followed again without a gap.
func advise(err error) error {
	for _, gap := range []error{
		stream.ErrSlotMissing, stream.ErrSlotLost, stream.ErrSlotAhead, stream.ErrSlotMismatch, stream.ErrPublicationChanged,
		stream.ErrSourceReplaced, stream.ErrTimeline,
	} {
		if errors.Is(err, gap) {
			return fmt.Errorf("%w. Changes may be missing from here on, so this migration cannot go on: "+
				"give it up with slipway migrate abort --drop-copied and start anew", err)
		}
	}
	return err
}

// shorten keeps one line of a long statement.
func shorten(s string, limit int) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
