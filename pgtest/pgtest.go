// Package pgtest gives tests real PostgreSQL: servers of any installed major, a fresh database per test, and a proxy
// that breaks connections the way networks do. There are no mocks: what a test sees is what PostgreSQL does.
//
// A test package that uses it has
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
// Environment: SLIPWAY_TEST_MAJORS=13:17 chooses the default majors of source and target, SLIPWAY_POSTGRES_DIR the
// directories that hold <major>/bin (default: var/postgres of the module and Debian's), and with CI or
// SLIPWAY_REQUIRE_POSTGRES=1 a missing PostgreSQL fails the test instead of skipping it.
package pgtest

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/slipway-db/slipway/postgres"
)

// Main runs the tests of a package, stops the servers they shared, and fails when a goroutine is left over. It takes a
// *testing.M, or what wraps one to do something before and after.
func Main(m interface{ Run() int }) {
	code := m.Run()
	if err := workspace.close(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		code = cmp.Or(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// Roots are the directories in which tests look for <major>/bin.
func Roots() []string {
	if dirs := os.Getenv("SLIPWAY_POSTGRES_DIR"); dirs != "" {
		return append(filepath.SplitList(dirs), postgres.DebianRoot)
	}
	root := moduleRoot()
	if root == "" {
		return []string{postgres.DebianRoot}
	}
	installed := filepath.Join(root, "var", "postgres")
	// scripts/setup makes it a link when the module lies where the user who runs servers may not pass through.
	if target, err := filepath.EvalSymlinks(installed); err == nil {
		installed = target
	}
	return []string{installed, postgres.DebianRoot}
}

// moduleRoot is the directory with go.mod above the test's working directory, which is its package's.
func moduleRoot() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

// DefaultMajors are the majors of source and target of NewPair: SLIPWAY_TEST_MAJORS, or the newest that the system's
// packages installed, or the newest of all.
func DefaultMajors(t testing.TB) (source, target int) {
	t.Helper()
	if value := os.Getenv("SLIPWAY_TEST_MAJORS"); value != "" {
		s, d, _ := strings.Cut(value, ":")
		source, errSource := strconv.Atoi(s)
		target, errTarget := strconv.Atoi(d)
		if errSource != nil || errTarget != nil {
			t.Fatalf("SLIPWAY_TEST_MAJORS=%q is not source:target, like 13:17", value)
		}
		return source, target
	}
	for _, roots := range [][]string{{postgres.DebianRoot}, Roots()} {
		for _, installation := range slices.Backward(postgres.Locate(roots)) {
			if installation.HasServer {
				return installation.Major, installation.Major
			}
		}
	}
	missing(t, "no PostgreSQL server found in %s", strings.Join(Roots(), ", "))
	return 0, 0
}

func installation(t testing.TB, major int) postgres.Installation {
	t.Helper()
	found, err := postgres.ServerInstallation(Roots(), major)
	if err != nil {
		missing(t, "%v, or run scripts/setup test", err)
	}
	return found
}

// missing ends a test whose PostgreSQL is not there: a skip at home, a failure where tests must really run.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" || os.Getenv("SLIPWAY_REQUIRE_POSTGRES") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Eventually polls condition until it holds, and fails the test when it does not within timeout; what names it.
func Eventually(t testing.TB, timeout time.Duration, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", timeout, what)
		}
	}
}
