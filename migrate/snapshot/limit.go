package snapshot

import (
	"context"
	"sync"
	"time"
)

// limiter holds all workers together to a number of rows per second. It books time: each batch of rows moves the
// moment at which the next may pass, so a batch may be larger than one second's worth and the mean is still kept.
type limiter struct {
	mu      sync.Mutex
	rate    int64 // rows per second; 0 is no limit
	free    time.Time
	changed chan struct{}
}

func newLimiter(rate int64) *limiter {
	return &limiter{rate: rate, changed: make(chan struct{})}
}

// set changes the rate and lets go of who waits under the old one.
func (l *limiter) set(rate int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = rate
	l.free = time.Time{}
	close(l.changed)
	l.changed = make(chan struct{})
}

// batch is the number of rows to collect before asking wait: a tenth of a second's worth, 0 without a limit.
func (l *limiter) batch() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate <= 0 {
		return 0
	}
	return max(l.rate/10, 1)
}

// wait returns when the rows have had their time, when the rate changes, or with the cause of ctx.
func (l *limiter) wait(ctx context.Context, rows int64) error {
	l.mu.Lock()
	if l.rate <= 0 || rows <= 0 {
		l.mu.Unlock()
		return nil
	}
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(rows) / float64(l.rate) * float64(time.Second)))
	pause, changed := l.free.Sub(now), l.changed
	l.mu.Unlock()

	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
