package pgtest

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/slipway-db/slipway/postgres"
)

// Password is the superuser's where a server asks for one.
const Password = "pgtest's pass%word"

// patience bounds what servers do at the request of tests: starting, stopping, creating a database.
const patience = time.Minute

// Options of a server; the zero value is a server of the default target major that trusts everybody.
type Options struct {
	// Major is the version; 0 means the default.
	Major int
	// Settings replace or add to the usual ones of test servers.
	Settings map[string]string
	// InitArgs are added to initdb's arguments, e.g. "--data-checksums".
	InitArgs []string
	// Auth is the method for all connections: "trust" (the default) or "scram-sha-256", with Password.
	Auth string
}

// Server is a real server. The methods of postgres.Server kill, pause and restart it.
type Server struct {
	*postgres.Server
	password string
	settings map[string]string
}

// Start starts a server of the test's own, which is stopped and removed when the test ends. When the test fails, the
// end of the server's log is shown.
func Start(t testing.TB, options Options) *Server {
	t.Helper()
	if options.Major == 0 {
		_, options.Major = DefaultMajors(t)
	}
	server, err := start(installation(t, options.Major), options)
	if err != nil {
		t.Fatalf("start a server: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of PostgreSQL %d, port %d:\n%s", server.Major(), server.Port(), server.LogTail(40))
		}
		if err := server.destroy(); err != nil {
			t.Errorf("remove a server: %v", err)
		}
	})
	return server
}

func start(installation postgres.Installation, options Options) (*Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	initOptions := postgres.InitOptions{Auth: options.Auth, Args: options.InitArgs}
	if options.Auth != "" && options.Auth != "trust" {
		initOptions.Password = Password
	}
	dir, err := workspace.serverDir(installation.Major)
	if err != nil {
		return nil, err
	}
	process, err := postgres.NewServer(postgres.ServerConfig{Installation: installation, DataDir: dir})
	if err != nil {
		return nil, err
	}
	from, err := template(ctx, installation, initOptions)
	if err != nil {
		return nil, err
	}
	if err := process.InitFrom(ctx, from); err != nil {
		return nil, err
	}
	server := &Server{Server: process, password: initOptions.Password, settings: usualSettings()}
	maps.Copy(server.settings, options.Settings)
	if err := process.Configure(server.settings); err != nil {
		return nil, err
	}
	return server, process.Start(ctx)
}

// usualSettings allow everything that a migration needs, for many tests at once, and trade safety against a crash of
// the machine, which no test needs, for speed. A killed server still recovers: the kernel keeps what was written.
func usualSettings() map[string]string {
	return map[string]string{
		"fsync":                     "off",
		"full_page_writes":          "off",
		"shared_buffers":            "32MB",
		"wal_level":                 "logical",
		"max_connections":           "200",
		"max_replication_slots":     "40",
		"max_wal_senders":           "40",
		"max_prepared_transactions": "10",
		"max_worker_processes":      "16",
		"log_line_prefix":           "%m [%p] %q%a %d ",
	}
}

// Configure changes settings of the server on top of what it has; they hold from the next Reload or Restart.
func (s *Server) Configure(t testing.TB, settings map[string]string) {
	t.Helper()
	maps.Copy(s.settings, settings)
	if err := s.Server.Configure(s.settings); err != nil {
		t.Fatalf("configure server: %v", err)
	}
}

func (s *Server) destroy() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Stop(ctx, postgres.Immediate); err != nil {
		if err := s.Kill(); err != nil {
			return err
		}
	}
	return s.Remove()
}

// sharedServerOf is the server of that role and major which the tests of this process share; the first one starts it.
func sharedServerOf(t testing.TB, role string, major int) *Server {
	t.Helper()
	key := sharedKey{role, major}
	workspace.mu.Lock()
	shared := workspace.shared[key]
	if shared == nil {
		shared = &sharedServer{}
		workspace.shared[key] = shared
	}
	workspace.mu.Unlock()
	found := installation(t, major)
	shared.start.Do(func() { shared.server, shared.err = start(found, Options{Major: major}) })
	if shared.err != nil {
		t.Fatalf("start the shared %s server: %v", role, shared.err)
	}
	return shared.server
}
