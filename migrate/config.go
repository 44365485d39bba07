package migrate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// Type says how much of a database moves.
type Type string

// The types.
const (
	StructureOnly   Type = "structure"
	Full            Type = "full"             // structure and the rows of one moment
	FullIncremental Type = "full+incremental" // and every change since, until completion
)

// ParseType reads a type as the command line names it.
func ParseType(s string) (Type, error) {
	switch t := Type(s); t {
	case StructureOnly, Full, FullIncremental:
		return t, nil
	}
	return "", fmt.Errorf("unknown migration type %q: want structure, full or full+incremental", s)
}

// Database names one database on both sides.
type Database struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// Config says what to move, from where to where, and how.
type Config struct {
	Source, Target postgres.Endpoint

	// What moves. It is stored with the job: a later run with other choices is refused.
	Type         Type
	Databases    []Database // empty: the databases that the endpoints name
	AllDatabases bool       // every user database of the source, with roles; Databases is ignored
	Selection    schema.Selection
	Roles        bool // also roles, memberships and their settings
	NoOwner      bool
	NoPrivileges bool

	// How. It may differ from run to run.
	Jobs                  int   // parallel copies and index builds; 0: CPU cores of the target, else 4
	MaxRowsPerSecond      int64 // 0: no limit
	SplitBytes            int64 // tables above it are copied in parts; 0: default of package snapshot
	CompleteWhenSynced    bool
	ContinueOnObjectError bool // go on when an object of the structure cannot be created
	AllowDrift            bool // complete although objects were created on the source since the start

	// Plugin forces an output plugin; empty: pgoutput from PostgreSQL 10 on, test_decoding before.
	Plugin stream.Plugin
	// ToolRoots are directories below which client tools are looked for; see postgres.Locate.
	ToolRoots []string
	// RetryFor is how long the run tries to come back when a server or the network is away; 0: 5 minutes.
	RetryFor time.Duration

	// Log takes one line per phase and per problem. Nil discards.
	Log *slog.Logger
	// OnStatus is called on every change of phase and about five times a second, from one goroutine at a time per
	// database. Nil: nobody looks.
	OnStatus func(Status)

	made map[string]bool // target databases that this run has created
}

func (c *Config) setDefaults() {
	if c.Type == "" {
		c.Type = FullIncremental
	}
	if c.RetryFor == 0 {
		c.RetryFor = 5 * time.Minute
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if len(c.Databases) == 0 && !c.AllDatabases {
		c.Databases = []Database{{Source: c.Source.Database(), Target: c.Target.Database()}}
	}
	if c.AllDatabases {
		c.Roles = true
	}
}

func (c *Config) validate() error {
	if c.Jobs < 0 || c.Jobs > 128 {
		return errors.New("jobs: want a number from 1 to 128")
	}
	if c.MaxRowsPerSecond < 0 {
		return errors.New("max rows per second: want a positive number, or 0 for no limit")
	}
	if c.AllDatabases && !c.Selection.All() {
		return errors.New("all databases and patterns exclude each other: patterns choose objects within named databases")
	}
	targets := map[string]string{}
	for _, d := range c.Databases {
		if d.Source == "" || d.Target == "" {
			return errors.New("a database name is empty")
		}
		if other, twice := targets[d.Target]; twice {
			return fmt.Errorf("databases %s and %s would both become %s on the target", other, d.Source, d.Target)
		}
		targets[d.Target] = d.Source
	}
	return nil
}

// options is the part of a Config that a job keeps for life.
type options struct {
	Type         Type             `json:"type"`
	Database     Database         `json:"database"`
	Include      []schema.Pattern `json:"include,omitempty"`
	Exclude      []schema.Pattern `json:"exclude,omitempty"`
	NoOwner      bool             `json:"no_owner,omitempty"`
	NoPrivileges bool             `json:"no_privileges,omitempty"`
	// Together are the target databases of the run when there are several: they are completed and given up together.
	// With all databases, a later run may find more.
	Together []string `json:"together,omitempty"`
	// Via is the database in the target's URI when it is another one: the migration can be asked for by it, too.
	Via string `json:"via,omitempty"`
}

func (c *Config) options(d Database) options {
	o := options{
		Type: c.Type, Database: d, Include: c.Selection.Include, Exclude: c.Selection.Exclude,
		NoOwner: c.NoOwner, NoPrivileges: c.NoPrivileges,
	}
	if via := c.Target.Database(); via != d.Target {
		o.Via = via
	}
	if len(c.Databases) > 1 {
		for _, one := range c.Databases {
			o.Together = append(o.Together, one.Target)
		}
	}
	return o
}

// sameOptions refuses to go on with a job under other choices than it was started with.
func sameOptions(stored json.RawMessage, now options) error {
	var then options
	if err := json.Unmarshal(stored, &then); err != nil {
		return fmt.Errorf("read the options of the migration: %w", err)
	}
	then.Together, then.Via, now.Together, now.Via = nil, "", nil, ""
	a, errA := json.Marshal(then)
	b, errB := json.Marshal(now)
	if err := errors.Join(errA, errB); err != nil {
		return fmt.Errorf("compare the options of the migration: %w", err)
	}
	if bytes.Equal(a, b) {
		return nil
	}
	return fmt.Errorf("database %s on the target holds a migration that was started with other options:\n  then: %s\n  now:  %s\n"+
		"run the same command as then, or give that migration up with slipway migrate abort", now.Database.Target, a, b)
}
