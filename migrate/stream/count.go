package stream

import (
	"context"
	"errors"

	"github.com/slipway-db/slipway/postgres"
)

// CountChanges reads the slot from config.Start up to a position and counts the changes on the way. It confirms
// nothing, so the same changes come again to whoever reads the slot next.
func CountChanges(ctx context.Context, config Config, until postgres.LSN) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := New(config)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	changes, err := r.countUntil(ctx, until)
	cancel()
	if runErr := <-ended; err != nil && !errors.Is(runErr, context.Canceled) {
		err = runErr
	}
	return changes, err
}

func (r *Reader) countUntil(ctx context.Context, until postgres.LSN) (changes int64, err error) {
	for {
		events, err := r.Next(ctx)
		if err != nil {
			return changes, err
		}
		for _, e := range events {
			switch e.Kind {
			case Insert, Update, Delete, Truncate:
				changes++
			case Commit, Position:
				if e.LSN >= until {
					return changes, nil
				}
			}
		}
	}
}

// Usable is nil for a slot that can still be read, else a *SlotError that says why not.
func Usable(info SlotInfo, name string) error {
	switch {
	case !info.Exists:
		return &SlotError{Slot: name, State: ErrSlotMissing}
	case info.Lost():
		return &SlotError{Slot: name, State: ErrSlotLost, Detail: info.Reason()}
	}
	return nil
}
