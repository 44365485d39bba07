package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/term"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/state"
)

// progress shows how the migrations stand: a live panel on a terminal, else plain log lines at each change of phase
// and every ten seconds.
type progress struct {
	log *slog.Logger

	console *console
	program *tea.Program // nil without a terminal
	ended   chan struct{}

	mu       sync.Mutex
	lastLine map[string]time.Time
	lastSeen map[string]string
}

const plainInterval = 10 * time.Second

func newProgress(out io.Writer) *progress {
	p := &progress{lastLine: map[string]time.Time{}, lastSeen: map[string]string{}}
	p.log = slog.New(newLineHandler(out))
	screen, isConsole := out.(*console)
	if !isConsole || !term.IsTerminal(screen.file.Fd()) || os.Getenv("TERM") == "dumb" || os.Getenv("CI") != "" {
		return p
	}
	p.console, p.ended = screen, make(chan struct{})
	// Signals and the keyboard stay with main: Ctrl-C must mean the same with and without a terminal.
	p.program = tea.NewProgram(newPanel(), tea.WithOutput(screen.file), tea.WithInput(nil), tea.WithoutSignalHandler(), tea.WithFPS(10))
	screen.show(p.program)
	go func() {
		defer close(p.ended)
		_, _ = p.program.Run()
	}()
	return p
}

func (p *progress) logger() *slog.Logger { return p.log }

// update takes a status of one database; it may be called from several goroutines.
func (p *progress) update(s migrate.Status) {
	if p.program != nil {
		p.program.Send(s)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := s.Database.Source
	seen := fmt.Sprint(s.Phase, s.InSync, s.Message)
	if p.lastSeen[key] == seen && time.Since(p.lastLine[key]) < plainInterval {
		return
	}
	p.lastSeen[key], p.lastLine[key] = seen, time.Now()
	p.log.Info("progress", statusAttributes(s)...)
}

// close leaves the last panel on the screen.
func (p *progress) close() {
	if p.program == nil {
		return
	}
	p.console.show(nil)
	p.program.Send(closing{})
	p.program.Quit()
	<-p.ended
	p.program = nil
}

func statusAttributes(s migrate.Status) []any {
	attributes := []any{"database", s.Database.Source, "phase", s.Phase}
	if s.Message != "" {
		attributes = append(attributes, "waiting", s.Message)
	}
	switch s.Phase {
	case state.Copy:
		attributes = append(attributes, "tables", fmt.Sprintf("%d/%d", s.TablesCopied, s.Tables), "rows", s.Rows,
			"rows_per_s", s.RowsPerSecond, "bytes", size(s.Bytes), "bytes_per_s", size(s.BytesPerSecond))
	case state.Follow, state.Complete:
		if s.LagBytes < 0 {
			return attributes // the stream is only starting
		}
		attributes = append(attributes, "in_sync", s.InSync, "lag_bytes", s.LagBytes, "lag_s", fmt.Sprintf("%.1f", s.LagSeconds),
			"transactions", s.Transactions, "tx_per_s", s.TransactionsPerSec)
	}
	return attributes
}

// panel is the live view: one block per database.
type panel struct {
	statuses []migrate.Status
	width    int
	spinner  int
	closing  bool
}

func newPanel() panel { return panel{width: 100} }

type tick struct{}

// closing makes the panel that stays on the screen look like what it is.
type closing struct{}

func nextTick() tea.Cmd {
	return tea.Tick(200*time.Millisecond, func(time.Time) tea.Msg { return tick{} })
}

func (p panel) Init() tea.Cmd { return nextTick() }

func (p panel) Update(message tea.Msg) (tea.Model, tea.Cmd) {
	switch m := message.(type) {
	case tea.WindowSizeMsg:
		p.width = m.Width
	case tick:
		p.spinner++
		return p, nextTick()
	case closing:
		p.closing = true
	case migrate.Status:
		for i := range p.statuses {
			if p.statuses[i].Database == m.Database {
				p.statuses[i] = m
				return p, nil
			}
		}
		p.statuses = append(p.statuses, m)
	}
	return p, nil
}

var (
	bold  = lipgloss.NewStyle().Bold(true)
	faint = lipgloss.NewStyle().Faint(true)
	good  = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
	bad   = lipgloss.NewStyle().Foreground(lipgloss.Color("3"))
)

// frames turn while the program works; a panel that stands still is seen at once.
var frames = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

func (p panel) View() string {
	var b strings.Builder
	for _, s := range p.statuses {
		lines := statusLines(s)
		lines[0] = p.mark(s) + " " + lines[0]
		if s.Phase == state.Follow && s.InSync && s.Message == "" && !p.closing {
			lines = append(lines, faint.Render("  next: stop the writes on the source, then slipway migrate complete"))
		}
		for _, line := range lines {
			b.WriteString(lipgloss.NewStyle().MaxWidth(p.width).Render(line))
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// mark is a check for what is done, else a turning frame as long as the program works on it.
func (p panel) mark(s migrate.Status) string {
	if s.Phase == state.Done {
		return good.Render("✓")
	}
	if p.closing {
		return faint.Render("·")
	}
	return good.Render(frames[p.spinner%len(frames)])
}

// phaseOrder is what the gauge shows; the names are those of the state.
var phaseOrder = []state.Phase{state.Prepare, state.Structure, state.Copy, state.Constraints, state.Follow, state.Complete}

// longName is the width from which a name leaves no room for the phases in a line of 80 characters.
const longName = 20

// statusLines draws one database; `status` prints the same lines.
func statusLines(s migrate.Status) []string {
	name := s.Database.Source
	if s.Database.Target != name {
		name += " → " + s.Database.Target
	}
	lines := []string{bold.Render(name) + "  " + gauge(s)}
	if lipgloss.Width(name) > longName {
		lines = []string{bold.Render(name), "  " + gauge(s)}
	}
	switch s.Phase {
	case state.Copy, state.Constraints:
		lines = append(lines, copyLines(s)...)
	case state.Follow, state.Complete:
		lines = append(lines, followLine(s))
	}
	if len(s.InFlight) > 0 {
		lines = append(lines, faint.Render("  in flight: "+strings.Join(s.InFlight, ", ")))
	}
	if s.ObjectsFailed > 0 {
		lines = append(lines, bad.Render(fmt.Sprintf("  %d object(s) could not be created", s.ObjectsFailed)))
	}
	if s.Message != "" {
		lines = append(lines, bad.Render("  "+s.Message))
	}
	return lines
}

func gauge(s migrate.Status) string {
	var parts []string
	passed := true
	for _, phase := range phaseOrder {
		if s.Type != migrate.FullIncremental && (phase == state.Follow || phase == state.Complete) {
			continue
		}
		switch {
		case phase == s.Phase:
			passed = false
			parts = append(parts, bold.Render(string(phase)))
		case passed:
			parts = append(parts, good.Render(string(phase)))
		default:
			parts = append(parts, faint.Render(string(phase)))
		}
	}
	if s.Phase == state.Done {
		parts = append(parts, good.Render(string(state.Done)))
	}
	return strings.Join(parts, faint.Render(" › "))
}

func copyLines(s migrate.Status) []string {
	progress := "  " + copyBar(s)
	if s.Phase == state.Copy && s.ETASeconds >= 0 {
		progress += "about " + (time.Duration(max(1, s.ETASeconds)) * time.Second).String() + " left   "
	}
	rows := fmt.Sprintf("  %s rows   %s", count(s.Rows), size(s.Bytes))
	if s.Phase == state.Copy {
		rows += fmt.Sprintf("   %s rows/s   %s/s", count(s.RowsPerSecond), size(s.BytesPerSecond))
	}
	return []string{progress + fmt.Sprintf("%d/%d tables, %d indexed", s.TablesCopied, s.Tables, s.TablesIndexed), rows}
}

// barWidth is the length of the copy's bar in characters.
const barWidth = 16

// copyBar shows the copied rows against the source's estimate, which statistics may not have, or have wrong: it stays
// below the end as long as the copy goes on.
func copyBar(s migrate.Status) string {
	if s.RowsEstimated <= 0 {
		return ""
	}
	share := min(float64(s.Rows)/float64(s.RowsEstimated), 0.99)
	if s.Phase != state.Copy {
		share = 1
	}
	filled := int(share * barWidth)
	return good.Render(strings.Repeat("█", filled)) + faint.Render(strings.Repeat("░", barWidth-filled)) + fmt.Sprintf(" %2.0f%%   ", share*100)
}

func followLine(s migrate.Status) string {
	if s.LagBytes < 0 {
		return "  starting to follow"
	}
	lag := fmt.Sprintf("lag %s, %.1f s", size(s.LagBytes), max(0, s.LagSeconds))
	if s.InSync {
		lag = good.Render("in sync") + "   " + lag
	}
	return fmt.Sprintf("  %s   %s transactions, %s/s   %s changes", lag, count(s.Transactions), count(s.TransactionsPerSec), count(s.Changes))
}

// lineHandler prints log records as plain lines: time, level when it is not info, message, key=value.
type lineHandler struct {
	mu   *sync.Mutex
	out  io.Writer
	with []slog.Attr
}

func newLineHandler(out io.Writer) *lineHandler { return &lineHandler{mu: &sync.Mutex{}, out: out} }

func (h *lineHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || os.Getenv("SLIPWAY_DEBUG") != ""
}

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Time.Format(time.RFC3339))
	if r.Level != slog.LevelInfo {
		b.WriteString(" " + strings.ToLower(r.Level.String()))
	}
	b.WriteString(" " + r.Message)
	add := func(a slog.Attr) bool {
		value := a.Value.Resolve().String()
		if strings.ContainsAny(value, " \t\n\"") {
			value = fmt.Sprintf("%q", value)
		}
		b.WriteString(" " + a.Key + "=" + value)
		return true
	}
	for _, a := range h.with {
		add(a)
	}
	r.Attrs(add)
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.out, b.String())
	return err
}

func (h *lineHandler) WithAttrs(attributes []slog.Attr) slog.Handler {
	return &lineHandler{mu: h.mu, out: h.out, with: append(append([]slog.Attr{}, h.with...), attributes...)}
}

// WithGroup is not used by our logs; groups are flattened.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }
