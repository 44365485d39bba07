package migrate

import (
	"time"

	"github.com/slipway-db/slipway/postgres"
)

// Lag bounds within which source and target count as in sync: what people see is then 0 MB and 0 s.
const (
	inSyncBytes   = 1 << 20
	inSyncSeconds = 1.0
)

// lagMeter turns positions of the source, sampled over time, into a lag in seconds: the age of the newest sample that
// the target has reached. It compares our clock only with itself, and an idle source is at 0.
type lagMeter struct {
	samples []lagSample
}

type lagSample struct {
	lsn postgres.LSN
	at  time.Time
}

// maxSamples bounds the memory; beyond it every other sample of the older half is dropped, which costs precision only
// where the lag is long.
const maxSamples = 4096

// add notes where the source was at a time.
func (m *lagMeter) add(lsn postgres.LSN, at time.Time) {
	if n := len(m.samples); n > 0 && m.samples[n-1].lsn == lsn {
		// The source stood still in between: what was reached then is reached now.
		m.samples[n-1].at = at
		return
	}
	m.samples = append(m.samples, lagSample{lsn, at})
	if len(m.samples) > maxSamples {
		kept := m.samples[:0:0]
		for i, s := range m.samples {
			if i > maxSamples/2 || i%2 == 0 {
				kept = append(kept, s)
			}
		}
		m.samples = kept
	}
}

// lag tells how far applied is behind the last sample: in bytes, and in seconds, -1 when the backlog is older than
// all samples (the caller then takes the commit time of the last applied transaction).
func (m *lagMeter) lag(applied postgres.LSN, now time.Time) (bytes int64, seconds float64) {
	n := len(m.samples)
	if n == 0 {
		return -1, -1
	}
	last := m.samples[n-1].lsn
	if applied >= last {
		m.samples = m.samples[n-1:]
		return 0, 0
	}
	reached := -1
	for i := n - 1; i >= 0; i-- {
		if m.samples[i].lsn <= applied {
			reached = i
			break
		}
	}
	bytes = last.Sub(applied)
	if reached < 0 {
		return bytes, -1
	}
	m.samples = m.samples[reached:]
	return bytes, now.Sub(m.samples[0].at).Seconds()
}
