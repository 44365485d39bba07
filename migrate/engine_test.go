package migrate_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// engineVariable holds the JSON of an engineConfig for a process that plays the engine.
const engineVariable = "SLIPWAY_TEST_ENGINE"

// engineConfig is a migration as a process of its own runs it.
type engineConfig struct {
	Source, Target   string
	Type             migrate.Type
	Databases        []migrate.Database
	Include, Exclude []string
	AllDatabases     bool
	Roles            bool
	Plugin           stream.Plugin
	Jobs             int
	SplitBytes       int64
	RowsPerSecond    int64
	Complete         bool
	RetryFor         time.Duration
	KillAt           state.Phase   // the process kills itself when it enters the phase
	KillAfter        time.Duration // and this long after that
}

func (c engineConfig) config() (migrate.Config, error) {
	source, err := postgres.ParseEndpoint(c.Source)
	if err != nil {
		return migrate.Config{}, err
	}
	target, err := postgres.ParseEndpoint(c.Target)
	if err != nil {
		return migrate.Config{}, err
	}
	config := migrate.Config{
		Source: source, Target: target, Type: c.Type, Databases: c.Databases, Plugin: c.Plugin, Jobs: c.Jobs, SplitBytes: c.SplitBytes,
		AllDatabases: c.AllDatabases, Roles: c.Roles, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		MaxRowsPerSecond: c.RowsPerSecond, CompleteWhenSynced: c.Complete, RetryFor: c.RetryFor, ToolRoots: pgtest.Roots(),
	}
	if config.Jobs == 0 {
		config.Jobs = 2
	}
	for _, list := range []struct {
		texts []string
		into  *[]schema.Pattern
	}{{c.Include, &config.Selection.Include}, {c.Exclude, &config.Selection.Exclude}} {
		for _, text := range list.texts {
			p, err := schema.ParsePattern(text)
			if err != nil {
				return config, err
			}
			*list.into = append(*list.into, p)
		}
	}
	return config, nil
}

// playEngine runs a migration and prints a line per phase, "in sync" when it is, and its error.
func playEngine(encoded string) int {
	var c engineConfig
	if err := json.Unmarshal([]byte(encoded), &c); err != nil {
		fmt.Println("error", err)
		return 2
	}
	config, err := c.config()
	if err != nil {
		fmt.Println("error", err)
		return 2
	}
	var mu sync.Mutex
	var last state.Phase
	inSync := false
	config.OnStatus = func(s migrate.Status) {
		mu.Lock()
		defer mu.Unlock()
		if s.Phase != last {
			last, inSync = s.Phase, false
			fmt.Println("phase", s.Phase)
			if s.Phase == c.KillAt {
				if c.KillAfter == 0 {
					die()
				}
				time.AfterFunc(c.KillAfter, die)
			}
		}
		if s.InSync && !inSync {
			inSync = true
			fmt.Println("in sync")
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() { // a closed standard input asks it to stop cleanly
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel(migrate.ErrStopped)
	}()
	if _, err := migrate.Run(ctx, config); err != nil {
		fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", " "))
		if errors.Is(err, migrate.ErrStopped) {
			return 5
		}
		return 1
	}
	return 0
}

func die() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) }

// engine is a running migration process.
type engine struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser

	mu    sync.Mutex
	lines []string
	ended chan struct{}
	err   error
}

// startEngine runs the migration in a process of its own, which does not outlive the test.
func startEngine(t *testing.T, c engineConfig) *engine {
	t.Helper()
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{cmd: exec.Command(os.Args[0]), ended: make(chan struct{})}
	e.cmd.Env = append(os.Environ(), engineVariable+"="+string(encoded))
	e.cmd.Stderr = os.Stderr
	out, err := e.cmd.StdoutPipe()
	if err == nil {
		e.stdin, err = e.cmd.StdinPipe()
	}
	if err == nil {
		err = e.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(e.ended)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			e.mu.Lock()
			e.lines = append(e.lines, scanner.Text())
			e.mu.Unlock()
		}
		e.err = e.cmd.Wait()
	}()
	t.Cleanup(func() { e.kill() })
	return e
}

func (e *engine) output() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.lines)
}

// await returns when the engine has printed the line; the engine's end before that fails the test.
func (e *engine) await(t *testing.T, line string) {
	t.Helper()
	pgtest.Eventually(t, 60*time.Second, fmt.Sprintf("the engine to print %q", line), func() bool {
		if slices.Contains(e.output(), line) {
			return true
		}
		select {
		case <-e.ended:
			t.Fatalf("the engine ended before it printed %q: %v\n%s", line, e.err, strings.Join(e.output(), "\n"))
		default:
		}
		return false
	})
}

// wait returns the exit code; -1 when the engine was killed.
func (e *engine) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-e.ended:
	case <-time.After(25 * time.Second):
		t.Fatalf("the engine does not end:\n%s", strings.Join(e.output(), "\n"))
	}
	return e.cmd.ProcessState.ExitCode()
}

func (e *engine) kill() {
	_ = e.cmd.Process.Kill()
	<-e.ended
}

// stop asks the engine to stop cleanly.
func (e *engine) stop() { _ = e.stdin.Close() }

// mustFinish runs the migration to its end.
func mustFinish(t *testing.T, c engineConfig) {
	t.Helper()
	c.Complete, c.KillAt = true, ""
	e := startEngine(t, c)
	if code := e.wait(t); code != 0 {
		t.Fatalf("the migration ended with code %d:\n%s", code, strings.Join(e.output(), "\n"))
	}
}
