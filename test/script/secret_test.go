package script_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-db/slipway/pgtest"
)

// watched collects everything that others can see of a process and its children, as long as it runs.
type watched struct {
	stop chan struct{}
	done chan struct{}
	seen strings.Builder
}

// watchCommandLines reads the command lines of a process group over and over.
func watchCommandLines(group int) *watched {
	w := &watched{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-tick.C:
				w.look(group)
			}
		}
	}()
	return w
}

func (w *watched) look(group int) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		_, after, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(after); len(fields) < 3 || fields[2] != strconv.Itoa(group) {
			continue
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if err == nil && !strings.Contains(w.seen.String(), string(line)) {
			w.seen.Write(line)
			w.seen.WriteByte('\n')
		}
	}
}

func (w *watched) all() string {
	close(w.stop)
	<-w.done
	return w.seen.String()
}

// TestPassword_Nowhere hands the password over in each way that libpq knows and looks for it where others can see:
// output, command lines of the program and of pg_dump, statements on both servers, our state in the target.
func TestPassword_Nowhere(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Auth: "scram-sha-256", Settings: map[string]string{"log_statement": "all", "track_activity_query_size": "16kB"}})
	source := server.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	source.Exec(t, shop)
	port := server.Port()
	bare := func(d *pgtest.Database) string {
		return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", port, url.PathEscape(d.Name))
	}
	for name, way := range map[string]struct {
		uri  func(*pgtest.Database) string
		home map[string]string
		env  func(home string) []string
	}{
		"in the URI": {uri: (*pgtest.Database).URI},
		"in keywords": {uri: func(d *pgtest.Database) string {
			return fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=%s password='%s' sslmode=disable", port, d.Name, strings.ReplaceAll(pgtest.Password, "'", `\'`))
		}},
		"PGPASSWORD": {uri: bare, env: func(string) []string { return []string{"PGPASSWORD=" + pgtest.Password} }},
		".pgpass":    {uri: bare, home: map[string]string{".pgpass": fmt.Sprintf("127.0.0.1:%d:*:postgres:%s\n", port, pgtest.Password)}},
		"PGPASSFILE": {
			uri: bare, home: map[string]string{"elsewhere": "*:*:*:*:" + pgtest.Password + "\n"},
			env: func(home string) []string { return []string{"PGPASSFILE=" + filepath.Join(home, "elsewhere")} },
		},
		"service file": {
			uri:  func(d *pgtest.Database) string { return "service=both dbname=" + d.Name },
			home: map[string]string{".pg_service.conf": fmt.Sprintf("[both]\nhost=127.0.0.1\nport=%d\nuser=postgres\npassword=%s\nsslmode=disable\n", port, pgtest.Password)},
		},
		"SLIPWAY_SOURCE": {uri: func(*pgtest.Database) string { return "" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := server.NewDatabase(t, pgtest.DatabaseOptions{})
			home := t.TempDir()
			for file, content := range way.home {
				if err := os.WriteFile(filepath.Join(home, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s := newShell(t, "HOME="+home, "SLIPWAY_DEBUG=1", "SLIPWAY_SOURCE="+source.URI(), "SLIPWAY_TARGET="+target.URI())
			if way.env != nil {
				s.env = append(s.env, way.env(home)...)
			}
			var endpoints []string
			if uri := way.uri(source); uri != "" {
				endpoints = []string{"--source", uri, "--target=" + way.uri(target)}
			}
			p := s.start(t, append([]string{"migrate", "run", "--yes"}, endpoints...)...)
			// A password in an argument can be seen until the program has blotted it out; all others never.
			pgtest.Eventually(t, patience, "the program's own arguments hold no password", func() bool {
				line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid))
				return err == nil && len(line) > 0 && !strings.Contains(string(line), "pass%25word") && !strings.Contains(string(line), "pass%word")
			})
			watch := watchCommandLines(p.cmd.Process.Pid)
			p.await(t, "in_sync=true")
			found := map[string]string{}
			found["statements"] = strings.Join(server.Maintenance().Strings(t, `SELECT query, application_name FROM pg_stat_activity`), "\n")
			found["state"] = strings.Join(target.Strings(t, `SELECT job::text, status::text FROM slipway.job, slipway.status`), "\n")
			found["completion"] = s.run(t, append([]string{"migrate", "complete"}, endpoints[min(2, len(endpoints)):]...)...).want(t, done).String()
			found["run"] = p.wait(t).want(t, done).String()
			found["command lines"] = watch.all()
			found["comparison"] = s.run(t, append([]string{"migrate", "compare"}, endpoints...)...).want(t, done).String()
			if !strings.Contains(found["command lines"], "pg_dump") {
				t.Errorf("pg_dump was not seen: %q", found["command lines"])
			}
			for where, content := range found {
				for _, secret := range []string{pgtest.Password, url.QueryEscape(pgtest.Password), url.PathEscape(pgtest.Password), `pgtest\'s pass`} {
					if at := strings.Index(content, secret); at >= 0 {
						t.Errorf("%s shows the password: …%q…", where, content[max(0, at-200):at+len(secret)])
					}
				}
			}
		})
	}
	t.Cleanup(func() {
		if log := server.LogTail(1 << 20); strings.Contains(log, pgtest.Password) {
			t.Error("the server's log shows the password")
		}
	})
}

// TestEndpoint_Forms reaches both servers in each form that libpq knows.
func TestEndpoint_Forms(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	s := sceneOf(t, pair.Source, pair.Target)
	name := func(d *pgtest.Database) string { return url.PathEscape(d.Name) }
	for form, c := range map[string]struct {
		uri func(*pgtest.Database) string
		env []string
	}{
		"unix socket as host parameter": {uri: func(d *pgtest.Database) string {
			return fmt.Sprintf("postgres:///%s?host=%s&port=%d&user=postgres", name(d), url.QueryEscape(d.Server.SocketDir()), d.Server.Port())
		}},
		"unix socket percent-encoded": {uri: func(d *pgtest.Database) string {
			return fmt.Sprintf("postgresql://postgres@%s:%d/%s", url.PathEscape(d.Server.SocketDir()), d.Server.Port(), name(d))
		}},
		"keywords": {uri: func(d *pgtest.Database) string {
			return fmt.Sprintf("host = '%s' port=%d user=postgres dbname = %s", d.Server.SocketDir(), d.Server.Port(), d.Name)
		}},
		"several hosts": {uri: func(d *pgtest.Database) string {
			return fmt.Sprintf("postgres://postgres@127.0.0.1:1,127.0.0.1:%d/%s?sslmode=disable&target_session_attrs=read-write", d.Server.Port(), name(d))
		}},
		"environment": {
			uri: func(d *pgtest.Database) string { return fmt.Sprintf("port=%d dbname=%s", d.Server.Port(), d.Name) },
			env: []string{"PGHOST=127.0.0.1", "PGUSER=postgres", "PGSSLMODE=disable", "PGCONNECT_TIMEOUT=10"},
		},
	} {
		t.Run(form, func(t *testing.T) {
			sh := newShell(t, c.env...)
			endpoints := []string{"--source", c.uri(s.source), "--target", c.uri(s.target), "--type", "structure"}
			sh.run(t, append([]string{"migrate", "run", "--yes"}, endpoints...)...).want(t, done, ": done in ")
			s.target.Exec(t, `DROP SCHEMA shop CASCADE`)
			s.unchanged(t)
		})
	}
}

// childrenOf are the processes that a process has started.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	var children []int
	for _, field := range strings.Fields(string(data)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		children = append(children, child)
	}
	return children
}
