// Package precheck looks at both servers before anything moves and says, item by item, what would stop a migration,
// what somebody should know, and the exact SQL or setting that changes it. It writes nothing on either side: its
// sessions are read only, and what must be tried is asked through the catalog's privilege functions.
package precheck

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// Result of one item.
type Result string

// The results. A failed item blocks a migration; a warning asks the user; skipped means that an item which it depends
// on failed, so that nothing can be said.
const (
	Passed  Result = "passed"
	Warning Result = "warning"
	Failed  Result = "failed"
	Skipped Result = "skipped"
)

// Side tells where a fix has to be applied.
type Side string

// The sides.
const (
	Source Side = "source"
	Target Side = "target"
	Both   Side = "both"
)

// Type says what a migration moves.
type Type string

// The types of migration.
const (
	Structure       Type = "structure"
	Full            Type = "full"
	FullIncremental Type = "full+incremental"
)

// Item is the outcome of one check.
type Item struct {
	// ID is stable and listed by Checks.
	ID    string `json:"id"`
	Title string `json:"title"`
	// Looked says what was looked at.
	Looked string `json:"looked"`
	// Database is the source's name of the database, empty for items about a whole server.
	Database string `json:"database,omitempty"`
	Result   Result `json:"result"`
	Reason   string `json:"reason,omitempty"`
	// Objects names every object concerned, in the order found.
	Objects []string `json:"objects,omitempty"`
	// Fix holds lines that can be pasted: SQL for the side named by Side, a line of a configuration file, a shell
	// command, or an option of ours. Every warning and failure has at least one.
	Fix  []string `json:"fix,omitempty"`
	Side Side     `json:"side"`
}

// Report is what a check found.
type Report struct {
	Items    []Item `json:"items"`
	Passed   int    `json:"passed"`
	Warnings int    `json:"warnings"`
	Failed   int    `json:"failed"`
	Skipped  int    `json:"skipped"`
}

// Result is the worst of the items: failed blocks, warning asks, passed goes on.
func (r *Report) Result() Result {
	switch {
	case r.Failed > 0:
		return Failed
	case r.Warnings > 0:
		return Warning
	default:
		return Passed
	}
}

func (r *Report) add(item Item) {
	r.Items = append(r.Items, item)
	switch item.Result {
	case Passed:
		r.Passed++
	case Warning:
		r.Warnings++
	case Failed:
		r.Failed++
	case Skipped:
		r.Skipped++
	}
}

// Database is one database that moves.
type Database struct {
	// Source and Target are its names on the two servers.
	Source, Target string
	// Create tells that the target database is created when it is not there.
	Create bool
	// JobID is set when a migration is resumed: the job of ours (state.Job.ID) that the target database holds. What it
	// has made there, and its slot and publication on the source, are no conflict.
	JobID string
}

// Config says what will be migrated.
type Config struct {
	// Source and Target reach the servers; their databases are replaced by the names in Databases.
	Source, Target postgres.Endpoint
	// Databases that move. With AllDatabases and none listed, those of the source are taken and would be created.
	Databases    []Database
	AllDatabases bool
	// Type defaults to FullIncremental.
	Type      Type
	Selection schema.Selection
	// Roles tells that roles are migrated, NoOwner and NoPrivileges that ownership and privileges are not.
	Roles, NoOwner, NoPrivileges bool
	// Jobs is the number of parallel sessions per side; 0 means 4.
	Jobs int
	// Tool finds pg_dump of at least the given major. Its error may wrap *postgres.MissingError.
	Tool func(minMajor int) (path string, major int, err error)
	// TestDecoding tells that changes are read with test_decoding and not pgoutput, as always before PostgreSQL 10.
	TestDecoding bool
	// LongTransaction is the age from which a transaction on the source is reported; 0 means one minute.
	LongTransaction time.Duration
}

// namePrefix is how the names of all our replication slots and publications on a source begin.
const namePrefix = "slipway_"

func (c *Config) setDefaults() error {
	if c.Type == "" {
		c.Type = FullIncremental
	}
	if c.Type != Structure && c.Type != Full && c.Type != FullIncremental {
		return fmt.Errorf("precheck: unknown type %q", c.Type)
	}
	if c.Jobs == 0 {
		c.Jobs = 4
	}
	if c.LongTransaction == 0 {
		c.LongTransaction = time.Minute
	}
	if c.Tool == nil {
		return errors.New("precheck: no function to find pg_dump")
	}
	if len(c.Databases) == 0 && !c.AllDatabases {
		return errors.New("precheck: no database")
	}
	targets := map[string]bool{}
	for _, d := range c.Databases {
		if d.Source == "" || d.Target == "" {
			return errors.New("precheck: a database has no name")
		}
		if targets[d.Target] {
			return fmt.Errorf("precheck: two databases have the target %q", d.Target)
		}
		targets[d.Target] = true
	}
	return nil
}

// incremental tells that changes are followed, copies that data is copied.
func (c *Config) incremental() bool { return c.Type == FullIncremental }
func (c *Config) copies() bool      { return c.Type != Structure }

// Run does every check that applies. The error is for a wrong Config or an ended ctx only: whatever is wrong with the
// servers is an Item.
func Run(ctx context.Context, config Config) (*Report, error) {
	if err := config.setDefaults(); err != nil {
		return nil, err
	}
	r := &runner{Config: config, report: &Report{}, bad: map[string]bool{}, unmatched: map[string]int{}}
	defer r.close(ctx)
	for _, c := range checks {
		if c.server != nil {
			r.do(ctx, c, nil)
		}
	}
	for _, names := range r.Databases {
		if ctx.Err() != nil {
			break
		}
		r.database(ctx, names)
	}
	for _, c := range checks {
		if c.total != nil {
			r.do(ctx, c, nil)
		}
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("check: %w", context.Cause(ctx))
	}
	return r.report, nil
}
