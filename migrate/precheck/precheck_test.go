package precheck_test

import (
	"context"
	"testing"

	"github.com/slipway-db/slipway/migrate/precheck"
	"github.com/slipway-db/slipway/pgtest"
)

const ordinarySchema = `
	CREATE SCHEMA app;
	CREATE TYPE app.mood AS ENUM ('good', 'bad');
	CREATE FUNCTION app.double(a integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT a * 2';
	CREATE TABLE app.customer (id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text NOT NULL, m app.mood);
	CREATE TABLE app."order; drop" (id bigserial PRIMARY KEY, customer integer REFERENCES app.customer);
	CREATE TABLE app.event (id integer, at timestamptz) PARTITION BY RANGE (at);
	CREATE TABLE app.event_1 PARTITION OF app.event FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
	ALTER TABLE app.event_1 ADD PRIMARY KEY (id);
	CREATE VIEW app.names AS SELECT name FROM app.customer;
	INSERT INTO app.customer (name) SELECT 'x' FROM generate_series(1, 1000);
	ANALYZE;`

// TestRun_OrdinaryDatabase proves that a database with nothing wrong is not held up: no item fails, none is skipped,
// and only the source's minor release may be worth a warning.
func TestRun_OrdinaryDatabase(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, ordinarySchema)
	for _, kind := range []precheck.Type{precheck.Structure, precheck.Full, precheck.FullIncremental} {
		config := configure(pair.Source, pair.Target)
		config.Type = kind
		report := check(t, config)
		for _, item := range report.Items {
			if item.Result != precheck.Passed && !(item.ID == "source-minor" && item.Result == precheck.Warning) {
				t.Errorf("%s: %s is %s: %s %v", kind, item.ID, item.Result, item.Reason, item.Objects)
			}
		}
		if report.Result() == precheck.Failed {
			t.Errorf("%s: the report is %s", kind, report.Result())
		}
	}
}

// TestRun_ChangesNothing proves that both databases are byte for byte what they were: no object, no slot, no
// transaction id used.
func TestRun_ChangesNothing(t *testing.T) {
	source, target := pgtest.Start(t, pgtest.Options{}), pgtest.Start(t, pgtest.Options{})
	from := source.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	to := target.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	from.Exec(t, ordinarySchema, `SELECT lo_create(0)`)
	state := func() string {
		rows := ""
		for _, d := range []*pgtest.Database{from, to} {
			for _, row := range d.Strings(t, `SELECT txid_snapshot_xmax(txid_current_snapshot()),
				(SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_publication)`) {
				rows += row + "\n"
			}
		}
		return rows
	}
	from.Exec(t, `VACUUM`) // and to nothing else: autovacuum uses ids as well
	for _, d := range []*pgtest.Database{from, to} {
		d.Exec(t, `ALTER SYSTEM SET autovacuum = off`, `SELECT pg_reload_conf()`)
	}
	before := state()
	config := configure(from, to)
	config.Roles = true
	check(t, config)
	if after := state(); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

func TestRun_RefusesWrongConfig(t *testing.T) {
	pair := pgtest.NewPair(t)
	for name, change := range map[string]func(*precheck.Config){
		"no database":  func(c *precheck.Config) { c.Databases = nil },
		"same target":  func(c *precheck.Config) { c.Databases = append(c.Databases, c.Databases[0]) },
		"no tool":      func(c *precheck.Config) { c.Tool = nil },
		"unknown type": func(c *precheck.Config) { c.Type = "everything" },
		"unnamed":      func(c *precheck.Config) { c.Databases[0].Target = "" },
	} {
		config := configure(pair.Source, pair.Target)
		change(&config)
		if report, err := precheck.Run(context.Background(), config); err == nil {
			t.Errorf("%s: no error but %d items", name, len(report.Items))
		}
	}
}

func TestRun_EndsWithContext(t *testing.T) {
	pair := pgtest.NewPair(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if report, err := precheck.Run(ctx, configure(pair.Source, pair.Target)); err == nil {
		t.Errorf("no error but %d items", len(report.Items))
	}
}
