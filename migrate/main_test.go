package migrate_test

import (
	"os"
	"testing"

	"github.com/slipway-db/slipway/pgtest"
)

// TestMain also plays the engine: tests that kill it run it as a process of its own, which is this binary again.
func TestMain(m *testing.M) {
	if config := os.Getenv(engineVariable); config != "" {
		os.Exit(playEngine(config))
	}
	pgtest.Main(m)
}
