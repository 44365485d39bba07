package script_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// crowd opens sessions until the server takes no more, and gives them back with leave.
type crowd struct{ conns []*pgx.Conn }

func (c *crowd) fill(t *testing.T, d *pgtest.Database) {
	t.Helper()
	for {
		conn, err := pgx.Connect(t.Context(), d.URI())
		if postgres.ConnectFault(err) == postgres.FaultLimit {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		c.conns = append(c.conns, conn)
	}
}

func (c *crowd) leave(t *testing.T) {
	t.Helper()
	for _, conn := range c.conns {
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	c.conns = nil
}

// TestConnections_NoneFree is refused before anything begins, and waited for afterwards.
func TestConnections_NoneFree(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_connections": "20", "superuser_reserved_connections": "0"}})
	s := sceneOf(t, pgtest.NewPair(t).Source, server.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"}))
	var others crowd
	others.fill(t, s.target)
	s.migrate(t, "run", "--yes").want(t, checkFailed, "failed   target-connection", "no free connection: sorry, too many clients already",
		"ALTER SYSTEM SET max_connections")
	others.leave(t)
	s.unchanged(t)

	p := s.following(t)
	reader := s.target.Connect(t)
	pgtest.Eventually(t, patience, "our sessions lose their places to others", func() bool {
		if _, err := reader.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'slipway/%'`); err != nil {
			t.Fatal(err)
		}
		others.fill(t, s.target)
		return p.stderrHolds("too many clients")
	})
	others.leave(t)
	s.source.Exec(t, `INSERT INTO shop.note VALUES (1000, 'goes on')`)
	pgtest.Eventually(t, patience, "the migration goes on by itself", func() bool {
		return s.target.Int(t, `SELECT count(*) FROM shop.note WHERE id = 1000`) == 1
	})
	s.migrate(t, "complete").want(t, done, ": done in ")
	p.wait(t).want(t, done)
	s.migrate(t, "compare").want(t, done, ": same")
}

// TestDiskFull_WaitsForSpace fills the target's disk with the copy. The program says so, goes on when there is space,
// and nothing is copied twice or left out.
func TestDiskFull_WaitsForSpace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	dir := server.DataDir() + "-small"
	resize := smallDisk(t, server, dir)
	server.Maintenance().Exec(t, "CREATE TABLESPACE small LOCATION "+postgres.QuoteLiteral(dir), "CREATE DATABASE app TABLESPACE small")
	s := sceneOf(t, pgtest.NewPair(t).Source, on(server, &pgtest.Database{Name: "app"}))
	s.source.Exec(t, `CREATE TABLE shop.big AS SELECT i AS id, repeat(md5(i::text), 20) AS line FROM generate_series(1, 60000) i`,
		`ALTER TABLE shop.big ADD PRIMARY KEY (id)`)
	s.before = s.contents(t)
	p := s.start(t, s.command("run", "--yes", "--jobs", "2", "--complete-when-synced")...)
	p.await(t, "No space left on device")
	s.migrate(t, "status").want(t, done, "running", "No space left on device")
	resize(t, "200m")
	p.wait(t).want(t, done, "trying again", ": done in ")
	s.migrate(t, "compare").want(t, done, ": same")
	s.clean(t)
}

// smallDisk mounts a file system of 24 MB for the server; the function that it returns makes it larger.
func smallDisk(t *testing.T, server *pgtest.Server, dir string) (resize func(*testing.T, string)) {
	t.Helper()
	var owner syscall.Stat_t
	err := errors.Join(os.Mkdir(dir, 0o700), syscall.Stat(server.DataDir(), &owner))
	if err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("mode=0700,uid=%d,gid=%d,size=", owner.Uid, owner.Gid)
	err = syscall.Mount("none", dir, "tmpfs", 0, options+"24m")
	if errors.Is(err, syscall.EPERM) {
		t.Skip("this root may not mount file systems (a container without CAP_SYS_ADMIN)")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before the server is removed: it must not hold files there
		if err := server.Stop(t.Context(), postgres.Immediate); err != nil {
			_ = server.Kill()
		}
		if err := errors.Join(syscall.Unmount(dir, 0), os.Remove(filepath.Clean(dir))); err != nil {
			t.Error(err)
		}
	})
	return func(t *testing.T, size string) {
		t.Helper()
		if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT, options+size); err != nil {
			t.Fatal(err)
		}
	}
}
