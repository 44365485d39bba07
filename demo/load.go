package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// benchRate is how many transactions pgbench begins per second.
const benchRate = "150"

// load is everything that writes to the source during the migration.
type load struct {
	bench       *child
	benchOutput bytes.Buffer
	writer      *writer
	started     time.Time
	stopped     bool
}

// startLoad begins to write. It goes on until stopLoad, or kill when something went wrong.
func (d *demo) startLoad(ctx context.Context) error {
	l := &load{started: time.Now()}
	cmd := d.pgbench("-n", "-c", "2", "-R", benchRate, "-T", "600")
	cmd.Stdout, cmd.Stderr = &l.benchOutput, &l.benchOutput
	d.screen.command(append(shown(cmd), "&"))
	var err error
	if l.bench, err = startChild(cmd); err != nil {
		return err
	}
	l.writer = startWriter(ctx, func(ctx context.Context) (*pgx.Conn, error) {
		return d.servers.connect(ctx, d.servers.source, "writer")
	})
	d.load = l
	return nil
}

// alive tells why the load does not write any more.
func (l *load) alive() error {
	select {
	case <-l.bench.ended:
		return fmt.Errorf("pgbench ended: %w: %s", l.bench.err, strings.TrimSpace(l.benchOutput.String()))
	case <-l.writer.failed:
		return errors.Join(errors.New("the writer ended"), l.writer.stop())
	default:
		return nil
	}
}

// stop ends pgbench and lets our writer finish the transactions it has begun.
func (l *load) stop() error {
	l.stopped = true
	l.bench.kill()
	return l.writer.stop()
}

// kill ends the load whatever it is doing; a load that was stopped is left alone.
func (l *load) kill() {
	if l != nil && !l.stopped {
		_ = l.stop() // why the demo ends is known already
	}
}

// stopLoad ends the load and returns when the source has no session of it left: the server may still be working on
// what a program that is gone had sent.
func (d *demo) stopLoad(ctx context.Context) error {
	if err := d.load.stop(); err != nil {
		return err
	}
	conn, err := d.servers.connect(ctx, d.servers.source, "stop")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return poll(ctx, 5*time.Millisecond, func() (bool, error) {
		var sessions int
		err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE application_name IN ('pgbench', 'writer')`).Scan(&sessions)
		return sessions == 0, err
	})
}

// poll asks until the answer is yes.
func poll(ctx context.Context, interval time.Duration, ask func() (bool, error)) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if yes, err := ask(); err != nil || yes {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
