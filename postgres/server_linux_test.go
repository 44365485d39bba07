package postgres_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

const patience = 30 * time.Second

// busy keeps one backend computing, where it notices nothing but signals, and returns its process id. The session
// ends when the test does.
func busy(t *testing.T, d *pgtest.Database) int {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.URI())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = conn.Exec(ctx, `SELECT count(*) FROM generate_series(1, 1000000000000) a`) // ends with the server
		_ = conn.Close(context.Background())
	}()
	t.Cleanup(func() { cancel(); <-done })
	pid := int(conn.PgConn().PID())
	pgtest.Eventually(t, patience, "backend is busy", func() bool {
		return d.Int(t, `SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND state = 'active'`, pid) == 1
	})
	return pid
}

// gone tells whether a process has ended; one that waits for its parent to take notice has.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestServer_KillLeavesNoProcessAndRestartKeepsCommits(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	d := server.NewDatabase(t, pgtest.DatabaseOptions{})
	d.Exec(t, `CREATE TABLE t (a int)`, `INSERT INTO t VALUES (1), (2)`)
	postmaster, port := server.Pid(), server.Port()
	pids := []int{postmaster, busy(t, d), busy(t, d)}
	for _, pid := range d.Strings(t, `SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()`) {
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, n)
	}

	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if !gone(pid) {
			t.Errorf("process %d of %v (postmaster first) survived", pid, pids)
		}
	}
	if server.Pid() != 0 {
		t.Errorf("a killed server has process id %d", server.Pid())
	}

	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if server.Port() != port {
		t.Errorf("port %d became %d", port, server.Port())
	}
	if n := d.Int(t, `SELECT count(*) FROM t`); n != 2 {
		t.Errorf("%d rows instead of 2 after the restart", n)
	}
}

func TestServer_PausedAnswersNothingUntilResumed(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	d := server.Maintenance()
	open := d.Connect(t)
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if conn, err := pgx.Connect(ctx, d.URI()); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a paused server let somebody in")
	}
	answered := make(chan error, 1)
	go func() {
		_, err := open.Exec(context.Background(), `SELECT 1`)
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Errorf("a paused server answered (error %v)", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("the open session after the pause: %v", err)
	}
}

func TestServer_StopEndsAPausedServer(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := server.Stop(ctx, postgres.Fast); err != nil {
		t.Fatal(err)
	}
	if server.Pid() != 0 {
		t.Error("the server runs after Stop")
	}
}

func TestServer_SmartStopWaitsForSessions(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	conn := server.Maintenance().Connect(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := server.Stop(ctx, postgres.Smart); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with an open session: %v", err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(t.Context(), postgres.Smart); err != nil {
		t.Error(err)
	}
}

func TestServer_StartErrorShowsTheLog(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	server.Configure(t, map[string]string{"shared_buffers": "a lot"})
	err := server.Restart(t.Context(), postgres.Fast)
	if err == nil || !strings.Contains(err.Error(), "shared_buffers") {
		t.Errorf("error does not name the setting: %v", err)
	}
	server.Configure(t, map[string]string{"shared_buffers": "16MB"})
	if err := server.Start(t.Context()); err != nil {
		t.Errorf("after the correction: %v", err)
	}
}

func TestServer_ConfigureQuotesAndRefuses(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"slipway.odd": `it's a \ "thing"`}})
	if got := server.Maintenance().Strings(t, `SHOW slipway.odd`); got[0] != `it's a \ "thing"` {
		t.Errorf("setting is %q", got[0])
	}
	for name, value := range map[string]string{"work_mem = 1 #": "1MB", "work_mem": "1MB'\nfsync = 'on"} {
		if err := server.Server.Configure(map[string]string{name: value}); err == nil {
			t.Errorf("accepted %q = %q", name, value)
		}
	}
}

func TestServer_GivenPortTakenIsAnError(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, major := pgtest.DefaultMajors(t)
	installation, err := postgres.ServerInstallation(pgtest.Roots(), major)
	if err != nil {
		t.Fatal(err)
	}
	// Root runs servers as another user, who cannot enter the test's own directory.
	base, err := os.MkdirTemp("", "slipway-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	server, err := postgres.NewServer(postgres.ServerConfig{
		Installation: installation, DataDir: filepath.Join(base, "data"), Port: listener.Addr().(*net.TCPAddr).Port,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Init(t.Context(), postgres.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "could not bind") {
		t.Errorf("error does not tell that the port is taken: %v", err)
	}
	if err := server.Remove(); err != nil {
		t.Error(err)
	}
}

func TestServer_ScramAsksForThePassword(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Auth: "scram-sha-256"})
	if n := server.Maintenance().Int(t, `SELECT 1`); n != 1 {
		t.Errorf("with the password: %d", n)
	}
	_, err := pgx.Connect(t.Context(), "postgres://postgres:wrong@"+
		net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port()))+"/postgres?sslmode=disable")
	if postgres.Code(err) != "28P01" {
		t.Errorf("with a wrong password: %v", err)
	}
}

func TestNewServer_RefusesAPathThatIsTooLongForASocket(t *testing.T) {
	t.Parallel()
	_, err := postgres.NewServer(postgres.ServerConfig{
		Installation: postgres.Installation{Major: 15, Dir: "/bin", HasServer: true},
		DataDir:      "/" + strings.Repeat("x", 93),
	})
	if err == nil || !strings.Contains(err.Error(), "107") {
		t.Errorf("error does not tell the limit: %v", err)
	}
}

// roleVariable makes the test binary play the parent in TestServer_DiesWithItsParent.
const roleVariable = "SLIPWAY_TEST_PARENT_OF_SERVER"

func TestServer_DiesWithItsParent(t *testing.T) {
	if role := os.Getenv(roleVariable); role != "" {
		playParent(t, role)
		return
	}
	t.Parallel()
	// As in a container, the process that inherits orphans is of our session. Elsewhere the kernel wakes stopped
	// orphans by itself, and the test would prove less.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"running", "paused"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestServer_DiesWithItsParent$")
			cmd.Env = append(os.Environ(), roleVariable+"="+role)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			if err := errors.Join(err, cmd.Process.Signal(syscall.SIGKILL)); err != nil {
				t.Fatalf("%v, output %q", err, line)
			}
			_ = cmd.Wait() // killed, by us
			pids := strings.Fields(line)
			if len(pids) != 2 {
				t.Fatalf("output %q", line)
			}
			for _, field := range pids {
				pid, err := strconv.Atoi(field)
				if err != nil {
					t.Fatalf("output %q", line)
				}
				pgtest.Eventually(t, patience, "process "+field+" ends", func() bool { return gone(pid) })
			}
		})
	}
}

// playParent starts a server with a busy backend, tells both process ids, and waits to be killed, or for the end of
// its input when nobody is left to do it.
func playParent(t *testing.T, role string) {
	server := pgtest.Start(t, pgtest.Options{})
	backend := busy(t, server.Maintenance())
	if role == "paused" {
		if err := server.Pause(); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println(server.Pid(), backend)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		t.Error(err)
	}
}
