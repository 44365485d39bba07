// Package script_test runs the built program as a user does, against real servers, and looks at what a user sees: exit
// code, standard output, standard error, and what is left on both servers.
package script_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-db/slipway/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(withBinary{m}) }

// binary is the program under test.
var binary string

// withBinary builds the program before the tests and removes it after them.
type withBinary struct{ *testing.M }

// Run builds with the race detector exactly when the tests have it.
func (w withBinary) Run() int {
	dir, err := os.MkdirTemp("", "slipway-script-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "slipway")
	arguments := append([]string{"build"}, raceFlag...)
	build := exec.Command("go", append(arguments, "-o", binary, "github.com/slipway-db/slipway/cmd/slipway")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build slipway: %v\n%s", err, out)
		return 1
	}
	return w.M.Run()
}

// Exit codes, as documented.
const (
	done        = 0
	failed      = 1
	usage       = 2
	checkFailed = 3
	different   = 4
	stopped     = 5
)

// shell is where commands are run: the environment of a user who has set nothing, but what a test adds.
type shell struct {
	env []string
}

func newShell(t *testing.T, env ...string) shell {
	t.Helper()
	base := []string{
		"PATH=/usr/bin:/bin", "HOME=" + t.TempDir(), "LANG=C.UTF-8", "SLIPWAY_POSTGRES_DIR=" + strings.Join(pgtest.Roots(), string(filepath.ListSeparator)),
		"GORACE=halt_on_error=1",
	}
	return shell{env: append(base, env...)}
}

// outcome is what a command left for its user.
type outcome struct {
	code           int
	stdout, stderr string
}

func (o outcome) String() string {
	return fmt.Sprintf("exit code %d\n--- stdout\n%s--- stderr\n%s", o.code, o.stdout, o.stderr)
}

// want fails the test unless the command ended with the code and its output holds all texts.
func (o outcome) want(t *testing.T, code int, texts ...string) outcome {
	t.Helper()
	if o.code != code {
		t.Fatalf("want exit code %d, got %v", code, o)
	}
	for _, text := range texts {
		if !strings.Contains(o.stdout+o.stderr, text) {
			t.Errorf("the output does not say %q: %v", text, o)
		}
	}
	if verdicts := strings.Count("\n"+o.stderr, "\nslipway: "); code != done && code != different && code != stopped && verdicts != 1 {
		t.Errorf("%d lines of standard error begin with the program's name, want one: %v", verdicts, o)
	}
	for _, text := range []string{"panic:", "goroutine ", "%!", "DATA RACE"} {
		if strings.Contains(o.stdout+o.stderr, text) {
			t.Errorf("the output holds %q: %v", text, o)
		}
	}
	return o
}

// without fails the test when the output holds any of the texts.
func (o outcome) without(t *testing.T, texts ...string) outcome {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(o.stdout+o.stderr, text) {
			t.Errorf("the output says %q: %v", text, o)
		}
	}
	return o
}

// run waits for the command's end.
func (s shell) run(t *testing.T, arguments ...string) outcome {
	t.Helper()
	return s.start(t, arguments...).wait(t)
}

// process is a command that runs in the background.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr text
	ended          chan struct{}
}

// text collects what a process writes while others read it.
type text struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

// Write appends.
func (x *text) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.buffer.Write(b)
}

// String is everything so far.
func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.buffer.String()
}

// start runs `slipway` with the arguments; it does not outlive the test.
func (s shell) start(t *testing.T, arguments ...string) *process {
	t.Helper()
	return s.startCommand(t, exec.Command(binary, arguments...))
}

func (s shell) startCommand(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, ended: make(chan struct{})}
	cmd.Env = s.env
	cmd.Stdout, cmd.Stderr = &p.stdout, &p.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // the exit code says it
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.ended
	})
	return p
}

// patience bounds what any single command of these tests takes.
const patience = 90 * time.Second

func (p *process) wait(t *testing.T) outcome {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatalf("%s does not end: %v", strings.Join(p.cmd.Args, " "), p.outcome())
	}
	return p.outcome()
}

// outcome is what there is so far; the code is -1 while the process runs.
func (p *process) outcome() outcome {
	o := outcome{code: -1, stdout: p.stdout.String(), stderr: p.stderr.String()}
	select {
	case <-p.ended:
		o.code = p.cmd.ProcessState.ExitCode()
	default:
	}
	return o
}

// await returns when the process has written the text to standard error.
func (p *process) await(t *testing.T, what string) {
	t.Helper()
	pgtest.Eventually(t, patience, fmt.Sprintf("the program says %q", what), func() bool {
		if strings.Contains(p.stderr.String(), what) {
			return true
		}
		select {
		case <-p.ended:
			t.Fatalf("the program ended before it said %q: %v", what, p.outcome())
		default:
		}
		return false
	})
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

// shop is a small schema with what the checks and stages look at.
const shop = `
CREATE SCHEMA shop;
CREATE TABLE shop.customer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, joined timestamptz DEFAULT now());
CREATE TABLE shop.purchase (id bigint PRIMARY KEY, customer bigint NOT NULL REFERENCES shop.customer, amount numeric(12,2));
CREATE INDEX purchase_customer ON shop.purchase (customer);
CREATE TABLE shop.note (id int PRIMARY KEY, line text);
CREATE VIEW shop.total AS SELECT customer, sum(amount) AS amount FROM shop.purchase GROUP BY 1;
INSERT INTO shop.customer (name) SELECT 'customer ' || i FROM generate_series(1, 500) i;
INSERT INTO shop.purchase SELECT i, i % 500 + 1, i / 7.0 FROM generate_series(1, 3000) i;
INSERT INTO shop.note SELECT i, repeat('n', i % 50) FROM generate_series(1, 100) i;
`

// scene is a source with the shop, an empty target, and a shell.
type scene struct {
	shell
	source, target *pgtest.Database
	before         [2]string
}

func newScene(t *testing.T, env ...string) *scene {
	t.Helper()
	pair := pgtest.NewPair(t)
	return sceneOf(t, pair.Source, pair.Target, env...)
}

func sceneOf(t *testing.T, source, target *pgtest.Database, env ...string) *scene {
	t.Helper()
	source.Exec(t, shop)
	s := &scene{shell: newShell(t, env...), source: source, target: target}
	s.before = s.contents(t)
	return s
}

// inventory lists every object that a migration could leave behind in a database or for it on its server.
const inventory = `SELECT string_agg(what, E'\n' ORDER BY what COLLATE "C") FROM (
	SELECT 'schema ' || nspname AS what FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
	UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class WHERE oid >= 16384 AND relnamespace <> 'pg_toast'::regnamespace
	UNION ALL SELECT 'type ' || oid::regtype FROM pg_type WHERE oid >= 16384
	UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE oid >= 16384
	UNION ALL SELECT 'publication ' || pubname FROM pg_publication
	UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()) AS all_objects`

func (s *scene) contents(t *testing.T) [2]string {
	t.Helper()
	return [2]string{s.source.Strings(t, inventory)[0], s.target.Strings(t, inventory)[0]}
}

// unchanged fails the test when anything came or went on either side since the scene was made.
func (s *scene) unchanged(t *testing.T) {
	t.Helper()
	now := s.contents(t)
	for i, side := range []string{"source", "target"} {
		if now[i] != s.before[i] {
			t.Errorf("the %s has changed, from\n%s\nto\n%s", side, s.before[i], now[i])
		}
	}
}

// clean fails the test when a slot or publication is left on the source, or our schema on the target.
func (s *scene) clean(t *testing.T) {
	t.Helper()
	if now := s.source.Strings(t, inventory)[0]; now != s.before[0] {
		t.Errorf("the source has changed, from\n%s\nto\n%s", s.before[0], now)
	}
	if n := s.target.Int(t, `SELECT count(*) FROM pg_namespace WHERE nspname = 'slipway'`); n != 0 {
		t.Error("our schema is left on the target")
	}
}

// command is a subcommand of `migrate` with both endpoints.
func (s *scene) command(name string, more ...string) []string {
	arguments := []string{"migrate", name, "--target", s.target.URI()}
	if name != "status" && name != "complete" {
		arguments = append(arguments, "--source", s.source.URI())
	}
	return append(arguments, more...)
}

// migrate runs a subcommand of `migrate` to its end.
func (s *scene) migrate(t *testing.T, name string, more ...string) outcome {
	t.Helper()
	return s.run(t, s.command(name, more...)...)
}

// following starts a migration and returns when it is in sync.
func (s *scene) following(t *testing.T, more ...string) *process {
	t.Helper()
	p := s.start(t, s.command("run", append([]string{"--yes", "--jobs", "2"}, more...)...)...)
	p.await(t, "in_sync=true")
	return p
}

// abort gives a migration up at the end of a test that left one.
func (s *scene) abort(t *testing.T) {
	t.Helper()
	s.migrate(t, "abort", "--drop-copied").want(t, done)
	s.unchanged(t)
}

// replaced is a copy of arguments with one value in place of another.
func replaced(arguments []string, from, to string) []string {
	out := make([]string, len(arguments))
	for i, a := range arguments {
		out[i] = a
		if a == from {
			out[i] = cmp.Or(to, a)
		}
	}
	return out
}

// stderrHolds tells whether the process has written the text to standard error.
func (p *process) stderrHolds(what string) bool { return strings.Contains(p.stderr.String(), what) }
