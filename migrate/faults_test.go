package migrate_test

import (
	"context"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/pgtest"
)

// startAgain starts a killed server; it recovers from its log.
func startAgain(t *testing.T, s *pgtest.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

// ownPair is a pair on servers that the test may kill.
func ownPair(t *testing.T) (*pgtest.Pair, engineConfig) {
	t.Helper()
	// A kill must not lose what the source acknowledged, so the log is flushed; the kernel survives the kill.
	durable := map[string]string{"full_page_writes": "on"}
	source, target := pgtest.Start(t, pgtest.Options{Settings: durable}), pgtest.Start(t, pgtest.Options{Settings: durable})
	pair := &pgtest.Pair{
		Source: source.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"}), Target: target.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"}),
	}
	pair.Source.Exec(t, ledgerSchema, fill)
	return pair, engineConfig{
		Source: pair.Source.URI(), Target: pair.Target.URI(), Type: migrate.FullIncremental, SplitBytes: 2 << 20,
		RetryFor: time.Minute, RowsPerSecond: 60_000,
	}
}

// loadPhases are those in which a server is killed while one and the same engine has to come back by itself.
var loadPhases = []state.Phase{state.Structure, state.Copy, state.Constraints, state.Follow}

// killInEveryPhase kills a server whenever the engine has entered a phase, and again while it follows.
func killInEveryPhase(t *testing.T, victim func(*pgtest.Pair) *pgtest.Server) {
	pair, config := ownPair(t)
	writers := startLedger(t, pair.Source, 4)
	e := startEngine(t, config)
	for _, phase := range loadPhases {
		e.await(t, "phase "+string(phase))
		if err := victim(pair).Kill(); err != nil {
			t.Fatal(err)
		}
		startAgain(t, victim(pair))
	}
	e.await(t, "in sync")
	if err := victim(pair).Kill(); err != nil {
		t.Fatal(err)
	}
	startAgain(t, victim(pair))
	before := writers.count()
	pgtest.Eventually(t, time.Minute, "writers to go on", func() bool { return writers.count() > before+100 })
	writers.stop()
	e.stop()
	if code := e.wait(t); code != 5 {
		t.Fatalf("the engine was to stop on request and ended with %d:\n%s", code, strings.Join(e.output(), "\n"))
	}
	config.RowsPerSecond = 0
	mustFinish(t, config)
	writers.verify(t, pair.Target)
	compareAll(t, config)
	nothingLeft(t, pair)
}

func TestRun_SourceServerKilledInEveryPhase(t *testing.T) {
	killInEveryPhase(t, func(p *pgtest.Pair) *pgtest.Server { return p.Source.Server })
}

func TestRun_TargetServerKilledInEveryPhase(t *testing.T) {
	killInEveryPhase(t, func(p *pgtest.Pair) *pgtest.Server { return p.Target.Server })
}

// TestRun_ConnectionsCut resets every connection of the engine to one side, then to the other: as each phase begins and
// after so many bytes of traffic, which hits COPY, COMMIT and the stream in the middle.
func TestRun_ConnectionsCut(t *testing.T) {
	pair, config := ledgerPair(t)
	config.RetryFor, config.RowsPerSecond = time.Minute, 60_000
	proxies := map[string]*pgtest.Proxy{}
	for side, d := range map[string]*pgtest.Database{"source": pair.Source, "target": pair.Target} {
		proxies[side] = pgtest.NewProxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(d.Server.Port())))
	}
	through := config
	through.Source, through.Target = pair.Source.URIVia(proxies["source"].Addr()), pair.Target.URIVia(proxies["target"].Addr())
	writers := startLedger(t, pair.Source, 4)
	e := startEngine(t, through)
	for _, phase := range loadPhases {
		e.await(t, "phase "+string(phase))
		for _, p := range proxies {
			p.Cut()
		}
	}
	e.await(t, "in sync")
	for _, n := range []int64{100_000, 33_333, 1_000_001} {
		for side, direction := range map[string]pgtest.Direction{"source": pgtest.ToClient, "target": pgtest.ToServer} {
			select {
			case <-proxies[side].CutAfter(n, direction):
			case <-e.ended:
				t.Fatalf("the engine ended:\n%s", strings.Join(e.output(), "\n"))
			case <-time.After(time.Minute):
				t.Fatalf("no traffic to the %s for a minute", side)
			}
		}
	}
	writers.stop()
	e.stop()
	if code := e.wait(t); code != 5 {
		t.Fatalf("the engine was to stop on request and ended with %d:\n%s", code, strings.Join(e.output(), "\n"))
	}
	config.RowsPerSecond = 0
	mustFinish(t, through)
	writers.verify(t, pair.Target)
	compareAll(t, config)
	nothingLeft(t, pair)
}
