package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// database is the one that moves; the target does not have it before.
const database = "shop"

// servers are the two that the demo runs, in a directory that is removed with them.
type servers struct {
	lock           *os.File
	dir            string
	installation   postgres.Installation
	password       string
	source, target *postgres.Server
}

// startServers makes and starts both. What it returns must be stopped also when it fails.
func startServers(ctx context.Context) (*servers, error) {
	s := &servers{password: rand.Text()}
	var err error
	if s.installation, err = findInstallation(); err != nil {
		return s, err
	}
	if err := s.makeDir(); err != nil {
		return s, err
	}
	for _, one := range []struct {
		name   string
		server **postgres.Server
	}{{"source", &s.source}, {"target", &s.target}} {
		server, err := postgres.NewServer(postgres.ServerConfig{Installation: s.installation, DataDir: filepath.Join(s.dir, one.name)})
		if err != nil {
			return s, err
		}
		*one.server = server
		if err := server.Init(ctx, postgres.InitOptions{Auth: "scram-sha-256", Password: s.password}); err != nil {
			return s, err
		}
		if err := server.Configure(settings(one.name == "source")); err != nil {
			return s, err
		}
		if err := server.Start(ctx); err != nil {
			return s, err
		}
	}
	return s, nil
}

// settings are those of a small production server: nothing is written less safely for the sake of numbers.
func settings(source bool) map[string]string {
	all := map[string]string{
		"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on",
		"shared_buffers": "256MB", "max_wal_size": "2GB", "maintenance_work_mem": "128MB", "checkpoint_timeout": "15min",
	}
	if source {
		maps.Copy(all, map[string]string{"wal_level": "logical", "max_replication_slots": "10", "max_wal_senders": "10"})
	}
	return all
}

// findInstallation takes the newest PostgreSQL of Debian's packages that has everything, pgbench too.
func findInstallation() (postgres.Installation, error) {
	for _, i := range slices.Backward(postgres.Locate([]string{postgres.DebianRoot})) {
		if _, err := os.Stat(filepath.Join(i.Dir, "pgbench")); err == nil && i.HasServer && i.HasClient {
			return i, nil
		}
	}
	return postgres.Installation{}, errors.New("no PostgreSQL with initdb, pg_dump and pgbench found; run scripts/setup")
}

// longestDir leaves room for the name of a socket in a data directory.
const longestDir = 80

// makeDir makes the directory for both servers: var/demo, or one below the system's temporary directory where the
// user who runs the servers could not enter var/demo. The lock on var keeps a second demo off.
func (s *servers) makeDir() error {
	parent, err := filepath.Abs("var")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	if s.lock, err = os.Open(parent); err != nil {
		return err
	}
	err = syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errors.New("another demo runs in this directory")
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", parent, err)
	}
	dir := filepath.Join(parent, "demo")
	if len(dir) > longestDir || os.Geteuid() == 0 && !open(parent) {
		if s.dir, err = os.MkdirTemp("", "slipway-demo-"); err != nil {
			return err
		}
		return os.Chmod(s.dir, 0o711)
	}
	if err := os.RemoveAll(dir); err != nil { // of a demo that was killed
		return err
	}
	s.dir = dir
	if err := os.Mkdir(dir, 0o711); err != nil {
		return err
	}
	return os.Chmod(dir, 0o711) // whatever the umask
}

// open tells whether every user may pass through the directory and all above it.
func open(dir string) bool {
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
		dir = filepath.Dir(dir)
	}
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

// uri names the database on a server as a user would: without the password, which is in the environment.
func uri(server *postgres.Server) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s", server.Port(), database)
}

// connect opens a session of the application, under a name that its sessions are counted by.
func (s *servers) connect(ctx context.Context, server *postgres.Server, name string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(server.URI(database))
	if err != nil {
		return nil, err
	}
	config.Password = s.password
	config.RuntimeParams["application_name"] = name
	return pgx.ConnectConfig(ctx, config)
}
