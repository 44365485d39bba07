package precheck_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-db/slipway/migrate/precheck"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// configure is a migration of everything from source to target as superuser.
func configure(source, target *pgtest.Database) precheck.Config {
	return precheck.Config{
		Source: source.Endpoint(), Target: target.Endpoint(),
		Databases: []precheck.Database{{Source: source.Name, Target: target.Name}},
		Tool:      func(int) (string, int, error) { return "pg_dump", 99, nil },
	}
}

// check runs all checks and holds every report to what reports promise.
func check(t *testing.T, config precheck.Config) *precheck.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	report, err := precheck.Run(ctx, config)
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	known := precheck.Checks()
	count := map[precheck.Result]int{}
	for _, item := range report.Items {
		count[item.Result]++
		if !slices.ContainsFunc(known, func(c precheck.Check) bool { return c.ID == item.ID && c.Title == item.Title }) {
			t.Errorf("item %s is not in the list", item.ID)
		}
		if item.Looked == "" || item.Side == "" {
			t.Errorf("item %s does not say what it looked at or on which side: %+v", item.ID, item)
		}
		if item.Result != precheck.Passed && item.Reason == "" {
			t.Errorf("item %s is %s without a reason", item.ID, item.Result)
		}
		if (item.Result == precheck.Failed || item.Result == precheck.Warning) && len(item.Fix) == 0 {
			t.Errorf("item %s is %s without a fix", item.ID, item.Result)
		}
		if strings.Contains(item.Reason, "could not be checked") {
			t.Errorf("item %s: %s", item.ID, item.Reason)
		}
	}
	got := []int{report.Passed, report.Warnings, report.Failed, report.Skipped}
	want := []int{count[precheck.Passed], count[precheck.Warning], count[precheck.Failed], count[precheck.Skipped]}
	if !slices.Equal(got, want) {
		t.Errorf("counts are %v, items %v", got, want)
	}
	return report
}

// find is the item of that id; there must be exactly one.
func find(t *testing.T, report *precheck.Report, id string) precheck.Item {
	t.Helper()
	var found []precheck.Item
	for _, item := range report.Items {
		if item.ID == id {
			found = append(found, item)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d items %s", len(found), id)
	}
	return found[0]
}

// expect wants the item's result, and each text in its reason, objects or fix.
func expect(t *testing.T, report *precheck.Report, id string, result precheck.Result, texts ...string) {
	t.Helper()
	item := find(t, report, id)
	all := strings.Join(slices.Concat([]string{item.Looked, item.Reason}, item.Objects, item.Fix), "\n")
	if item.Result != result {
		t.Errorf("%s is %s instead of %s: %s", id, item.Result, result, all)
		return
	}
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("%s does not say %q:\n%s", id, text, all)
		}
	}
}

func patterns(t *testing.T, texts ...string) []schema.Pattern {
	t.Helper()
	list := []schema.Pattern{}
	for _, text := range texts {
		p, err := schema.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

// as is the database reached by another role, without a password.
func as(t *testing.T, d *pgtest.Database, user string) postgres.Endpoint {
	t.Helper()
	_, rest, _ := strings.Cut(d.URI(), "@")
	e, err := postgres.ParseEndpoint("postgres://" + user + "@" + rest)
	if err != nil {
		t.Fatal(err)
	}
	return e
}
