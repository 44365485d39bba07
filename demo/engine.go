package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// engine is the running `slipway migrate run`.
type engine struct {
	*child
	stdout bytes.Buffer
}

// startEngine begins the migration. Its progress goes to the screen: a live panel on a terminal, lines otherwise.
func (d *demo) startEngine() error {
	e := &engine{}
	cmd := exec.Command(d.binary, append([]string{"migrate", "run", "--yes", "--roles"}, d.both()...)...)
	cmd.Env = childEnv(d.servers.password)
	cmd.Stdout, cmd.Stderr = &e.stdout, d.screen.file
	d.screen.command(shown(cmd))
	if d.screen.terminal {
		d.screen.line("(Its panel stays until the migration is complete. Meanwhile the lag is timed, every row is compared live,")
		d.screen.line("the writers are stopped and slipway migrate complete runs: what they said follows below the panel.)\n")
	}
	d.screen.hold()
	var err error
	if e.child, err = startChild(cmd); err != nil {
		return err
	}
	d.engine = e
	return nil
}

// alive tells why slipway does not run any more.
func (e *engine) alive() error {
	select {
	case <-e.ended:
		return fmt.Errorf("slipway migrate run ended: %w", e.err)
	default:
		return nil
	}
}

// endTimeout is how long slipway may take to stop cleanly when the demo ends early.
const endTimeout = 5 * time.Second

// end stops it, when it was started at all. It is asked first, because its panel has hidden the cursor.
func (e *engine) end(s *screen) {
	if e == nil {
		return
	}
	_ = e.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-e.ended:
	case <-time.After(endTimeout):
		e.kill()
		if s.terminal {
			s.line("\x1b[?25h")
		}
	}
}

// jobStatus is what the demo reads of `slipway migrate status --output json`.
type jobStatus struct {
	Phase        string    `json:"phase"`
	InSync       bool      `json:"in_sync"`
	Updated      time.Time `json:"updated"`
	Rows         int64     `json:"rows"`
	Bytes        int64     `json:"bytes"`
	Transactions int64     `json:"transactions"`
}

// status asks for the status; it is not there in the first moments.
func (d *demo) status(ctx context.Context) (jobStatus, error) {
	cmd := exec.Command(d.binary, "migrate", "status", "--output", "json", "--target", uri(d.servers.target))
	cmd.Env = childEnv(d.servers.password)
	result, err := runCommand(ctx, cmd)
	if err != nil || result.code != exitDone {
		return jobStatus{}, err
	}
	var all []jobStatus
	if err := json.Unmarshal([]byte(result.stdout), &all); err != nil || len(all) != 1 {
		return jobStatus{}, fmt.Errorf("slipway migrate status: %d migrations, %w", len(all), err)
	}
	return all[0], nil
}

// statusPause is the time between two looks at the status.
const statusPause = 300 * time.Millisecond

// untilInSync watches the migration, lets the large transaction happen when the copy has begun, and returns when the
// target has caught up.
func (d *demo) untilInSync(ctx context.Context) error {
	bulk := false
	return poll(ctx, statusPause, func() (bool, error) {
		if err := errors.Join(d.engine.alive(), d.load.alive()); err != nil {
			return false, err
		}
		s, err := d.status(ctx)
		if err != nil {
			return false, err
		}
		if !bulk && s.Phase == "copy" {
			bulk = true
			d.load.writer.bulk <- struct{}{}
		}
		d.progress.add(s, time.Now())
		return s.Phase == "follow" && s.InSync, nil
	})
}

// progress keeps what the status said at the turning points.
type progress struct {
	last                  jobStatus
	copyBegan, copyEnded  time.Time
	followBegan, caughtUp time.Time
	before, transactions  int64 // applied before the target follows, and until it was in sync
}

func (p *progress) add(s jobStatus, now time.Time) {
	if s.Phase == "copy" && p.copyBegan.IsZero() {
		p.copyBegan = now
	}
	if p.last.Phase == "copy" && s.Phase != "copy" {
		p.copyEnded = now
	}
	if s.Phase == "follow" {
		if p.followBegan.IsZero() {
			p.followBegan, p.before = now, p.last.Transactions
		}
		p.transactions = s.Transactions - p.before
		if s.InSync {
			p.caughtUp = s.Updated
		}
	}
	p.last = s
}

// copyTime and catchUpTime are as exact as the status, which is stored once a second: less than that means nothing.
func (p *progress) copyTime() time.Duration { return max(p.copyEnded.Sub(p.copyBegan), time.Second) }

func (p *progress) catchUpTime() time.Duration {
	return max(p.caughtUp.Sub(p.followBegan), time.Second)
}

func perSecond(n int64, d time.Duration) int64 { return int64(float64(n) / d.Seconds()) }

func (d *demo) completeArgs() []string {
	return []string{"migrate", "complete", "--target", uri(d.servers.target)}
}

// completeEngine completes the migration.
func (d *demo) completeEngine(ctx context.Context) (ran, error) {
	cmd := exec.Command(d.binary, d.completeArgs()...)
	cmd.Env = childEnv(d.servers.password)
	result, err := runCommand(ctx, cmd)
	if err != nil {
		return result, err
	}
	if result.code != exitDone {
		return result, fmt.Errorf("slipway migrate complete ended with code %d: %s", result.code, strings.TrimSpace(result.stderr))
	}
	return result, nil
}

// awaitEngine waits until the process that ran the migration has ended as well.
func (d *demo) awaitEngine(ctx context.Context) error {
	if err := d.engine.wait(ctx); err != nil {
		return fmt.Errorf("slipway migrate run: %w", err)
	}
	d.memory = d.engine.peakMemory()
	return nil
}
