package migrate

import (
	"fmt"
	"sync"
	"time"

	"github.com/slipway-db/slipway/migrate/apply"
	"github.com/slipway-db/slipway/migrate/snapshot"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/postgres"
)

// Status is how the migration of one database stands. It is stored with the job once a second; `migrate status` shows
// it and its JSON form.
type Status struct {
	Job      string      `json:"job"`
	Database Database    `json:"database"`
	Type     Type        `json:"type"`
	Phase    state.Phase `json:"phase"`
	InSync   bool        `json:"in_sync"`
	Message  string      `json:"message,omitempty"` // what is being waited for
	Started  time.Time   `json:"started"`
	Updated  time.Time   `json:"updated"`

	Tables         int   `json:"tables"`
	TablesCopied   int   `json:"tables_copied"`
	TablesIndexed  int   `json:"tables_indexed"`
	Rows           int64 `json:"rows"`
	RowsEstimated  int64 `json:"rows_estimated"`
	Bytes          int64 `json:"bytes"`           // of COPY data
	BytesEstimated int64 `json:"bytes_estimated"` // heap size on the source
	RowsPerSecond  int64 `json:"rows_per_second"`
	BytesPerSecond int64 `json:"bytes_per_second"`
	// ETASeconds of the copy by its pace so far; -1 when not known.
	ETASeconds int64    `json:"eta_seconds"`
	InFlight   []string `json:"in_flight,omitempty"` // what is being copied or indexed now

	Applied            postgres.LSN `json:"applied"`
	Source             postgres.LSN `json:"source"`
	LagBytes           int64        `json:"lag_bytes"`   // -1 when not known
	LagSeconds         float64      `json:"lag_seconds"` // -1 when not known
	Transactions       int64        `json:"transactions"`
	Changes            int64        `json:"changes"`
	TransactionsPerSec int64        `json:"transactions_per_second"`
	ObjectsFailed      int          `json:"objects_failed"`
	SlotRetention      int64        `json:"slot_retention_bytes"` // WAL that the slot holds back on the source
	LastError          string       `json:"last_error,omitempty"`
}

// tracker collects what the parts of a run know and hands out Status values.
type tracker struct {
	mu      sync.Mutex
	status  Status
	copier  func() snapshot.Stats
	applier func() apply.Stats
	working map[string]int // index builds under way, by table

	copyStarted   time.Time
	copyBaseRows  int64 // copied by earlier runs
	copyBaseBytes int64
	rates         rates
	// counted before the current applier, which starts from 0 at each reconnect
	transactionsBefore, changesBefore int64
}

// rates remembers a recent point to take speeds against.
type rates struct {
	at                        time.Time
	rows, bytes, transactions int64
}

func newTracker(status Status) *tracker {
	status.LagBytes, status.LagSeconds, status.ETASeconds = -1, -1, -1
	return &tracker{status: status, working: map[string]int{}}
}

// set changes the status under the lock.
func (t *tracker) set(change func(*Status)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.status)
}

// work notes that something is in flight; the function that it returns ends that.
func (t *tracker) work(what string) (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.working[what]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.working[what]--; t.working[what] == 0 {
			delete(t.working, what)
		}
	}
}

func (t *tracker) follow(applier func() apply.Stats) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.applier != nil {
		last := t.applier()
		t.transactionsBefore += last.Transactions
		t.changesBefore += last.Changes()
	}
	t.applier = applier
	t.copier = nil
}

func (t *tracker) copying(stats func() snapshot.Stats, baseRows, baseBytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.copier, t.copyStarted, t.copyBaseRows, t.copyBaseBytes = stats, time.Now(), baseRows, baseBytes
}

// current is the status now, with speeds over the last second or more.
func (t *tracker) current() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.status.Updated = now
	t.status.InFlight = t.status.InFlight[:0:0]
	if t.copier != nil {
		t.readCopier(now)
	}
	if t.applier != nil {
		stats := t.applier()
		t.status.Applied = stats.Applied
		t.status.Transactions = t.transactionsBefore + stats.Transactions
		t.status.Changes = t.changesBefore + stats.Changes()
	}
	for what := range t.working {
		t.status.InFlight = append(t.status.InFlight, what)
	}
	t.readRates(now)
	return t.status
}

// readCopier adds what this run copies to what earlier ones did.
func (t *tracker) readCopier(now time.Time) {
	s, c := &t.status, t.copier()
	s.Rows, s.Bytes = t.copyBaseRows+c.Rows, t.copyBaseBytes+c.Bytes
	for _, f := range c.InFlight {
		what := f.First.String()
		if f.Parts > 1 {
			what = fmt.Sprintf("%s and %d more small tables", what, f.Parts-1)
		}
		s.InFlight = append(s.InFlight, what)
	}
	s.ETASeconds = -1
	// By rows, which count what is in flight too; a table that was never analysed makes it too optimistic.
	if elapsed := now.Sub(t.copyStarted).Seconds(); c.Rows > 0 && elapsed > 1 && s.RowsEstimated > s.Rows {
		s.ETASeconds = int64(elapsed * float64(s.RowsEstimated-s.Rows) / float64(c.Rows))
	}
	if c.LastError != nil {
		s.LastError = c.LastError.Error()
	}
}

func (t *tracker) readRates(now time.Time) {
	s := &t.status
	if elapsed := now.Sub(t.rates.at); elapsed >= time.Second {
		if !t.rates.at.IsZero() {
			s.RowsPerSecond = max(0, int64(float64(s.Rows-t.rates.rows)/elapsed.Seconds()))
			s.BytesPerSecond = max(0, int64(float64(s.Bytes-t.rates.bytes)/elapsed.Seconds()))
			s.TransactionsPerSec = max(0, int64(float64(s.Transactions-t.rates.transactions)/elapsed.Seconds()))
		}
		t.rates = rates{at: now, rows: s.Rows, bytes: s.Bytes, transactions: s.Transactions}
	}
}
