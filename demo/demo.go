package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// demo is one run: what it works with, and what it has measured so far.
type demo struct {
	screen  *screen
	servers *servers
	binary  string // slipway
	load    *load
	engine  *engine

	began       time.Time
	objects     []objectCount // on the source, before
	progress    progress
	lag         lags
	writesStood time.Duration // from the request to stop the writers to the end of complete
	compared    comparison
	written     int64 // transactions that our writer had acknowledged
	memory      int64 // bytes
	whole       bool  // and all of them are on the target
	problems    []string

	warned map[string]bool // items of the check that were shown
}

func newDemo(s *screen) *demo { return &demo{screen: s, began: time.Now(), warned: map[string]bool{}} }

// run goes through the steps. Whatever happens, nothing runs and nothing is left when it returns.
func (d *demo) run(ctx context.Context) (err error) {
	if d.binary, err = filepath.Abs(filepath.Join("bin", "slipway")); err != nil {
		return err
	}
	d.screen.heading("Slipway moves a live PostgreSQL database")
	d.screen.line("Two servers are made for this, a shop is filled with 1.3 million rows of every type, and programs")
	d.screen.line("write to it all the time. Then it moves, and every row is compared. It takes one to two minutes.")
	defer func() {
		d.screen.release()
		d.engine.end(d.screen)
		d.load.kill()
		if d.servers != nil {
			err = errors.Join(err, d.servers.stop())
		}
	}()
	for _, step := range []func(context.Context) error{
		d.makeServers, d.check, d.migrate, d.complete, d.prove, d.report,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if len(d.problems) > 0 {
		return fmt.Errorf("%d thing(s) are not as they should be", len(d.problems))
	}
	return nil
}

// problem notes what is not as it should be; the demo goes on, so that the report shows all of it.
func (d *demo) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	d.problems = append(d.problems, text)
	d.screen.line("  WRONG: %s", text)
}

// makeServers starts both and fills the source.
func (d *demo) makeServers(ctx context.Context) (err error) {
	d.screen.heading("1  Two servers, one of them full")
	if d.servers, err = startServers(ctx); err != nil {
		return err
	}
	for _, one := range []struct {
		name string
		port int
	}{{"source", d.servers.source.Port()}, {"target", d.servers.target.Port()}} {
		d.screen.fact(one.name, "PostgreSQL %d on 127.0.0.1:%d, fsync on, shared_buffers 256MB", d.servers.installation.Major, one.port)
	}
	return d.fill(ctx)
}
