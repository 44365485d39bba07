package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// slipway runs a command of slipway to its end and shows its line.
func (d *demo) slipway(ctx context.Context, args ...string) (ran, error) {
	cmd := exec.Command(d.binary, args...)
	cmd.Env = childEnv(d.servers.password)
	d.screen.command(shown(cmd))
	return runCommand(ctx, cmd)
}

// both are the arguments that name the two sides.
func (d *demo) both() []string {
	return []string{"--source", uri(d.servers.source), "--target", uri(d.servers.target)}
}

// Exit codes of slipway that the demo expects.
const (
	exitDone        = 0
	exitCheckFailed = 3
)

// checkReport is what the demo reads of slipway's JSON.
type checkReport struct {
	Items []struct {
		ID, Result, Reason string
		Objects, Fix       []string
	} `json:"items"`
	Passed, Warnings, Failed int
}

// identityItem is the item of the check that finds tables whose updates and deletes cannot be followed.
const identityItem = "replica-identity"

// check finds that pgbench_history has no key, applies the fix that it is told, and checks again.
func (d *demo) check(ctx context.Context) error {
	d.screen.heading("2  Check: what would stand in the way, and its fix")
	report, code, err := d.runCheck(ctx)
	if err != nil {
		return err
	}
	var fix string
	for _, item := range report.Items {
		if item.Result == "failed" && item.ID == identityItem && len(item.Fix) == 1 {
			fix = item.Fix[0]
		}
	}
	if code != exitCheckFailed || report.Failed != 1 || fix == "" {
		return fmt.Errorf("the check ended with code %d and %d failed items: one was expected, %s of pgbench_history", code, report.Failed, identityItem)
	}
	d.screen.line("\n$ psql %s -c '%s'", uri(d.servers.source), fix)
	conn, err := d.servers.connect(ctx, d.servers.source, "fix")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, fix); err != nil {
		return fmt.Errorf("the fix of the check: %w", err)
	}
	report, code, err = d.runCheck(ctx)
	if err == nil && (code != exitDone || report.Failed > 0) {
		err = fmt.Errorf("the check fails after its fix, with code %d", code)
	}
	return err
}

func (d *demo) runCheck(ctx context.Context) (report checkReport, code int, err error) {
	result, err := d.slipway(ctx, append([]string{"migrate", "check", "--roles", "--output", "json"}, d.both()...)...)
	if err != nil {
		return report, 0, err
	}
	if err := json.Unmarshal([]byte(result.stdout), &report); err != nil {
		return report, 0, fmt.Errorf("the check ended with code %d: %s", result.code, strings.TrimSpace(result.stderr))
	}
	for _, item := range report.Items {
		if item.Result != "failed" && item.Result != "warning" || d.warned[item.ID] {
			continue
		}
		d.warned[item.ID] = true
		d.screen.fact(item.Result+" "+item.ID, "%s", item.Reason)
		if len(item.Objects) > 0 {
			d.screen.fact("", "%s", strings.Join(item.Objects, ", "))
		}
		for _, fix := range item.Fix {
			d.screen.fact("", "fix: %s", fix)
		}
	}
	d.screen.line("  %d passed, %d warning(s), %d failed", report.Passed, report.Warnings, report.Failed)
	return report, result.code, nil
}

// migrate copies under load, follows until in sync, measures the lag and compares while writes go on.
func (d *demo) migrate(ctx context.Context) error {
	d.screen.heading("3  Migrate, while everything goes on writing")
	if err := d.startLoad(ctx); err != nil {
		return err
	}
	d.screen.line("and our own writer: %d sessions with transactions over several tables (large values, changed keys, deletes,", writers)
	d.screen.line("TRUNCATE, sequences, large objects, once %s rows at a time), which remembers what was acknowledged.", count(bulkRows))
	if err := d.startEngine(); err != nil {
		return err
	}
	if err := d.untilInSync(ctx); err != nil {
		return err
	}
	d.screen.line("\nIn sync. The writers go on; the lag is timed from outside for %s.", probeTime)
	var err error
	if d.lag, err = d.probe(ctx); err != nil {
		return err
	}
	d.screen.line("Every row is compared, while both sides change:")
	compared, err := d.compare(ctx)
	if err != nil {
		return err
	}
	if !compared.clean() {
		d.problem("the comparison during the migration found differences")
	}
	return errors.Join(d.load.alive(), d.engine.alive())
}

// complete stops the writers for as long as the completion takes.
func (d *demo) complete(ctx context.Context) error {
	stopping := time.Now()
	if err := d.stopLoad(ctx); err != nil {
		return err
	}
	d.written = d.load.writer.count()
	before := time.Since(stopping)
	result, err := d.completeEngine(ctx)
	if err != nil {
		return err
	}
	d.writesStood = before + result.took
	if err := d.awaitEngine(ctx); err != nil {
		return err
	}
	d.screen.release()
	d.screen.heading("4  Complete")
	d.screen.line("The writers were stopped (%s); then:", before.Round(time.Millisecond))
	d.screen.command(append([]string{"slipway"}, d.completeArgs()...))
	d.screen.output(result.stdout)
	d.screen.line("Writes were stopped for %.2f s, from asking the writers to stop until the target was ready.", d.writesStood.Seconds())
	return nil
}

// prove compares both sides at rest, shuts the source down, and looks at the target alone.
func (d *demo) prove(ctx context.Context) error {
	d.screen.heading("5  Proof")
	var err error
	if d.compared, err = d.compare(ctx); err != nil {
		return err
	}
	if !d.compared.clean() {
		d.problem("the comparison at the end found differences")
	}
	objects, err := d.countObjects(ctx, d.servers.target)
	if err != nil {
		return err
	}
	d.sameObjects(objects)
	if err := d.shutSourceDown(ctx); err != nil {
		return err
	}
	return d.useTarget(ctx)
}
