package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unsafe"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"
	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/state"
)

// draw shows statuses on a terminal of 80 columns.
func draw(statuses ...migrate.Status) []string {
	var model tea.Model = newPanel()
	model, _ = model.Update(tea.WindowSizeMsg{Width: 80, Height: 24})
	for _, s := range statuses {
		model, _ = model.Update(s)
	}
	return strings.Split(strings.TrimRight(model.View(), "\n"), "\n")
}

func TestPanel(t *testing.T) {
	t.Parallel()
	app := migrate.Database{Source: "app", Target: "app"}
	for name, c := range map[string]struct {
		status migrate.Status
		want   []string
	}{
		"copy": {
			migrate.Status{
				Database: app, Type: migrate.FullIncremental, Phase: state.Copy, Tables: 12, TablesCopied: 5, TablesIndexed: 4, Rows: 1234567,
				RowsEstimated: 2469134, Bytes: 300 << 20, RowsPerSecond: 98765, BytesPerSecond: 24 << 20, ETASeconds: 75, InFlight: []string{"shop.big", "shop.mid"},
			},
			[]string{
				"⠋ app  prepare › structure › copy › constraints › follow › complete",
				"  ████████░░░░░░░░ 50%   about 1m15s left   5/12 tables, 4 indexed",
				"  1 234 567 rows   300 MB   98 765 rows/s   24 MB/s",
				"  in flight: shop.big, shop.mid",
			},
		},
		"estimate too low": {
			migrate.Status{Database: app, Type: migrate.Full, Phase: state.Copy, Rows: 10, Bytes: 10, RowsEstimated: 5, ETASeconds: -1},
			[]string{
				"⠋ app  prepare › structure › copy › constraints",
				"  ███████████████░ 99%   0/0 tables, 0 indexed",
				"  10 rows   10 bytes   0 rows/s   0 bytes/s",
			},
		},
		"in sync, renamed": {
			migrate.Status{
				Database: migrate.Database{Source: "app", Target: "a_name_of_some_length"}, Type: migrate.FullIncremental, Phase: state.Follow, InSync: true,
				Transactions: 4321, TransactionsPerSec: 12, Changes: 98765,
			},
			[]string{
				"⠋ app → a_name_of_some_length",
				"  prepare › structure › copy › constraints › follow › complete",
				"  in sync   lag 0 bytes, 0.0 s   4 321 transactions, 12/s   98 765 changes",
				"  next: stop the writes on the source, then slipway migrate complete",
			},
		},
		"waiting": {
			migrate.Status{Database: app, Type: migrate.FullIncremental, Phase: state.Follow, LagBytes: -1, Message: "trying again: connection refused"},
			[]string{
				"⠋ app  prepare › structure › copy › constraints › follow › complete",
				"  starting to follow",
				"  trying again: connection refused",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lines := draw(c.status)
			if diff := cmp.Diff(c.want, lines); diff != "" {
				t.Error(diff)
			}
			for _, line := range lines {
				if n := lipgloss.Width(line); n > 80 {
					t.Errorf("%d columns wide: %s", n, line)
				}
			}
		})
	}
}

// TestProgress_PlainLines prints a line at each change and not at each status.
func TestProgress_PlainLines(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	p := newProgress(&out)
	s := migrate.Status{Database: migrate.Database{Source: "app", Target: "app"}, Phase: state.Copy, Tables: 2}
	for range 5 {
		p.update(s)
	}
	s.Phase, s.InSync = state.Follow, true
	p.update(s)
	p.close()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "phase=copy") || !strings.Contains(lines[1], "in_sync=true lag_bytes=0 lag_s=0.0") {
		t.Errorf("got %q", lines)
	}
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]int{
		nil:                            exitDone,
		errors.New("other"):            exitFailed,
		usageError{errors.New("flag")}: exitUsage,
		fmt.Errorf("x: %w", migrate.ErrChecksFailed): exitCheckFailed,
		errDifferent:                            exitDifferent,
		fmt.Errorf("x: %w", migrate.ErrStopped): exitStopped,
	} {
		if got := exitCode(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
}

// TestBlot leaves nothing of an argument but what replaces it.
func TestBlot(t *testing.T) {
	t.Parallel()
	memory := []byte("--source=postgres://me:secret@host/app")
	blot(unsafe.String(&memory[0], len(memory)), "me@host:5432/app")
	if got := strings.TrimRight(string(memory), " "); got != "me@host:5432/app" {
		t.Errorf("left %q", got)
	}
}

func TestSizeAndCount(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 bytes", 10239: "10239 bytes", 10240: "10 kB", 300 << 20: "300 MB", 20 << 40: "20 TB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1 000", -1234567: "-1 234 567"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %q, want %q", n, got, want)
		}
	}
}
