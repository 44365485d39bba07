package migrate_test

import (
	"testing"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/pgtest"
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
