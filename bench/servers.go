package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// settings hold on both servers. Nothing is written less safely for the sake of numbers.
var settings = map[string]string{
	"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "autovacuum": "on", "wal_level": "logical",
	"shared_buffers": "1GB", "maintenance_work_mem": "256MB", "work_mem": "32MB",
	"max_wal_size": "8GB", "min_wal_size": "2GB", "checkpoint_timeout": "15min",
	"max_replication_slots": "10", "max_wal_senders": "10", "max_sync_workers_per_subscription": "2",
	// Else a subscription that was just disabled may wait 5 s before its worker starts again.
	"wal_retrieve_retry_interval": "100ms",
}

// servers are the source and the target, with a directory that is removed with them.
type servers struct {
	dir            string
	lock           *os.File
	password       string
	installation   postgres.Installation
	source, target *postgres.Server
}

// startServers makes and starts both. What it returns must be stopped also when it fails.
func startServers(ctx context.Context, dir string) (*servers, error) {
	s := &servers{password: rand.Text()}
	var err error
	if s.installation, err = findInstallation(); err != nil {
		return s, err
	}
	if err := s.makeDir(dir); err != nil {
		return s, err
	}
	if s.source, err = s.startServer(ctx, "source"); err != nil {
		return s, err
	}
	s.target, err = s.startServer(ctx, "target")
	return s, err
}

// startServer also returns a server that did not start: its files are there.
func (s *servers) startServer(ctx context.Context, name string) (*postgres.Server, error) {
	server, err := postgres.NewServer(postgres.ServerConfig{Installation: s.installation, DataDir: filepath.Join(s.dir, name)})
	if err != nil {
		return nil, err
	}
	if err := server.Init(ctx, postgres.InitOptions{Auth: "scram-sha-256", Password: s.password}); err != nil {
		return server, err
	}
	if err := server.Configure(settings); err != nil {
		return server, err
	}
	return server, server.Start(ctx)
}

// findInstallation takes the newest PostgreSQL of Debian's packages that has everything, pgbench too.
func findInstallation() (postgres.Installation, error) {
	for _, i := range slices.Backward(postgres.Locate([]string{postgres.DebianRoot})) {
		if _, err := os.Stat(filepath.Join(i.Dir, "pgbench")); err == nil && i.HasServer && i.HasClient {
			return i, nil
		}
	}
	return postgres.Installation{}, errors.New("no PostgreSQL with initdb, pg_dump and pgbench found; run scripts/setup bench")
}

// makeDir makes the directory. A lock on the one above keeps a second run off, and the demo, which would disturb it.
// Only in the directory that is ours by its name is anything removed that was there before.
func (s *servers) makeDir(dir string) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	var err error
	if s.lock, err = os.Open(parent); err != nil {
		return err
	}
	err = syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("another benchmark or the demo runs in %s", parent)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", parent, err)
	}
	if ours, err := filepath.Abs(defaultDir); err == nil && ours == dir {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty", dir)
	}
	s.dir = dir
	return os.Chmod(dir, 0o711) // whatever the umask: the servers run as another user
}

// stopTimeout is how long a server may take to end by itself before it is killed.
const stopTimeout = 10 * time.Second

// stop ends both servers and removes everything; it must run whatever has happened, so it has a deadline of its own.
func (s *servers) stop() error {
	var errs []error
	for _, server := range []*postgres.Server{s.source, s.target} {
		if server == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		if server.Stop(ctx, postgres.Immediate) != nil { // nothing of it is needed any more
			errs = append(errs, server.Kill())
		}
		cancel()
		errs = append(errs, server.Remove())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// uri names a database as a user would: without the password, which programs get by env.
func uri(server *postgres.Server, database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", server.Port(), url.PathEscape(database))
}

// env is our environment without what libpq would read from it, with the password that both servers share, and with
// the servers' own programs first, where pgcopydb looks for pg_dump.
func (s *servers) env() []string {
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "PG") || strings.HasPrefix(entry, "SLIPWAY_") || strings.HasPrefix(entry, "PATH=")
	})
	return append(env, "PGPASSWORD="+s.password, "PATH="+s.installation.Dir+":"+os.Getenv("PATH"))
}

func (s *servers) connect(ctx context.Context, server *postgres.Server, database string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(uri(server, database))
	if err != nil {
		return nil, err
	}
	config.Password = s.password
	return pgx.ConnectConfig(ctx, config)
}

// exec runs statements in a session of their own, one by one. An error shows no more of a statement than its start:
// further on, one may hold a password.
func (s *servers) exec(ctx context.Context, server *postgres.Server, database string, statements ...string) error {
	conn, err := s.connect(ctx, server, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, statement := range statements {
		if _, err := conn.PgConn().Exec(ctx, statement).ReadAll(); err != nil {
			return fmt.Errorf("%.40s: %w", statement, err)
		}
	}
	return nil
}

// recreate makes a database that is empty, whatever it was before.
func (s *servers) recreate(ctx context.Context, server *postgres.Server, database string) error {
	name := postgres.QuoteIdent(database)
	return s.exec(ctx, server, "postgres", "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)", "CREATE DATABASE "+name)
}

// checkpoint lets every measurement begin with the same distance to the next checkpoint.
func (s *servers) checkpoint(ctx context.Context) error {
	return errors.Join(s.exec(ctx, s.source, "postgres", "CHECKPOINT"), s.exec(ctx, s.target, "postgres", "CHECKPOINT"))
}
