package postgres_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/postgres"
)

// program writes an executable that prints version, or fails when version is empty.
func program(t *testing.T, path, version string) {
	t.Helper()
	body := "#!/bin/sh\necho '" + filepath.Base(path) + " (PostgreSQL) " + version + "'\n"
	if version == "" {
		body = "#!/bin/sh\nexit 1\n"
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestLocate_RootsInOrderThenPath(t *testing.T) {
	first, second, path := t.TempDir(), t.TempDir(), t.TempDir()
	program(t, filepath.Join(first, "17/bin/pg_dump"), "17.1")
	program(t, filepath.Join(second, "17/bin/initdb"), "17.2")
	program(t, filepath.Join(second, "17/bin/postgres"), "17.2")
	program(t, filepath.Join(second, "9/bin/pg_dump"), "9")
	program(t, filepath.Join(second, "11/bin/psql"), "11.1") // neither server nor pg_dump
	program(t, filepath.Join(path, "pg_dump"), "16.4 (Debian 16.4-1)")
	links := t.TempDir() // to an installation that is known already
	if err := os.Symlink(filepath.Join(first, "17/bin/pg_dump"), filepath.Join(links, "pg_dump")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", path+":"+links)

	want := []postgres.Installation{
		{Major: 9, Dir: filepath.Join(second, "9/bin"), HasClient: true},
		{Major: 16, Dir: path, HasClient: true},
		{Major: 17, Dir: filepath.Join(first, "17/bin"), HasClient: true},
		{Major: 17, Dir: filepath.Join(second, "17/bin"), HasServer: true},
	}
	got := postgres.Locate([]string{first, second, filepath.Join(first, "not there")})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Debian's wrapper answers with the version of whatever cluster it finds, so it must not count as an installation.
func TestLocate_LeavesOutDebiansWrapper(t *testing.T) {
	dir, path := t.TempDir(), t.TempDir()
	program(t, filepath.Join(dir, "pg_wrapper"), "15.3")
	if err := os.Symlink(filepath.Join(dir, "pg_wrapper"), filepath.Join(path, "pg_dump")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", path)
	if got := postgres.Locate(nil); len(got) != 0 {
		t.Errorf("found %v", got)
	}
}

func TestClientTool_LowestThatIsNewEnoughAndRuns(t *testing.T) {
	root := t.TempDir()
	t.Setenv("PATH", "")
	program(t, filepath.Join(root, "13/bin/pg_dump"), "13.9")
	program(t, filepath.Join(root, "15/bin/pg_dump"), "")
	program(t, filepath.Join(root, "17/bin/pg_dump"), "17.2 (Debian 17.2-1)")
	program(t, filepath.Join(root, "18/bin/pg_dump"), "18beta1")

	for minMajor, want := range map[int]postgres.Tool{
		10: {Path: filepath.Join(root, "13/bin/pg_dump"), Version: 130009},
		14: {Path: filepath.Join(root, "17/bin/pg_dump"), Version: 170002},
		18: {Path: filepath.Join(root, "18/bin/pg_dump"), Version: 180000},
	} {
		got, err := postgres.ClientTool(t.Context(), []string{root}, "pg_dump", minMajor)
		if err != nil {
			t.Errorf("at least %d: %v", minMajor, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("at least %d: %s", minMajor, diff)
		}
	}
}

func TestClientTool_MissingNamesThePackage(t *testing.T) {
	root := t.TempDir()
	t.Setenv("PATH", "")
	program(t, filepath.Join(root, "13/bin/pg_dump"), "13.9")

	_, err := postgres.ClientTool(t.Context(), []string{root}, "pg_dump", 18)
	missing, ok := errors.AsType[*postgres.MissingError](err)
	if !ok {
		t.Fatalf("error %v is not a MissingError", err)
	}
	if missing.Package() != "postgresql-client-18" {
		t.Errorf("package %q", missing.Package())
	}
	want := "pg_dump of PostgreSQL 18 or newer not found; " + root +
		"/13/bin/pg_dump is version 13.9; install the package postgresql-client-18"
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}

func TestServerInstallation_ExactMajor(t *testing.T) {
	root := t.TempDir()
	t.Setenv("PATH", "")
	for _, name := range []string{"initdb", "postgres"} {
		program(t, filepath.Join(root, "17/bin", name), "17.2")
	}
	if got, err := postgres.ServerInstallation([]string{root}, 17); err != nil || got.Major != 17 {
		t.Errorf("17: %v, %v", got, err)
	}
	_, err := postgres.ServerInstallation([]string{root}, 16)
	if missing, ok := errors.AsType[*postgres.MissingError](err); !ok || missing.Package() != "postgresql-16" {
		t.Errorf("16: %v", err)
	}
}
