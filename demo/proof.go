package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// comparison sums up a report of `slipway migrate compare`.
type comparison struct {
	code                      int
	tables, rows, definitions int64
	differences               int64 // rows missing, extra or different
	structure                 int64 // definitions that differ
	faults                    []string
	seconds                   float64
}

// clean tells that everything was compared and nothing differs.
func (c comparison) clean() bool {
	return c.code == exitDone && c.differences == 0 && c.structure == 0 && len(c.faults) == 0 && c.tables > 0
}

func (c comparison) String() string {
	text := fmt.Sprintf("%d tables, %s rows, %d definitions in %.1f s: %d rows differ, %d definitions differ",
		c.tables, count(c.rows), c.definitions, c.seconds, c.differences, c.structure)
	if len(c.faults) > 0 {
		text += "; " + strings.Join(c.faults, "; ")
	}
	return text
}

// compareReport is what the demo reads of slipway's JSON.
type compareReport struct {
	Report struct {
		Started, Finished time.Time
		Tables            []struct {
			Name           struct{ Schema, Name string }
			Result, Reason string
			Error          string
			SourceRows     int64 `json:"source_rows"`
			Missing        int64
			Extra          int64
			Different      int64
		}
		StructureObjects int64 `json:"structure_objects"`
		Structure        []struct{ Kind, Object, Property, Class, Source, Target string }
		Sequences        []struct {
			Name   struct{ Schema, Name string }
			Result string
		}
		LargeObjects *struct{ Result string } `json:"large_objects"`
		Errors       []string
	} `json:"report"`
}

// compare runs slipway's comparison of structure and of every row.
func (d *demo) compare(ctx context.Context) (comparison, error) {
	result, err := d.slipway(ctx, append([]string{"migrate", "compare", "--output", "json"}, d.both()...)...)
	if err != nil {
		return comparison{}, err
	}
	var reports []compareReport
	if err := json.Unmarshal([]byte(result.stdout), &reports); err != nil || len(reports) != 1 {
		return comparison{}, fmt.Errorf("slipway migrate compare ended with code %d: %s", result.code, strings.TrimSpace(result.stderr))
	}
	c := reports[0].sum()
	c.code = result.code
	d.screen.line("  %s", c)
	return c, nil
}

func (r *compareReport) sum() comparison {
	report := r.Report
	c := comparison{definitions: report.StructureObjects, faults: report.Errors, seconds: report.Finished.Sub(report.Started).Seconds()}
	for _, t := range report.Tables {
		if t.Result == "skipped" {
			continue
		}
		c.tables++
		c.rows += t.SourceRows
		c.differences += t.Missing + t.Extra + t.Different
		if t.Result != "same" {
			c.faults = append(c.faults, fmt.Sprintf("%s.%s: %s %s%s", t.Name.Schema, t.Name.Name, t.Result, t.Reason, t.Error))
		}
	}
	for _, s := range report.Structure {
		if s.Class == "different" {
			c.structure++
			c.faults = append(c.faults, fmt.Sprintf("%s %s, %s: %q and %q", s.Kind, s.Object, s.Property, s.Source, s.Target))
		}
	}
	for _, s := range report.Sequences {
		if s.Result != "same" && s.Result != "skipped" {
			c.faults = append(c.faults, fmt.Sprintf("sequence %s.%s: %s", s.Name.Schema, s.Name.Name, s.Result))
		}
	}
	if l := report.LargeObjects; l != nil && l.Result != "same" && l.Result != "skipped" {
		c.faults = append(c.faults, "large objects: "+l.Result)
	}
	return c
}

// objectCount is how many objects of a kind there are.
type objectCount struct {
	Kind   string
	Number int64
}

func (d *demo) countObjects(ctx context.Context, server *postgres.Server) ([]objectCount, error) {
	conn, err := d.servers.connect(ctx, server, "count")
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, objectsSQL)
	if err != nil {
		return nil, fmt.Errorf("count objects: %w", err)
	}
	counts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[objectCount])
	if err != nil {
		return nil, fmt.Errorf("count objects: %w", err)
	}
	return counts, nil
}

func (d *demo) sameObjects(target []objectCount) {
	if slices.Equal(d.objects, target) {
		d.screen.line("  as many objects of every kind on both sides")
		return
	}
	d.problem("objects by kind on the source: %v; on the target: %v", d.objects, target)
}

// shutSourceDown leaves the target alone, so that nothing after it can come from the source.
func (d *demo) shutSourceDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := d.servers.source.Stop(ctx, postgres.Fast); err != nil {
		return err
	}
	d.screen.line("The source is shut down. On the target alone:")
	return nil
}

// inserts use every kind of sequence: identity always, identity by default, serial, and one called by name.
var inserts = []string{
	`INSERT INTO shop.customer (email, name) VALUES ('first@target', 'First')`,
	`INSERT INTO shop.orders (customer) VALUES (1)`,
	`INSERT INTO shop.product (name, description) VALUES ('new', 'new')`,
	`INSERT INTO shop.bulk (content) VALUES ('new')`,
	`INSERT INTO shop.receipt (writer, number, token, amount) VALUES (7, 1, '', 0)`,
}

// useTarget verifies what the source had acknowledged, and writes as an application would.
func (d *demo) useTarget(ctx context.Context) error {
	conn, err := d.servers.connect(ctx, d.servers.target, "prove")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := d.load.writer.verify(ctx, conn); err != nil {
		d.problem("%v", err)
	} else {
		d.whole = true
		d.screen.line("  all %s transactions that the source had acknowledged to our writer are there, once and whole", count(d.written))
	}
	for _, insert := range inserts {
		if _, err := conn.Exec(ctx, insert); err != nil {
			d.problem("%s: %v", insert, err)
			return nil
		}
	}
	d.screen.line("  new rows get new keys from %d sequences and identity columns", len(inserts))
	return nil
}
