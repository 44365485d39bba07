package repotest_test

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// mayImport is the import rule of the architecture: which directories of the module's root a directory may import,
// besides itself. Arrows point down; packages on one level never know each other and meet in cmd.
var mayImport = map[string][]string{
	"cmd": {
		"apiserver", "console", "control", "agent", "gateway", "monitor", "migrate", "client", "store", "postgres", "api",
	},

	"apiserver": {"client", "store", "postgres", "api"},
	"console":   {"client", "store", "postgres", "api"},
	"control":   {"client", "store", "postgres", "api"},
	"agent":     {"client", "store", "postgres", "api"},
	"gateway":   {"client", "store", "postgres", "api"},
	"monitor":   {"client", "store", "postgres", "api"},
	"migrate":   {"postgres"}, // runs alone, without the control plane

	"client":   {"api"},
	"store":    {"api"},
	"postgres": {},
	"api":      {},

	// Not part of the product: they drive it from outside.
	"pgtest":   {"postgres"},
	"bench":    {"migrate", "postgres", "pgtest"},
	"demo":     {"migrate", "postgres", "pgtest"},
	"test":     {"migrate", "client", "postgres", "api", "pgtest"},
	"internal": {},
}

func TestImportRule(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		top, _, _ := strings.Cut(s.dir, "/")
		allowed, known := mayImport[top]
		if !known {
			t.Errorf("%s: directory %q has no place in the import rule", s.path, top)
			continue
		}
		if s.isTest { // tests of any package may use the test servers
			allowed = append(slices.Clone(allowed), "pgtest")
		}
		for _, imported := range s.ours() {
			importedTop, _, _ := strings.Cut(imported, "/")
			if importedTop != top && !slices.Contains(allowed, importedTop) {
				t.Errorf("%s imports %s: %s may import only %q", s.path, imported, top, allowed)
			}
		}
	}
}

// The stages of a migration pass values on to each other; none knows who runs them.
func TestImportRule_NoStageImportsTheParent(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if strings.HasPrefix(s.dir, "migrate/") && slices.Contains(s.ours(), "migrate") {
			t.Errorf("%s imports the parent package migrate", s.path)
		}
	}
}

// A package's name says what it is about.
func TestPackageNames(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		name := strings.TrimSuffix(s.file.Name.Name, "_test")
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "types", "models", "misc"}, name) {
			t.Errorf("%s: package %s has no noun of its own", s.path, name)
		}
		if name != "main" && s.dir != "." && name != path.Base(s.dir) {
			t.Errorf("%s: package %s is not named like its directory", s.path, name)
		}
	}
}
