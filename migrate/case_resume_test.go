package migrate_test

import (
	"testing"
	"time"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/pgtest"
)

// TestRun_CopyHoldsWhatTheStreamBrings proves that a migration ends whose stream brings only changes that the copy holds
// already: they were made after the slot and before the snapshot of a second try, and are not late.
func TestRun_CopyHoldsWhatTheStreamBrings(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `CREATE TABLE t (id int PRIMARY KEY, v text)`, `INSERT INTO t SELECT i, 'v' FROM generate_series(1, 100) i`)
	config := engineConfig{Source: pair.Source.URI(), Target: pair.Target.URI(), Type: migrate.FullIncremental, RetryFor: 30 * time.Second}
	killed := config
	killed.KillAt = state.Copy
	if code := startEngine(t, killed).wait(t); code != -1 {
		t.Fatalf("the engine was to be killed in the copy and ended with %d", code)
	}
	pair.Source.Exec(t, `INSERT INTO t SELECT i, 'between' FROM generate_series(1000, 1100) i`, `UPDATE t SET v = v || '!'`)
	mustFinish(t, config)
	sameContent(t, pair, false)
	compareAll(t, config)
	nothingLeft(t, pair)
}
