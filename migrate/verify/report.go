package verify

import (
	"fmt"
	"time"

	"github.com/slipway-db/slipway/migrate/schema"
)

// Result is the outcome of a comparison or of a part of it.
type Result string

// The results. Only Same says that the rows were compared and are equal.
const (
	Same      Result = "same"
	Different Result = "different"
	Failed    Result = "error"   // could not be compared, or not settled
	Skipped   Result = "skipped" // holds nothing of its own to compare; see the reason
)

// Report is what a comparison found.
type Report struct {
	Mode Mode `json:"mode"`
	// Live tells that changes were streaming meanwhile.
	Live       bool      `json:"live"`
	Seed       uint64    `json:"seed,omitempty"`
	SampleRate float64   `json:"sample_rate,omitempty"`
	Started    time.Time `json:"started"`
	Finished   time.Time `json:"finished"`

	Tables []TableReport `json:"tables,omitempty"`
	// StructureObjects counts the compared definitions; Structure lists what differs.
	StructureObjects int                   `json:"structure_objects,omitempty"`
	Structure        []StructureDifference `json:"structure,omitempty"`
	Sequences        []SequenceReport      `json:"sequences,omitempty"`
	LargeObjects     *LargeObjectReport    `json:"large_objects,omitempty"`
	// Errors are faults that belong to no single table.
	Errors []string `json:"errors,omitempty"`
	Result Result   `json:"result"`
}

// TableReport is the outcome for one table. Counts are of rows.
type TableReport struct {
	Name       schema.Name `json:"name"`
	Target     schema.Name `json:"target"`
	SourceRows int64       `json:"source_rows"`
	TargetRows int64       `json:"target_rows"`
	// Chunks were compared; ChunksLeft were left out by sampling.
	Chunks     int64  `json:"chunks"`
	ChunksLeft int64  `json:"chunks_left_out,omitempty"`
	Result     Result `json:"result"`
	// Reason explains Skipped, and Different without differing rows (a missing table or column).
	Reason string `json:"reason,omitempty"`
	// Missing rows are only on the source, Extra rows only on the target, Different rows have the same key.
	Missing   int64 `json:"missing"`
	Extra     int64 `json:"extra"`
	Different int64 `json:"different"`
	// Unsettled rows kept changing while they were compared, so that nothing was proven about them.
	Unsettled   int64        `json:"unsettled,omitempty"`
	Differences []Difference `json:"differences,omitempty"`
	// Notes are legitimate deviations that a reader should know, such as a column that only the target has.
	Notes    []string      `json:"notes,omitempty"`
	Err      string        `json:"error,omitempty"`
	Duration time.Duration `json:"duration_ns"`
}

// DifferenceKind tells how a row differs.
type DifferenceKind string

// The kinds of differences.
const (
	RowMissing   DifferenceKind = "missing"   // only on the source
	RowExtra     DifferenceKind = "extra"     // only on the target
	RowDifferent DifferenceKind = "different" // on both sides with other values
	RowUnsettled DifferenceKind = "unsettled" // written faster than it could be compared
)

// Difference is one row that differs.
type Difference struct {
	Kind DifferenceKind `json:"kind"`
	// Key names the row by its key columns; in a table without a key it is the ctid on the side that has the row.
	Key map[string]string `json:"key"`
	// Copies is how many equal rows are concerned, in a table without a key.
	Copies int64 `json:"copies,omitempty"`
	// Columns differ, by the source's order.
	Columns []string `json:"columns,omitempty"`
	// Generated tells that only generated columns differ: the stored data arrived, but the target computes another
	// value from it.
	Generated bool `json:"generated_only,omitempty"`
}

// conclude derives the overall result: an error outranks a difference, and nothing compared is an error.
func (r *Report) conclude() {
	r.Result = Same
	if len(r.Errors) > 0 {
		r.Result = Failed
	}
	compared := 0
	for i := range r.Tables {
		r.Result = worse(r.Result, r.Tables[i].Result)
		if r.Tables[i].Result != Skipped {
			compared++
		}
	}
	if compared == 0 && len(r.Tables) > 0 {
		r.fail("none of the %d tables was compared: all were skipped", len(r.Tables))
	}
	for _, d := range r.Structure {
		if d.Class == ClassDifferent {
			r.Result = worse(r.Result, Different)
		}
	}
	for i := range r.Sequences {
		r.Result = worse(r.Result, r.Sequences[i].Result)
	}
	if r.LargeObjects != nil {
		r.Result = worse(r.Result, r.LargeObjects.Result)
	}
}

func (r *Report) fail(format string, args ...any) {
	r.Errors = append(r.Errors, fmt.Sprintf(format, args...))
	r.Result = Failed
}

func worse(a, b Result) Result {
	rank := map[Result]int{Same: 0, Skipped: 0, Different: 1, Failed: 2}
	if rank[b] > rank[a] {
		return b
	}
	return a
}
