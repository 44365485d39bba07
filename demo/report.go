package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// objectsPerLine is how many kinds of objects the report prints side by side.
const objectsPerLine = 3

// report prints what was measured.
func (d *demo) report(ctx context.Context) error {
	versions, err := d.versions(ctx)
	if err != nil {
		return err
	}
	d.screen.heading("Report")
	var objects int64
	for _, o := range d.objects {
		objects += o.Number
	}
	d.screen.fact("objects", "%s of %d kinds", count(objects), len(d.objects))
	for begin := 0; begin < len(d.objects); begin += objectsPerLine {
		var b strings.Builder
		for _, o := range d.objects[begin:min(begin+objectsPerLine, len(d.objects))] {
			fmt.Fprintf(&b, "%6d %-22s", o.Number, o.Kind)
		}
		d.screen.line("    %s", strings.TrimRight(b.String(), " "))
	}
	p := &d.progress
	d.screen.fact("copied", "%s rows, %s in about %.1f s: %s/s, under load", count(p.last.Rows), megabytes(p.last.Bytes),
		p.copyTime().Seconds(), megabytes(perSecond(p.last.Bytes, p.copyTime())))
	d.screen.fact("caught up", "%s transactions in about %.1f s: %s per second, the load's own among them", count(p.transactions),
		p.catchUpTime().Seconds(), count(perSecond(p.transactions, p.catchUpTime())))
	d.screen.fact("lag under load", "%s", d.lag)
	d.screen.fact("writes were stopped for", "%.2f s", d.writesStood.Seconds())
	d.screen.fact("compared at the end", "%s rows in %d tables, %d definitions", count(d.compared.rows), d.compared.tables, d.compared.definitions)
	d.screen.fact("differences", "%d", d.compared.differences+d.compared.structure)
	d.screen.fact("acknowledged, then lost", "%s", d.lost())
	d.screen.fact("peak memory of slipway", "%s", megabytes(d.memory))
	d.screen.fact("versions", "%s, on %d CPU cores", versions, runtime.NumCPU())
	d.screen.fact("the demo took", "%s", time.Since(d.began).Round(time.Second))
	if len(d.problems) == 0 {
		d.screen.line("\nNothing was lost. The servers and their data are removed; bin/slipway stays.")
		return nil
	}
	d.screen.line("\nNOT AS IT SHOULD BE:")
	for _, p := range d.problems {
		d.screen.line("  %s", p)
	}
	return nil
}

func (d *demo) lost() string {
	if !d.whole {
		return "see below"
	}
	return fmt.Sprintf("0 of %s transactions", count(d.written))
}

func (d *demo) versions(ctx context.Context) (string, error) {
	cmd := exec.Command(d.binary, "--version")
	cmd.Env = childEnv(d.servers.password)
	slipway, err := succeed(ctx, cmd)
	if err != nil {
		return "", err
	}
	conn, err := d.servers.connect(ctx, d.servers.target, "report")
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var server string
	if err := conn.QueryRow(ctx, `SELECT pg_catalog.current_setting('server_version')`).Scan(&server); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, PostgreSQL %s on both sides", strings.TrimSpace(slipway), server), nil
}
