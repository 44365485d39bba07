package migrate_test

import (
	"strings"
	"testing"
	"time"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// TestComplete_KilledWhenTriggersAreThere kills the engine at the end of a completion, when triggers that fire on
// replicated rows exist on the target already, and writes to the source before the next run: the rows arrive once and
// fire nothing.
func TestComplete_KilledWhenTriggersAreThere(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `
		CREATE TABLE parent (id int PRIMARY KEY);
		CREATE TABLE orders (id int PRIMARY KEY, parent int REFERENCES parent);
		CREATE TABLE log (id serial PRIMARY KEY, line text);
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.log (line) VALUES ('fired ' || NEW.id); RETURN NEW; END $$;
		CREATE TRIGGER note AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION note();
		ALTER TABLE orders ENABLE ALWAYS TRIGGER note;
		CREATE TABLE shadow (id int PRIMARY KEY);
		CREATE RULE double AS ON INSERT TO shadow DO ALSO INSERT INTO log (line) VALUES ('rule ' || NEW.id);
		INSERT INTO parent VALUES (1); INSERT INTO orders VALUES (1, 1); INSERT INTO shadow VALUES (1);`)
	config := engineConfig{Source: pair.Source.URI(), Target: pair.Target.URI(), Type: migrate.FullIncremental, Complete: true}
	killed := config
	killed.KillAt = state.Done
	if code := startEngine(t, killed).wait(t); code != -1 {
		t.Fatalf("the engine was to be killed and ended with %d", code)
	}
	if n := pair.Target.Int(t, `SELECT count(*) FROM pg_trigger WHERE tgname = 'note'`); n != 1 {
		t.Fatalf("the trigger was not created before the kill")
	}
	// As if the process had died a moment earlier.
	pair.Target.Exec(t, `UPDATE slipway.job SET phase = 'complete'`)
	pair.Source.Exec(t, `INSERT INTO parent VALUES (2); INSERT INTO orders VALUES (2, 2); INSERT INTO shadow VALUES (2)`)
	mustFinish(t, config)
	compareAll(t, config)
	nothingLeft(t, pair)
}

// TestRun_AsPlainUserOnBothSides migrates with roles that are no superusers: source with REPLICATION and ownership of its
// tables, target owner of its database, where foreign keys and triggers must wait for the completion.
func TestRun_AsPlainUserOnBothSides(t *testing.T) {
	pair := pgtest.NewPair(t)
	for _, d := range []*pgtest.Database{pair.Source, pair.Target} {
		d.Server.Maintenance().Exec(t, `DROP ROLE IF EXISTS plain_mover`, `CREATE ROLE plain_mover LOGIN REPLICATION`,
			`ALTER DATABASE `+postgres.QuoteIdent(d.Name)+` OWNER TO plain_mover`)
		d.Exec(t, `GRANT ALL ON SCHEMA public TO plain_mover`)
		t.Cleanup(func() { d.Server.Maintenance().Exec(t, `DROP ROLE IF EXISTS plain_mover`) })
		t.Cleanup(func() { d.Exec(t, `REASSIGN OWNED BY plain_mover TO postgres; DROP OWNED BY plain_mover`) })
	}
	pair.Source.Exec(t, `SET ROLE plain_mover;`+ledgerSchema+fill+`
		CREATE FUNCTION ledger.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := 'changed by trigger'; RETURN NEW; END $$;
		CREATE TRIGGER note BEFORE UPDATE ON ledger.client FOR EACH ROW WHEN (false) EXECUTE FUNCTION ledger.note();`)
	config := engineConfig{
		Source: strings.Replace(pair.Source.URI(), "postgres@", "plain_mover@", 1), Target: strings.Replace(pair.Target.URI(), "postgres@", "plain_mover@", 1),
		Type: migrate.FullIncremental,
	}
	writers := startLedger(t, pair.Source, 2)
	e := startEngine(t, config)
	e.await(t, "in sync")
	if n := pair.Target.Int(t, `SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND connamespace = 'ledger'::regnamespace`); n != 0 {
		t.Errorf("%d foreign keys exist although they would fire on replicated rows", n)
	}
	before := writers.count()
	pgtest.Eventually(t, time.Minute, "more writes", func() bool { return writers.count() > before+50 })
	e.kill()
	writers.stop()
	mustFinish(t, config)
	writers.verify(t, pair.Target)
	compareAll(t, engineConfig{Source: pair.Source.URI(), Target: pair.Target.URI(), Type: migrate.FullIncremental})
	nothingLeft(t, pair)
}

// TestComplete_BringsWhatTheStreamDoesNotCarry changes large objects and sequences while one and the same engine follows,
// and asks it to complete from outside.
func TestComplete_BringsWhatTheStreamDoesNotCarry(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
		INSERT INTO t (v) SELECT 'x' FROM generate_series(1, 10);
		CREATE SEQUENCE untouched; CREATE SEQUENCE down INCREMENT -3 MINVALUE -1000;
		CREATE MATERIALIZED VIEW total AS SELECT count(*) AS rows FROM t;
		CREATE MATERIALIZED VIEW empty AS SELECT 1 AS one WITH NO DATA;
		SELECT lo_from_bytea(4711, 'before'), lo_from_bytea(4712, 'goes')`)
	config := engineConfig{Source: pair.Source.URI(), Target: pair.Target.URI(), Type: migrate.FullIncremental}
	e := startEngine(t, config)
	e.await(t, "in sync")
	pair.Source.Exec(t, `SELECT lo_put(4711, 0, 'changed'), lo_unlink(4712), lo_from_bytea(4713, 'new');
		SELECT nextval('down'), nextval('down'); INSERT INTO t (v) VALUES ('y')`)
	results, err := migrate.Complete(t.Context(), pair.Target.Endpoint(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if code := e.wait(t); code != 0 {
		t.Fatalf("the engine ended with %d:\n%s", code, strings.Join(e.output(), "\n"))
	}
	if len(results) != 1 || !results[0].Done || results[0].Cutover == nil || len(results[0].Cutover.Steps) == 0 {
		t.Errorf("the result does not tell what was done: %+v", results)
	}
	compareAll(t, config)
	nothingLeft(t, pair)
	for query, want := range map[string]string{
		`SELECT string_agg(loid || '=' || convert_from(data, 'UTF8'), ',' ORDER BY loid) FROM pg_largeobject`: "4711=changed,4713=new",
		`SELECT last_value || ' ' || is_called FROM down`:                                                     "-4 true",
		`SELECT last_value || ' ' || is_called FROM untouched`:                                                "1 false",
		`SELECT rows FROM total`: "11",
		`SELECT relispopulated FROM pg_class WHERE relname = 'empty'`: "f",
		`INSERT INTO t (v) VALUES ('z') RETURNING id`:                 "12",
		`SELECT count(*) > 0 FROM pg_stats WHERE tablename = 't'`:     "t",
	} {
		if got := pair.Target.Strings(t, query); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
}

// TestComplete_WaitsForOpenTransactions asks for completion while a transaction on the source has written and not ended:
// what it wrote must not be left behind.
func TestComplete_WaitsForOpenTransactions(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `CREATE TABLE t (id int PRIMARY KEY)`)
	config := engineConfig{Source: pair.Source.URI(), Target: pair.Target.URI(), Type: migrate.FullIncremental, Complete: true}
	conn := pair.Source.Connect(t)
	follower := startEngine(t, engineConfig{Source: config.Source, Target: config.Target, Type: config.Type})
	follower.await(t, "in sync")
	follower.kill()
	if _, err := conn.Exec(t.Context(), `BEGIN; INSERT INTO t VALUES (1)`); err != nil {
		t.Fatal(err)
	}
	e := startEngine(t, config)
	pgtest.Eventually(t, time.Minute, "the completion to name the open transaction", func() bool {
		select {
		case <-e.ended:
			t.Fatalf("completed with a transaction open:\n%s", strings.Join(e.output(), "\n"))
		default:
		}
		return pair.Target.Int(t, `SELECT count(*) FROM slipway.status WHERE status->>'message' LIKE '%open transactions: process%'`) == 1
	})
	if _, err := conn.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if code := e.wait(t); code != 0 {
		t.Fatalf("ended with %d:\n%s", code, strings.Join(e.output(), "\n"))
	}
	if n := pair.Target.Int(t, `SELECT count(*) FROM t`); n != 1 {
		t.Errorf("%d rows on the target", n)
	}
	nothingLeft(t, pair)
}
