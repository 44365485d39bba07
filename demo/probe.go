package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

const (
	// probeTime is how long the lag is measured, probePause the time between two measurements.
	probeTime  = 6 * time.Second
	probePause = 20 * time.Millisecond
	// probePatience bounds one measurement.
	probePatience = 30 * time.Second
)

// lags are the times from the commit of a row on the source, as its client learns of it, until a client of the target
// can read the row. They are measured from outside and take nothing from slipway's word.
type lags []time.Duration

// probe measures under the running load.
func (d *demo) probe(ctx context.Context) (lags, error) {
	source, err := d.servers.connect(ctx, d.servers.source, "probe")
	if err != nil {
		return nil, err
	}
	defer source.Close(context.WithoutCancel(ctx))
	target, err := d.servers.connect(ctx, d.servers.target, "probe")
	if err != nil {
		return nil, err
	}
	defer target.Close(context.WithoutCancel(ctx))
	var measured lags
	for end := time.Now().Add(probeTime); time.Now().Before(end); {
		var beat int64
		if err := source.QueryRow(ctx, `UPDATE shop.heartbeat SET beat = beat + 1 WHERE id = 1 RETURNING beat`).Scan(&beat); err != nil {
			return nil, fmt.Errorf("measure the lag: %w", err)
		}
		committed := time.Now()
		err := poll(ctx, 2*time.Millisecond, func() (bool, error) {
			var seen int64
			if time.Since(committed) > probePatience {
				return false, fmt.Errorf("beat %d did not arrive within %s", beat, probePatience)
			}
			err := target.QueryRow(ctx, `SELECT beat FROM shop.heartbeat WHERE id = 1`).Scan(&seen)
			return seen >= beat, err
		})
		if err != nil {
			return nil, fmt.Errorf("measure the lag: %w", err)
		}
		measured = append(measured, time.Since(committed))
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(probePause):
		}
	}
	slices.Sort(measured)
	return measured, nil
}

// percentile of sorted lags; p is from 0 to 100.
func (l lags) percentile(p int) time.Duration {
	if len(l) == 0 {
		return 0
	}
	return l[min(len(l)-1, len(l)*p/100)]
}

// String is the summary that the report prints.
func (l lags) String() string {
	round := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	return fmt.Sprintf("p50 %s, p95 %s, max %s (%d commits timed until readable on the target)",
		round(l.percentile(50)), round(l.percentile(95)), round(l.percentile(100)), len(l))
}
