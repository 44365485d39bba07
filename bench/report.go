package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report prints results as text or as markdown, and keeps the first error.
type report struct {
	out      io.Writer
	markdown bool
	err      error

	memory int64              // bytes, the most that slipway took
	ratios map[string]float64 // of pg_dump + pg_restore to slipway, by title
	titles []string
}

func newReport(out io.Writer, markdown bool) *report {
	return &report{out: out, markdown: markdown, ratios: map[string]float64{}}
}

func (p *report) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format+"\n", args...)
	}
}

func (p *report) heading(lines []string) {
	for _, line := range lines {
		if p.markdown {
			line = "- " + line
		}
		p.line("%s", line)
	}
}

// result prints one measurement.
func (p *report) result(r *result) {
	if p.markdown {
		p.line("\n### %s\n", r.title)
	} else {
		p.line("\n%s", r.title)
	}
	header := []string{"tool", "median s", "min–max s", "time to ours", "CPU s client/source/target", "memory MB", "runs"}
	if r.amount > 0 {
		header = append(header, "from start s", "tx/s")
	}
	rows := [][]string{header}
	for _, t := range r.tools {
		if row := p.row(r, t.name); row != nil {
			rows = append(rows, row)
		}
	}
	p.table(rows)
	for _, name := range []string{ours, dumpTools, copyDB, native} {
		if why := r.left[name]; why != "" {
			p.line("\n%s was left out: %s", name, strings.Join(strings.Fields(why), " "))
		}
	}
}

// row is the row of one tool, or nil without a run.
func (p *report) row(r *result, name string) []string {
	var all []sample
	var ratios []float64
	for _, round := range r.samples {
		s, ok := round[name]
		if !ok {
			continue
		}
		all = append(all, s)
		ratios = append(ratios, s.wall.Seconds()/round[ours].wall.Seconds())
	}
	if len(all) == 0 {
		return nil
	}
	seconds := func(of func(sample) time.Duration) float64 { return median(values(all, of)) }
	walls := values(all, func(s sample) time.Duration { return s.wall })
	memory, memoryText := int64(0), "–"
	for _, s := range all {
		memory = max(memory, s.memory)
	}
	if memory > 0 {
		memoryText = fmt.Sprintf("%.0f", float64(memory)/(1<<20))
	}
	p.keep(r, name, memory, median(ratios))
	row := []string{
		name, fmt.Sprintf("%.2f", median(walls)), fmt.Sprintf("%.2f–%.2f", slices.Min(walls), slices.Max(walls)),
		fmt.Sprintf("%.2f", median(ratios)),
		fmt.Sprintf("%.1f/%.1f/%.1f", seconds(func(s sample) time.Duration { return s.client }),
			seconds(func(s sample) time.Duration { return s.source }), seconds(func(s sample) time.Duration { return s.target })),
		memoryText, fmt.Sprint(len(all)),
	}
	if r.amount > 0 {
		fromStart := seconds(func(s sample) time.Duration { return s.fromStart })
		row = append(row, fmt.Sprintf("%.2f", fromStart), fmt.Sprintf("%.0f", float64(r.amount)/median(walls)))
	}
	return row
}

// keep remembers what the requirements speak of.
func (p *report) keep(r *result, name string, memory int64, ratio float64) {
	switch name {
	case ours:
		p.memory = max(p.memory, memory)
	case dumpTools:
		p.ratios[r.title] = ratio
		p.titles = append(p.titles, r.title)
	}
}

// table prints rows, the first being the header.
func (p *report) table(rows [][]string) {
	if p.markdown {
		for i, row := range rows {
			p.line("| %s |", strings.Join(row, " | "))
			if i == 0 {
				p.line("|%s", strings.Repeat(" --- |", len(row)))
			}
		}
		return
	}
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, "  "+strings.Join(row, "\t"))
	}
	if err := w.Flush(); p.err == nil {
		p.err = err
	}
}

// maxMemory is the promise, in bytes.
const maxMemory = 300 << 20

// requirements says whether the promises hold in this run.
func (p *report) requirements() {
	p.line("")
	bullet := map[bool]string{true: "- "}[p.markdown]
	verdict := map[bool]string{true: "held", false: "MISSED"}
	for _, title := range p.titles {
		p.line("%snot slower than pg_dump + pg_restore, %s: %s (that takes %.2f times our time)",
			bullet, title, verdict[p.ratios[title] >= 1], p.ratios[title])
	}
	p.line("%sat most %d MB of memory: %s (%.0f MB)", bullet, maxMemory>>20, verdict[p.memory <= maxMemory], float64(p.memory)/(1<<20))
}

func values(all []sample, of func(sample) time.Duration) []float64 {
	seconds := make([]float64, len(all))
	for i, s := range all {
		seconds[i] = of(s).Seconds()
	}
	return seconds
}

func median(numbers []float64) float64 {
	sorted := slices.Sorted(slices.Values(numbers))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
