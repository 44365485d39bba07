package precheck_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate/precheck"
)

var update = flag.Bool("update", false, "write docs/checks.md anew")

const docs = "../../docs/checks.md"

// TestDocs keeps docs/checks.md equal to the table of checks: go test ./migrate/precheck -run TestDocs -update
func TestDocs(t *testing.T) {
	want := render(precheck.Checks())
	if *update {
		if err := os.WriteFile(docs, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/checks.md is not current (-table +docs), run with -update:\n%s", diff)
	}
}

func render(checks []precheck.Check) string {
	var b strings.Builder
	b.WriteString(`# What is checked before anything moves

` + "`slipway migrate check`" + ` looks at both servers and changes nothing on either: its sessions are read only. Every item says
what it looked at, its result, the reason with the names of the objects, and the exact lines that fix it. ` + "`failed`" + `
blocks ` + "`slipway migrate run`" + `; ` + "`warning`" + ` asks, unless ` + "`--yes`" + ` is given; ` + "`skipped`" + ` depends on an item that did not pass.
The ids are stable. This page is made from the table of checks in package migrate/precheck.

`)
	for _, c := range checks {
		fmt.Fprintf(&b, "## %s\n%s · %s · %s\n\n", c.ID, c.Title, c.Side, kinds(c.Types))
		fmt.Fprintf(&b, "- Looks at: %s.\n", c.Looks)
		if c.Fails != "" {
			fmt.Fprintf(&b, "- Failed when: %s.\n", c.Fails)
		}
		if c.Warns != "" {
			fmt.Fprintf(&b, "- Warning when: %s.\n", c.Warns)
		}
		fmt.Fprintf(&b, "- Fix: %s.\n\n", c.Fix)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func kinds(types []precheck.Type) string {
	if types == nil {
		return "all types"
	}
	words := make([]string, len(types))
	for i, t := range types {
		words[i] = string(t)
	}
	return strings.Join(words, ", ")
}

// TestChecks_AreDescribed proves that ids are unique kebab-case words, and that every item has all of its texts.
func TestChecks_AreDescribed(t *testing.T) {
	kebab := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	seen := map[string]bool{}
	for _, c := range precheck.Checks() {
		if !kebab.MatchString(c.ID) || seen[c.ID] {
			t.Errorf("id %q is not kebab-case or not unique", c.ID)
		}
		seen[c.ID] = true
		if c.Title == "" || c.Looks == "" || c.Fails+c.Warns == "" || c.Fix == "" || c.Side == "" {
			t.Errorf("%s is not described: %+v", c.ID, c)
		}
	}
}
