package migrate

import (
	"testing"
	"time"

	"github.com/slipway-db/slipway/postgres"
)

func TestLagMeter(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	m := &lagMeter{}
	expect := func(what string, bytes int64, seconds float64, gotBytes int64, gotSeconds float64) {
		t.Helper()
		if gotBytes != bytes || gotSeconds != seconds {
			t.Errorf("%s: %d bytes, %g s, want %d bytes, %g s", what, gotBytes, gotSeconds, bytes, seconds)
		}
	}
	bytes, seconds := m.lag(5, at(0))
	expect("nothing sampled", -1, -1, bytes, seconds)

	m.add(100, at(0))
	bytes, seconds = m.lag(40, at(0))
	expect("a backlog older than the samples", 60, -1, bytes, seconds)
	bytes, seconds = m.lag(100, at(0))
	expect("all applied", 0, 0, bytes, seconds)

	// An hour of idleness is no lag when the first write comes.
	m.add(100, at(3600))
	m.add(150, at(3601))
	bytes, seconds = m.lag(100, at(3601))
	expect("a write after a long time", 50, 1, bytes, seconds)

	m.add(300, at(3602))
	bytes, seconds = m.lag(200, at(3604))
	expect("one sample behind", 100, 3, bytes, seconds)
	bytes, seconds = m.lag(400, at(3605))
	expect("ahead of the last sample", 0, 0, bytes, seconds)
}

// TestLagMeter_ForgetsWithoutLosingTheOldest samples for longer than it remembers, with a target that stands still.
func TestLagMeter_ForgetsWithoutLosingTheOldest(t *testing.T) {
	m := &lagMeter{}
	start := time.Unix(1_000_000, 0)
	const samples = 5 * maxSamples
	m.add(100, start)
	for i := 1; i < samples; i++ {
		m.add(postgres.LSN(100+10*i), start.Add(time.Duration(i)*time.Second))
	}
	if len(m.samples) > maxSamples {
		t.Errorf("%d samples are kept", len(m.samples))
	}
	_, seconds := m.lag(100, start.Add(samples*time.Second))
	if seconds != samples {
		t.Errorf("lag %g s, want %d", seconds, samples)
	}
}
