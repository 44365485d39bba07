package postgres

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DebianRoot is where Debian and Ubuntu packages install every major side by side.
const DebianRoot = "/usr/lib/postgresql"

// Installation is a directory with programs of one PostgreSQL major.
type Installation struct {
	// Major is 15 for PostgreSQL 15.
	Major int
	// Dir holds the programs themselves, e.g. /usr/lib/postgresql/15/bin.
	Dir string
	// HasServer tells whether initdb and postgres are there, HasClient whether pg_dump is.
	HasServer, HasClient bool
}

// Tool is one client program that was run and told its version.
type Tool struct {
	// Path is absolute.
	Path string
	// Version has the major and, where the program tells it, the minor.
	Version Version
}

// Locate finds installations: <root>/<major>/bin for each root in the order given, then the directories of PATH. It
// looks at files only and runs nothing in roots; a program in PATH is asked for its version, because its directory
// does not tell. Sorted by major; within a major in the order found, so that earlier roots win.
func Locate(roots []string) []Installation {
	var found []Installation
	seen := map[string]bool{}
	add := func(i Installation) {
		if (i.HasServer || i.HasClient) && !seen[i.Dir] {
			seen[i.Dir] = true
			found = append(found, i)
		}
	}
	for _, root := range roots {
		entries, err := os.ReadDir(root)
		if err != nil {
			continue // a root that is not there holds no installation
		}
		for _, entry := range entries {
			if major, err := strconv.Atoi(entry.Name()); err == nil && major > 0 {
				add(inspect(filepath.Join(root, entry.Name(), "bin"), major))
			}
		}
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		dir = programDir(dir)
		if dir == "" || seen[dir] {
			continue
		}
		if major := programMajor(dir); major > 0 {
			add(inspect(dir, major))
		}
	}
	slices.SortStableFunc(found, func(a, b Installation) int { return cmp.Compare(a.Major, b.Major) })
	return found
}

func inspect(dir string, major int) Installation {
	if absolute, err := filepath.Abs(dir); err == nil {
		dir = absolute
	}
	return Installation{
		Major:     major,
		Dir:       dir,
		HasServer: executable(dir, "initdb") && executable(dir, "postgres"),
		HasClient: executable(dir, "pg_dump"),
	}
}

// programDir is where the programs of a directory of PATH really are, or "". Debian's /usr/bin/pg_dump is a wrapper
// that chooses a version by the local cluster it finds, so its answer says nothing about the next call: it does not
// count.
func programDir(dir string) string {
	for _, name := range []string{"postgres", "pg_dump"} {
		path, err := filepath.EvalSymlinks(filepath.Join(dir, name))
		if err == nil && filepath.Base(path) == name {
			return filepath.Dir(path)
		}
	}
	return ""
}

// programMajor tells the major of the programs in a directory by running one, or 0.
func programMajor(dir string) int {
	for _, name := range []string{"postgres", "pg_dump"} {
		if version, err := toolVersion(context.Background(), filepath.Join(dir, name)); err == nil {
			return version.Major()
		}
	}
	return 0
}

func executable(dir, name string) bool {
	info, err := os.Stat(filepath.Join(dir, name))
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// ServerBinary is the path of a server program ("postgres", "initdb") of exactly the given major.
func ServerBinary(roots []string, name string, major int) (string, error) {
	installation, err := ServerInstallation(roots, major)
	if err != nil {
		return "", err
	}
	if !executable(installation.Dir, name) {
		return "", fmt.Errorf("%s has no program %q", installation.Dir, name)
	}
	return filepath.Join(installation.Dir, name), nil
}

// ServerInstallation is the first installation that can run servers of exactly the given major. The error wraps
// *MissingError when there is none.
func ServerInstallation(roots []string, major int) (Installation, error) {
	for _, installation := range Locate(roots) {
		if installation.HasServer && installation.Major == major {
			return installation, nil
		}
	}
	return Installation{}, &MissingError{Program: "postgres", Major: major}
}

// ClientTool is the client program ("pg_dump", "pg_restore") of the lowest major that is at least minMajor and runs
// here. The lowest, because its output has the fewest settings that an older target does not know. The error is a
// *MissingError that names the package to install.
func ClientTool(ctx context.Context, roots []string, name string, minMajor int) (Tool, error) {
	missing := &MissingError{Program: name, Major: minMajor, AtLeast: true}
	for _, installation := range Locate(roots) {
		if !executable(installation.Dir, name) {
			continue
		}
		path := filepath.Join(installation.Dir, name)
		version, err := toolVersion(ctx, path)
		if ctx.Err() != nil {
			return Tool{}, fmt.Errorf("find %s: %w", name, context.Cause(ctx))
		}
		if err != nil || version.Major() < minMajor {
			missing.Seen = append(missing.Seen, seen(path, version, err))
			continue
		}
		return Tool{Path: path, Version: version}, nil
	}
	return Tool{}, missing
}

func seen(path string, version Version, err error) string {
	if err != nil {
		return fmt.Sprintf("%s does not run (%v)", path, err)
	}
	return fmt.Sprintf("%s is version %s", path, version)
}

// MissingError says that no usable program was found and which package of Debian has it.
type MissingError struct {
	// Program is what was looked for, Major the version wanted; AtLeast tells that a newer one would do.
	Program string
	Major   int
	AtLeast bool
	// Seen lists programs of that name that do not serve, each with the reason.
	Seen []string
}

// Error names the program, the version, what was found instead and the package to install.
func (e *MissingError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s of PostgreSQL %d", e.Program, e.Major)
	if e.AtLeast {
		b.WriteString(" or newer")
	}
	b.WriteString(" not found")
	if len(e.Seen) > 0 {
		fmt.Fprintf(&b, "; %s", strings.Join(e.Seen, "; "))
	}
	fmt.Fprintf(&b, "; install the package %s", e.Package())
	return b.String()
}

// Package is the name that Debian and apt.postgresql.org give to the package with the program.
func (e *MissingError) Package() string {
	if e.Program == "postgres" || e.Program == "initdb" {
		return fmt.Sprintf("postgresql-%d", e.Major)
	}
	return fmt.Sprintf("postgresql-client-%d", e.Major)
}

// versionPattern finds "15.18" in "pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)" and "18" in "(PostgreSQL)
// 18beta1"; majors before 10 have a third number.
var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)(?:\.(\d+))?(?:\.(\d+))?`)

// toolVersion runs a program with --version.
func toolVersion(ctx context.Context, path string) (Version, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = time.Second // a wrapper script may leave a child that holds the pipe
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("run %s --version: %w", filepath.Base(path), err)
	}
	return parseToolVersion(string(out))
}

func parseToolVersion(out string) (Version, error) {
	m := versionPattern.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%q does not tell a version of PostgreSQL", strings.TrimSpace(out))
	}
	number := func(s string) int {
		n, _ := strconv.Atoi(s) // digits only, or empty for a part that is not there
		return n
	}
	if major := number(m[1]); major < 10 {
		return Version(major*10000 + number(m[2])*100 + number(m[3])), nil
	}
	return Version(number(m[1])*10000 + number(m[2])), nil
}
