package pgtest_test

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestNewPair_TwoServersReadyForLogicalReplication(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	if pair.Source.Server.Port() == pair.Target.Server.Port() {
		t.Error("source and target are on the same server")
	}
	for _, d := range []*pgtest.Database{pair.Source, pair.Target} {
		got := d.Strings(t, `SELECT current_setting('wal_level'), current_setting('autovacuum'), current_database()`)
		if diff := cmp.Diff([]string{"logical|on|" + d.Name}, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestDatabase_ValuesAsPrinted(t *testing.T) {
	t.Parallel()
	d := pgtest.NewPair(t).Source
	d.Exec(t, `CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, 'x'), (2, NULL)`, `INSERT INTO t VALUES (3, '')`)
	if diff := cmp.Diff([]string{"1|x", `2|\N`, "3|"}, d.Strings(t, `SELECT a, b FROM t ORDER BY a`)); diff != "" {
		t.Error(diff)
	}
	if n := d.Int(t, `SELECT count(*) FROM t WHERE a >= $1`, 2); n != 2 {
		t.Errorf("%d rows instead of 2", n)
	}
}

// recorder stands in for a test that is meant to fail.
type recorder struct {
	testing.TB
	errors   []string
	cleanups []func()
}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

func (r *recorder) finish() {
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
	r.cleanups = nil
}

func TestNewPair_LeftOverSlotFailsTheTestAndGoes(t *testing.T) {
	t.Parallel()
	r := &recorder{TB: t}
	d := pgtest.NewPair(r).Source
	d.Exec(t, `SELECT pg_create_logical_replication_slot('left_over', 'pgoutput')`)
	r.finish()
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], "left_over") {
		t.Errorf("errors %q do not name the slot", r.errors)
	}
	if n := d.Server.Maintenance().Int(t, `SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'left_over'`); n != 0 {
		t.Error("the slot is still there")
	}
}

// Everything that forbids DROP DATABASE must not survive a test on the shared servers.
func TestNewPair_DropsDatabasesInUse(t *testing.T) {
	t.Parallel()
	r := &recorder{TB: t}
	pair := pgtest.NewPair(r)
	d := pair.Source
	d.Exec(t, `CREATE TABLE t (a int)`, `BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'left prepared'`,
		`CREATE SUBSCRIPTION "Odd name" CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false)`)
	idle := d.Connect(t)
	r.finish()
	if len(r.errors) != 0 {
		t.Errorf("errors %q", r.errors)
	}
	if err := one(t.Context(), idle); err == nil {
		t.Error("the session goes on in a dropped database")
	}
	for _, d := range []*pgtest.Database{pair.Source, pair.Target} {
		if n := d.Server.Maintenance().Int(t, `SELECT count(*) FROM pg_database WHERE datname = $1`, d.Name); n != 0 {
			t.Errorf("database %q is still there", d.Name)
		}
	}
}

func TestNewDatabase_NamesAreData(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	for _, name := range []string{`a "quoted" name`, "50%41", "a/b?c=d&e", "ünï\ncode", "select"} {
		d := server.NewDatabase(t, pgtest.DatabaseOptions{Name: name})
		if got := d.Strings(t, `SELECT current_database()`); got[0] != name {
			t.Errorf("connected to %q instead of %q", got[0], name)
		}
		if got := d.Endpoint().Database(); got != name {
			t.Errorf("the endpoint's database is %q instead of %q", got, name)
		}
	}
}

func TestNewDatabase_Encoding(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	d := server.NewDatabase(t, pgtest.DatabaseOptions{Encoding: "LATIN1", Locale: "C"})
	if got := d.Strings(t, `SHOW server_encoding`); got[0] != "LATIN1" {
		t.Errorf("encoding is %q", got[0])
	}
}

// Every major that is installed must start with the usual settings.
func TestNewPairOf_EveryInstalledMajor(t *testing.T) {
	t.Parallel()
	for _, installation := range postgres.Locate(pgtest.Roots()) {
		if !installation.HasServer {
			continue
		}
		t.Run(strconv.Itoa(installation.Major), func(t *testing.T) {
			d := pgtest.Start(t, pgtest.Options{Major: installation.Major}).Maintenance()
			if got := d.Int(t, `SELECT current_setting('server_version_num')`); int(got)/10000 != installation.Major {
				t.Errorf("server version is %d", got)
			}
		})
	}
}

func TestEventually_NamesWhatDidNotHappen(t *testing.T) {
	t.Parallel()
	r := &failer{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		pgtest.Eventually(r, time.Millisecond, "pigs fly", func() bool { return false })
	}()
	<-done
	if !strings.Contains(r.message, "pigs fly") {
		t.Errorf("message is %q", r.message)
	}
}

// failer ends its goroutine on Fatalf, as testing does, without failing the test.
type failer struct {
	testing.TB
	message string
}

func (f *failer) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
