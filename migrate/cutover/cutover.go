// Package cutover brings over what a stream of changes does not carry, when source and target hold the same rows:
// sequences, large objects, rows of extensions, what was kept back of the structure, materialized views, statistics.
// Every step can be done again: a completion that was interrupted, or that found the source still being written to,
// starts from the first step.
package cutover

import (
	"context"
	"fmt"
	"time"
)

// Step is one thing that is brought over.
type Step struct {
	Name string
	// Run does it and says in a few words what was done ("14 set").
	Run func(ctx context.Context) (detail string, err error)
}

// StepReport is what a step did.
type StepReport struct {
	Name    string  `json:"name"`
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
}

// Report is what a cutover did, in order.
type Report struct {
	Steps    []StepReport `json:"steps"`
	Warnings []string     `json:"warnings,omitempty"`
	// Seconds is the time from the moment the stream was drained to the end of the last step: for so long the source
	// must not be written to at least.
	Seconds float64 `json:"seconds"`
}

// Run does the steps one after the other and stops at the first that fails. The report holds what was done by then.
func (r *Report) Run(ctx context.Context, steps []Step, begin func(name string)) error {
	for _, step := range steps {
		begin(step.Name)
		started := time.Now()
		detail, err := step.Run(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", step.Name, err)
		}
		r.Note(step.Name, detail, started)
	}
	return nil
}

// Note adds a step that was done elsewhere. A step of the same name that was done before is replaced.
func (r *Report) Note(name, detail string, started time.Time) {
	done := StepReport{Name: name, Detail: detail, Seconds: time.Since(started).Seconds()}
	for i := range r.Steps {
		if r.Steps[i].Name == name {
			r.Steps[i] = done
			return
		}
	}
	r.Steps = append(r.Steps, done)
}
