package script_test

import (
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// onTerminal runs the program with a terminal of 100 columns for all its streams, as script(1) makes one; what the
// terminal got is the output.
func (s shell) onTerminal(t *testing.T, arguments ...string) *process {
	t.Helper()
	quoted := make([]string, len(arguments))
	for i, a := range arguments {
		quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	s.env = append(s.env, "TERM=xterm-256color", "SHELL=/bin/sh")
	return s.startCommand(t, exec.Command("script", "--quiet", "--return", "--flush", "--command",
		"stty cols 100 rows 30; exec '"+binary+"' "+strings.Join(quoted, " "), "/dev/null"))
}

var colour = regexp.MustCompile(`\x1b\[[0-9;]*3[0-9](;[0-9]+)*m`)

// TestTerminal_LivePanel shows what a person wants to see, while log lines stay above it.
func TestTerminal_LivePanel(t *testing.T) {
	t.Parallel()
	for name, env := range map[string][]string{"colour": nil, "NO_COLOR": {"NO_COLOR=1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, env...)
			s.source.Exec(t, `INSERT INTO shop.note SELECT i, repeat('n', 100) FROM generate_series(1000, 61000) i; ANALYZE`)
			p := s.onTerminal(t, s.command("run", "--yes", "--jobs", "2", "--max-rows-per-second", "30000")...)
			pgtest.Eventually(t, patience, "the panel says that it is in sync", func() bool { return strings.Contains(p.stdout.String(), "in sync") })
			s.migrate(t, "complete").want(t, done)
			o := p.wait(t).want(t, done, "prepare", "structure", "copy", "follow", " › ", "█", "about ", " rows/s", "kB/s", "in flight: ", "shop.note",
				"lag 0 bytes, 0.0 s", "next: stop the writes on the source", "✓", ": done in ", "migration created job=")
			if has := colour.MatchString(o.stdout); has != (env == nil) {
				t.Errorf("colours: %v: %q", has, o.stdout)
			}
		})
	}
}

// TestTerminal_Asks about warnings, and takes no for an answer.
func TestTerminal_Asks(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	// A warning on every version: the two sides show times differently.
	s.target.Server.Maintenance().Exec(t, "ALTER DATABASE "+postgres.QuoteIdent(s.target.Name)+" SET timezone = 'Asia/Shanghai'")
	for answer, code := range map[string]int{"n\n": checkFailed, "\n": checkFailed, "yes\n": done} {
		cmd := exec.Command("script", "--quiet", "--return", "--flush", "--command",
			"exec '"+binary+"' migrate run --complete-when-synced --source '"+s.source.URI()+"' --target '"+s.target.URI()+"'", "/dev/null")
		cmd.Stdin = strings.NewReader(answer)
		p := shell{env: append(s.env, "TERM=dumb")}.startCommand(t, cmd)
		o := p.wait(t)
		if o.code != code || !strings.Contains(o.stdout, "warning(s). Go on? [y/N]") {
			t.Errorf("answer %q: want exit code %d, got %v", answer, code, o)
		}
		if code != done {
			s.unchanged(t)
		} else {
			s.target.Exec(t, `DROP SCHEMA shop CASCADE`)
		}
	}
	// Nobody is there to answer.
	s.migrate(t, "run").want(t, checkFailed, "TimeZone: ", "accept them with --yes")
	s.unchanged(t)
}

// TestTerminal_CtrlC keeps the message readable beside the panel.
func TestTerminal_CtrlC(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.onTerminal(t, s.command("run", "--yes")...)
	pgtest.Eventually(t, patience, "the panel says that it is in sync", func() bool { return strings.Contains(p.stdout.String(), "in sync") })
	// What the terminal driver does at Ctrl-C: the signal goes to the terminal's foreground processes, not to script.
	for _, pid := range childrenOf(t, p.cmd.Process.Pid) {
		if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
			t.Error(err)
		}
	}
	p.wait(t).want(t, stopped, "stopping cleanly (press Ctrl-C again", "Nothing is lost: run the same command again")
	s.abort(t)
}
