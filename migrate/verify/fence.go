package verify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/slipway-db/slipway/postgres"
)

// errNotApplied says that the target did not reach a source position in time.
var errNotApplied = errors.New("the target did not apply the source's changes in time")

// fencePoll is how often the applied position is read while somebody waits for it.
const fencePoll = 50 * time.Millisecond

// fence waits until the target has applied what the source had. Waiters share the last position that was read.
type fence struct {
	applied func(ctx context.Context) (postgres.LSN, bool, error)
	timeout time.Duration

	mu   sync.Mutex
	last postgres.LSN
}

// wait returns once the target has applied everything before position.
func (f *fence) wait(ctx context.Context, position postgres.LSN) error {
	deadline := time.Now().Add(f.timeout)
	for {
		reached, err := f.reached(ctx, position)
		if err != nil {
			return fmt.Errorf("read the applied position: %w", err)
		}
		if reached {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: waited %s for %s", errNotApplied, f.timeout, position)
		}
		if err := sleep(ctx, fencePoll); err != nil {
			return err
		}
	}
}

func (f *fence) reached(ctx context.Context, position postgres.LSN) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last >= position && f.last > 0 {
		return true, nil
	}
	var lsn postgres.LSN
	var known bool
	err := attempt(ctx, func() (err error) {
		lsn, known, err = f.applied(ctx)
		return err
	})
	if err != nil || !known {
		return false, err
	}
	f.last = max(f.last, lsn)
	return f.last >= position, nil
}

// position is the end of the last record in the source's WAL: all that a statement before it could see lies below.
func (s *session) position(ctx context.Context) (postgres.LSN, error) {
	insert, replay := "pg_current_wal_insert_lsn", "pg_last_wal_replay_lsn"
	if !s.side.version.AtLeast(10) {
		insert, replay = "pg_current_xlog_insert_location", "pg_last_xlog_replay_location"
	}
	r, err := s.one(ctx, `SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.`+replay+
		`() ELSE pg_catalog.`+insert+`() END::pg_catalog.text`)
	if err != nil {
		return 0, fmt.Errorf("read the source's position: %w", err)
	}
	lsn, err := postgres.ParseLSN(r.text(0))
	if err != nil {
		return 0, err
	}
	return s.side.recordEnd(lsn), nil
}

// Sizes of the header of a WAL page, and of the first page of a segment, in bytes.
const (
	shortPageHeader = 24
	longPageHeader  = 40
)

// recordEnd takes off a page header that the insert position may be behind although no record is: a receiver of WAL
// would never report that position while the source is idle.
func (s *side) recordEnd(lsn postgres.LSN) postgres.LSN {
	if s.walSegment > 0 && uint64(lsn)%s.walSegment == longPageHeader {
		return lsn - longPageHeader
	}
	if s.walBlock > 0 && uint64(lsn)%s.walBlock == shortPageHeader && uint64(lsn)%s.walSegment != shortPageHeader {
		return lsn - shortPageHeader
	}
	return lsn
}
