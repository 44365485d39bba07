package stream

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/slipway-db/slipway/postgres"
)

// status is what the server is told: received is only for its statistics, confirmed is what it may forget. Before the
// first Confirm it hears nothing of the latter: the position to resume at may not be durable yet.
func (r *Reader) status(askReply bool) status {
	return status{
		written: postgres.LSN(r.received.Load()), flushed: postgres.LSN(r.confirmed.Load()),
		at: time.Now(), askReply: askReply,
	}
}

// feedback tells the server where we are: on its own timer, however long the consumer takes, so that the server does
// not give us up; and at once when something was confirmed or the server asks. It also notices a server that went
// silent.
func (r *Reader) feedback(ctx context.Context, s *session) error {
	timer := time.NewTicker(min(s.interval, r.config.SilenceTimeout/2))
	defer timer.Stop()
	for {
		silent := r.silence()
		if silent > r.config.SilenceTimeout {
			if err := r.stillServed(ctx, s); err != nil {
				return err
			}
		}
		if err := s.wire.sendStatus(r.status(silent > r.config.SilenceTimeout/2)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		case <-r.wake:
		}
	}
}

// probeTimeout bounds the question to a silent server.
const probeTimeout = 15 * time.Second

// silence is how long we have been waiting for the server.
func (r *Reader) silence() time.Duration {
	since := r.listening.Load()
	if since == 0 {
		return 0
	}
	return time.Since(time.Unix(0, since))
}

// stillServed asks over another connection whether our walsender is there. A server that reads through a long stretch
// of its log without anything for us says nothing and answers nothing for minutes, so silence alone proves nothing.
func (r *Reader) stillServed(ctx context.Context, s *session) error {
	since := r.listening.Load()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := r.config.Endpoint.Connect(ctx, postgres.Session{Name: r.config.Session})
	if err != nil {
		return fmt.Errorf("the source is silent: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var present bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity($1))`, int(s.pid)).Scan(&present)
	if err != nil {
		return fmt.Errorf("the source is silent: %w", err)
	}
	if !present {
		return fmt.Errorf("the source is silent: its process %d is gone: %w", s.pid, os.ErrDeadlineExceeded)
	}
	r.listening.CompareAndSwap(since, time.Now().UnixNano()) // ask again after another timeout
	return nil
}
