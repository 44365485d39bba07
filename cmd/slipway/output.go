package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/cutover"
	"github.com/slipway-db/slipway/migrate/precheck"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/verify"
)

// printResult writes the result of a command to standard output: the value itself as JSON, or text made from it.
func printResult(c *cobra.Command, value any, text func(*printer)) error {
	format, err := c.Flags().GetString("output")
	if err != nil {
		return err
	}
	switch format {
	case "json":
		encoder := json.NewEncoder(c.OutOrStdout())
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(value)
	case "text":
		w := newPrinter(c.OutOrStdout())
		text(w)
		return w.err
	}
	return usageError{fmt.Errorf("--output: unknown value %q: want text or json", format)}
}

// confirm asks on a terminal; asked is false when nobody is there to answer.
func confirm(c *cobra.Command, question string) (accepted, asked bool) {
	input, isFile := c.InOrStdin().(*os.File)
	if !isFile || !term.IsTerminal(input.Fd()) {
		return false, false
	}
	fmt.Fprintf(c.ErrOrStderr(), "%s [y/N] ", question)
	answer, err := bufio.NewReader(input).ReadString('\n')
	if err != nil {
		return false, true
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, true
	}
	return false, true
}

// printer writes text and keeps the first error.
type printer struct {
	out io.Writer
	err error
}

func newPrinter(out io.Writer) *printer { return &printer{out: out} }

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format+"\n", args...)
	}
}

// check lists the items: all of them, or only those that need attention.
func (p *printer) check(report *precheck.Report, all bool) {
	for _, item := range report.Items {
		if !all && (item.Result == precheck.Passed || item.Result == precheck.Skipped) {
			continue
		}
		title := item.Title
		if item.Database != "" {
			title += " (" + item.Database + ")"
		}
		p.line("%-8s %-28s %s", item.Result, item.ID, title)
		if item.Reason != "" && item.Result != precheck.Passed {
			p.line("         %s", indent(item.Reason, 9))
		}
		p.list("objects", item.Objects)
		for _, fix := range item.Fix {
			p.line("         fix on the %s: %s", item.Side, indent(fix, 9))
		}
	}
	p.line("%d passed, %d warning(s), %d failed, %d not applicable", report.Passed, report.Warnings, report.Failed, report.Skipped)
}

const listed = 10

func (p *printer) list(what string, names []string) {
	if len(names) == 0 {
		return
	}
	more := ""
	if len(names) > listed {
		more = fmt.Sprintf(", and %d more (--output json lists all)", len(names)-listed)
		names = names[:listed]
	}
	p.line("         %s: %s%s", what, strings.Join(names, ", "), more)
}

func (p *printer) result(result *migrate.Result) {
	for _, note := range result.Notes {
		p.line("note: %s", note)
	}
	for _, d := range result.Databases {
		p.database(d)
	}
}

func (p *printer) database(d migrate.DatabaseResult) {
	name := d.Database.Source
	if d.Database.Target != name {
		name += " as " + d.Database.Target
	}
	s := d.Status
	if !d.Done {
		p.line("%s: not done; phase %s, %d of %d tables copied, %s transactions applied", name, s.Phase, s.TablesCopied, s.Tables, count(s.Transactions))
		return
	}
	p.line("%s: done in %s", name, seconds(d.Seconds))
	p.line("  %d tables, %s rows, %s copied; %s transactions (%s changes) applied", s.Tables, count(s.Rows), size(s.Bytes), count(s.Transactions), count(s.Changes))
	p.cutover(d.Cutover)
	for _, f := range d.Failures {
		p.line("  NOT CREATED %s: %s", f.Key, f.Message)
	}
	for _, left := range d.LeftOut {
		p.line("  left out: %s", left)
	}
}

func (p *printer) cutover(report *cutover.Report) {
	if report == nil {
		return
	}
	for _, step := range report.Steps {
		p.line("  %-34s %8s  %s", step.Name, seconds(step.Seconds), step.Detail)
	}
	if report.Seconds > 0 {
		p.line("  from the last change to the end     %6s", seconds(report.Seconds))
	}
	for _, warning := range report.Warnings {
		p.line("  warning: %s", warning)
	}
}

func (p *printer) statuses(statuses []migrate.JobStatus) {
	for _, s := range statuses {
		for _, line := range statusLines(s.Status) {
			p.line("%s", line)
		}
		running := "running"
		if !s.Running {
			running = "NOT running: run the same slipway migrate run command to go on"
		}
		p.line("  job %s, started %s, %s", s.ID, s.Created.Format(time.RFC3339), running)
		if s.Error != "" {
			p.line("  last run ended: %s", indent(s.Error, 2))
		}
		for _, f := range s.Failures {
			p.line("  NOT CREATED %s: %s\n    %s", f.Key, indent(f.Message, 2), indent(f.Statement, 4))
		}
		if s.Running && s.Phase == state.Follow && s.InSync {
			p.line("  next: stop the writes on the source, then slipway migrate complete")
		}
	}
}

func (p *printer) completions(results []migrate.DatabaseResult) {
	for _, d := range results {
		p.database(d)
	}
}

func (p *printer) aborted(reports []migrate.AbortReport) {
	for _, r := range reports {
		p.line("%s: given up", r.Database)
		for _, removed := range r.Removed {
			p.line("  removed %s", removed)
		}
		for _, left := range r.Left {
			p.line("  left: %s", left)
		}
	}
}

func (p *printer) compared(reports migrate.CompareReports) {
	for _, r := range reports {
		p.line("%s: %s", r.Database.Source, r.Report.Result)
		for _, t := range r.Report.Tables {
			p.comparedTable(t)
		}
		p.comparedStructure(r.Report)
		p.comparedRest(r.Report)
	}
}

func (p *printer) comparedStructure(report *verify.Report) {
	expected := 0
	for _, d := range report.Structure {
		if d.Class != verify.ClassDifferent {
			expected++
			continue
		}
		p.line("  structure differs: %s %s, %s\n    source: %s\n    target: %s", d.Kind, d.Object, d.Property, indent(d.Source, 12), indent(d.Target, 12))
	}
	if expected > 0 {
		p.line("  %d differences of structure are expected (versions, or created later; --output json lists them)", expected)
	}
}

func (p *printer) comparedRest(report *verify.Report) {
	for _, s := range report.Sequences {
		if s.Result != verify.Same && s.Result != verify.Skipped {
			p.line("  sequence %s: %s", s.Name, s.Result)
		}
	}
	p.comparedLargeObjects(report.LargeObjects)
	for _, e := range report.Errors {
		p.line("  error: %s", e)
	}
	var tables, rows, chunks, differences int64
	for _, t := range report.Tables {
		if t.Result != verify.Skipped {
			tables++
		}
		rows, chunks, differences = rows+t.SourceRows, chunks+t.Chunks, differences+t.Missing+t.Extra+t.Different
	}
	p.line("  compared %d tables, %s rows in %s chunks and %d definitions in %s: %s row differences",
		tables, count(rows), count(chunks), report.StructureObjects, seconds(report.Finished.Sub(report.Started).Seconds()), count(differences))
}

func (p *printer) comparedLargeObjects(r *verify.LargeObjectReport) {
	switch {
	case r == nil || r.Result == verify.Same:
	case r.Result == verify.Skipped:
		p.line("  large objects skipped: %s", r.Reason)
	case r.Result == verify.Failed:
		p.line("  large objects could not be compared: %s", r.Err)
	default:
		p.line("  large objects differ: %d missing, %d extra, %d different, first %v", r.Missing, r.Extra, r.Different, r.OIDs[:min(listed, len(r.OIDs))])
	}
}

func (p *printer) comparedTable(t verify.TableReport) {
	switch t.Result {
	case verify.Same:
		return
	case verify.Skipped:
		p.line("  %s skipped: %s", t.Name, t.Reason)
		return
	case verify.Failed:
		p.line("  %s could not be compared: %s", t.Name, t.Err)
	default:
		p.line("  %s differs: %d rows missing, %d extra, %d different", t.Name, t.Missing, t.Extra, t.Different)
		if t.Reason != "" {
			p.line("    %s", t.Reason)
		}
	}
	for i, d := range t.Differences {
		if i == listed {
			p.line("    and more (--output json lists up to the limit)")
			break
		}
		p.line("    %s", difference(d))
	}
}

// difference names a row by its key (its ctid in a table without one) and the columns that differ.
func difference(d verify.Difference) string {
	var b strings.Builder
	b.WriteString(string(d.Kind))
	for i, column := range slices.Sorted(maps.Keys(d.Key)) {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " %s=%s", column, d.Key[column])
	}
	if d.Copies > 1 {
		fmt.Fprintf(&b, " (%d equal rows)", d.Copies)
	}
	if len(d.Columns) > 0 {
		b.WriteString(" in " + strings.Join(d.Columns, ", "))
	}
	if d.Generated {
		b.WriteString(" (generated: the target computes another value)")
	}
	return b.String()
}

func indent(s string, by int) string {
	return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", by))
}

// size prints bytes with the units of pg_size_pretty: 1 MB is 2^20 bytes.
func size(bytes int64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB"}
	value, unit := float64(bytes), 0
	for value >= 10240 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.0f %s", value, units[unit])
}

// count prints a number with thin groups: 1 234 567.
func count(n int64) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + " " + digits[i:]
	}
	return digits
}

func seconds(s float64) string { return fmt.Sprintf("%.1f s", s) }
