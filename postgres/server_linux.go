package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// ServerConfig says which PostgreSQL runs where.
type ServerConfig struct {
	// Installation has the programs.
	Installation Installation
	// DataDir is the data directory. Init makes it, and its parents must be open to the user who runs the server.
	DataDir string
	// SocketDir holds the unix socket; empty means DataDir. A socket's path has at most 107 bytes.
	SocketDir string
	// Port is the TCP port on 127.0.0.1; 0 means that the first start finds a free one, which is then kept.
	Port int
	// User runs the server when we are root, because PostgreSQL refuses to; empty means postgres, else nobody.
	User string
}

// Server is one PostgreSQL server run as a child of this process. It does not outlive us: the kernel shuts it down
// when we die. Methods may be called from several goroutines; those that start, stop, kill and pause wait for each other.
type Server struct {
	config     ServerConfig
	credential *syscall.Credential

	life sync.Mutex // held by whoever starts or stops

	mu   sync.Mutex // guards what follows
	port int
	proc *process // nil before the first start
}

// NewServer checks the configuration. Nothing runs yet, and an existing data directory is taken as it is.
func NewServer(config ServerConfig) (*Server, error) {
	if !config.Installation.HasServer {
		return nil, fmt.Errorf("no server programs in %q", config.Installation.Dir)
	}
	if !filepath.IsAbs(config.DataDir) {
		return nil, fmt.Errorf("data directory %q is not absolute", config.DataDir)
	}
	if config.SocketDir == "" {
		config.SocketDir = config.DataDir
	}
	if n := len(filepath.Join(config.SocketDir, ".s.PGSQL.65535")); n > maxSocketPath {
		return nil, fmt.Errorf("socket directory %q: the socket's path would have %d bytes, more than %d",
			config.SocketDir, n, maxSocketPath)
	}
	credential, err := serverCredential(config.User)
	if err != nil {
		return nil, err
	}
	return &Server{config: config, credential: credential, port: config.Port}, nil
}

// maxSocketPath is sizeof(sockaddr_un.sun_path) less the terminating zero.
const maxSocketPath = 107

// startTries bounds how often Start looks for another port when somebody else took the one it had found.
const startTries = 5

// Start runs the server and returns when it accepts connections. When it does not come up, the error has the last
// lines of its log. When ctx ends first, the server is killed.
func (s *Server) Start(ctx context.Context) error {
	s.life.Lock()
	defer s.life.Unlock()
	return s.start(ctx)
}

func (s *Server) start(ctx context.Context) error {
	if s.running() != nil {
		return errors.New("the server runs already")
	}
	chosen := s.Port() == 0
	for try := 1; ; try++ {
		if chosen {
			if err := s.choosePort(); err != nil {
				return err
			}
		}
		err := s.startOnce(ctx)
		if err == nil {
			return nil
		}
		// Told apart by the port itself and not by the message: somebody else has it now.
		if !chosen || try == startTries || ctx.Err() != nil || bindable(s.Port()) {
			return fmt.Errorf("start PostgreSQL %d in %s: %w", s.config.Installation.Major, s.config.DataDir, err)
		}
	}
}

// choosePort finds a port that nothing listens on. It looks below the range from which the kernel takes ports for
// outgoing connections: from there, one could take the port while the server is down for a restart.
func (s *Server) choosePort() error {
	const lowest, below = 15000, 32000
	for range 100 {
		if port := lowest + rand.IntN(below-lowest); bindable(port) {
			s.setPort(port)
			return nil
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("find a free port: %w", err)
	}
	s.setPort(listener.Addr().(*net.TCPAddr).Port)
	return listener.Close()
}

func bindable(port int) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

func (s *Server) startOnce(ctx context.Context) error {
	log, err := s.open(logFile, os.O_APPEND)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close() // the server has its own descriptor
	start, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	if err := reachable(s.config.DataDir, s.credential); err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(s.config.Installation.Dir, "postgres"), "-D", s.config.DataDir,
		"-c", "port="+strconv.Itoa(s.Port()), "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories="+s.config.SocketDir, "-c", "logging_collector=off", "-c", "log_destination=stderr")
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.config.DataDir, serverEnv(), log, log
	proc, err := startProcess(cmd, s.credential)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.proc = proc
	s.mu.Unlock()
	if err := s.awaitReady(ctx, proc); err != nil {
		return errors.Join(fmt.Errorf("%w; its log ends:\n%s", err, s.logSince(start)), kill(proc))
	}
	return nil
}

// readyPoll is how often a starting server is asked; it takes about 50 ms to come up.
const readyPoll = 10 * time.Millisecond

// awaitReady asks as pg_isready does: an answer of any kind, be it a refused login, means that the server serves,
// except "cannot connect now" (starting up, in recovery).
func (s *Server) awaitReady(ctx context.Context, proc *process) error {
	config, err := pgconn.ParseConfig(fmt.Sprintf("host='%s' port=%d user=postgres dbname=postgres sslmode=disable connect_timeout=5",
		strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s.config.SocketDir), s.Port()))
	if err != nil {
		return fmt.Errorf("address of the server: %w", err)
	}
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		conn, err := pgconn.ConnectConfig(ctx, config)
		if err == nil {
			return conn.Close(ctx)
		}
		if code := Code(err); code != "" && code != "57P03" {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-proc.done:
			return fmt.Errorf("the server ended (%v)", proc.err)
		case <-tick.C:
		}
	}
}

// StopMode is how PostgreSQL shuts down.
type StopMode int

// The modes of pg_ctl stop.
const (
	Fast      StopMode = iota // ends sessions, writes a checkpoint
	Smart                     // waits until all sessions have ended by themselves
	Immediate                 // ends at once; the next start recovers
)

func (m StopMode) signal() syscall.Signal {
	switch m {
	case Smart:
		return syscall.SIGTERM
	case Immediate:
		return syscall.SIGQUIT
	default:
		return syscall.SIGINT
	}
}

// Stop shuts the server down and returns when it has ended; a server that does not run is left alone. A paused
// server is resumed for it. When ctx ends first, the server goes on shutting down.
func (s *Server) Stop(ctx context.Context, mode StopMode) error {
	s.life.Lock()
	defer s.life.Unlock()
	return s.stop(ctx, mode)
}

func (s *Server) stop(ctx context.Context, mode StopMode) error {
	proc := s.running()
	if proc == nil {
		return nil
	}
	err := proc.cmd.Process.Signal(mode.signal())
	if err == nil {
		err = proc.thaw()
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop server: %w", err)
	}
	select {
	case <-proc.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop server: %w", context.Cause(ctx))
	}
}

// Restart stops and starts, on the same port.
func (s *Server) Restart(ctx context.Context, mode StopMode) error {
	s.life.Lock()
	defer s.life.Unlock()
	if err := s.stop(ctx, mode); err != nil {
		return err
	}
	return s.start(ctx)
}

// Kill ends the server as a power failure would: SIGKILL for the postmaster and every process below it. When it
// returns none of them is left, so the data directory can be started again at once.
func (s *Server) Kill() error {
	s.life.Lock()
	defer s.life.Unlock()
	proc := s.running()
	if proc == nil {
		return nil
	}
	return kill(proc)
}

func kill(proc *process) error {
	below, err := proc.freeze()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill server: %w", err)
	}
	for _, pid := range below {
		_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is what we want
	}
	if err := proc.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill server: %w", err)
	}
	<-proc.done
	for _, pid := range below {
		for alive(pid) {
			time.Sleep(time.Millisecond) // not our child: there is no event to wait for
		}
	}
	return nil
}

// Pause stops every process of the server where it stands, as a frozen machine would: connections stay open and
// nothing answers.
func (s *Server) Pause() error {
	s.life.Lock()
	defer s.life.Unlock()
	proc := s.running()
	if proc == nil {
		return errors.New("pause server: it does not run")
	}
	if err := proc.pause(); err != nil {
		return fmt.Errorf("pause server: %w", err)
	}
	return nil
}

// Resume lets a paused server go on.
func (s *Server) Resume() error {
	s.life.Lock()
	defer s.life.Unlock()
	proc := s.running()
	if proc == nil {
		return errors.New("resume server: it does not run")
	}
	if err := proc.thaw(); err != nil {
		return fmt.Errorf("resume server: %w", err)
	}
	return nil
}

// Reload makes the running server read its settings again; it does so in its own time.
func (s *Server) Reload() error {
	proc := s.running()
	if proc == nil {
		return errors.New("reload server: it does not run")
	}
	if err := proc.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return fmt.Errorf("reload server: %w", err)
	}
	return nil
}

// running is the live postmaster, or nil.
func (s *Server) running() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil || s.proc.ended() {
		return nil
	}
	return s.proc
}

// Pid is the postmaster's process id, or 0 when the server does not run.
func (s *Server) Pid() int {
	if proc := s.running(); proc != nil {
		return proc.cmd.Process.Pid
	}
	return 0
}

// Port is the TCP port on 127.0.0.1, or 0 before the first start when none was given.
func (s *Server) Port() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port
}

func (s *Server) setPort(port int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.port = port
}

// SocketDir is the directory of the unix socket.
func (s *Server) SocketDir() string { return s.config.SocketDir }

// DataDir is the data directory.
func (s *Server) DataDir() string { return s.config.DataDir }

// Major is the server's major version.
func (s *Server) Major() int { return s.config.Installation.Major }

// URI reaches a database as superuser over TCP, without a password.
func (s *Server) URI(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User("postgres"), Path: "/" + database, RawQuery: "sslmode=disable",
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port())),
	}
	return u.String()
}

// logFile is where the server writes, in its data directory.
const logFile = "server.log"

// logTailBytes bounds how much of the log's end is read.
const logTailBytes = 64 << 10

// LogTail is the last lines of the server's log, at most n.
func (s *Server) LogTail(n int) string { return lastLines(s.readLog(0), n) }

func (s *Server) logSince(offset int64) string { return lastLines(s.readLog(offset), 10) }

// readLog reads from offset, or the last logTailBytes when there is more.
func (s *Server) readLog(offset int64) []byte {
	file, err := os.Open(filepath.Join(s.config.DataDir, logFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []byte(err.Error())
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil {
		offset = max(offset, info.Size()-logTailBytes)
	}
	data, err := io.ReadAll(io.NewSectionReader(file, offset, logTailBytes))
	if err != nil {
		return []byte(err.Error())
	}
	return data
}

func lastLines(data []byte, n int) string {
	lines := bytes.Split(bytes.TrimRight(data, "\n"), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n")))
}
