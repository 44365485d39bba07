// Package state keeps the state of a migration in the target database, in a schema of its own, so that progress
// commits together with the rows it speaks of. Nothing else has to survive a crash of the engine.
//
// The schema holds one job (a primary key that only one row can have keeps a second one out), the position of the
// stream, the tables with their copied parts, the archive of the source's structure and the entries of it that were
// created. A runner takes the job over by raising the epoch; whatever an older runner still tries to commit then
// affects no row and is rolled back.
package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// Schema is the name of our schema in the target database.
const Schema = "slipway"

// Format is the version of the layout below. A job of another format is refused, never guessed at.
const Format = 1

// Errors that a caller tests for.
var (
	// ErrNone says that the database holds no migration of ours.
	ErrNone = errors.New("no migration in this database")
	// ErrBusy says that another process is working on the job right now.
	ErrBusy = errors.New("another process is running this migration")
	// ErrFenced says that another runner took the job over.
	ErrFenced = errors.New("another runner took this migration over")
)

// Phase is how far a migration of one database has come. Phases are stored before their work begins, so after a crash
// the work of the stored phase is done again, and all of it is made to be done again.
type Phase string

// The phases in order; docs/architecture.md tells what happens in each.
const (
	Prepare     Phase = "prepare"     // publication, slot, snapshot, structure dump
	Structure   Phase = "structure"   // schema before data
	Copy        Phase = "copy"        // rows, large objects, indexes as tables finish
	Constraints Phase = "constraints" // foreign keys and the rest after data
	Follow      Phase = "follow"      // changes; in sync until completion is asked for
	Complete    Phase = "complete"    // drain, align, clean up
	Done        Phase = "done"
)

// Job is the row of a migration of one database.
type Job struct {
	ID         string // eight hexadecimal digits; part of the slot's and the publication's name
	Format     int
	Phase      Phase
	Options    json.RawMessage // what was asked for, without secrets; belongs to package migrate
	Source     Source
	Plugin     string
	Consistent postgres.LSN // the slot's consistent point; 0 before the slot is made
	WantDone   bool         // completion was asked for
	// MadeDatabase tells that the migration created the target database, and so decides about its settings and
	// privileges.
	MadeDatabase bool
	Error        string // why the last run stopped, "" when it did not
	Status       json.RawMessage
	Created      time.Time
	StatusSaved  time.Time
}

// Slot is the name of the job's replication slot on the source.
func (j *Job) Slot() string { return "slipway_" + j.ID }

// Publication is the name of the job's publication on the source.
func (j *Job) Publication() string { return "slipway_" + j.ID }

// Source identifies the server that the job copies from, so that a different server behind the same name is noticed.
type Source struct {
	SystemID string           `json:"system_id"`
	Timeline int32            `json:"timeline"`
	Database string           `json:"database"`
	Version  postgres.Version `json:"version"`
	Endpoint string           `json:"endpoint"` // for people, without password
}

const layout = `
CREATE SCHEMA slipway;
COMMENT ON SCHEMA slipway IS 'State of a running migration by slipway. It is removed on completion or by slipway migrate abort.';
CREATE TABLE slipway.job (
	only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
	id text NOT NULL, format integer NOT NULL, phase text NOT NULL,
	options jsonb NOT NULL, source jsonb NOT NULL, plugin text NOT NULL DEFAULT '',
	made_database boolean NOT NULL DEFAULT false, consistent pg_lsn NOT NULL DEFAULT '0/0', want_done boolean NOT NULL DEFAULT false, error text NOT NULL DEFAULT '',
	created timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- Its own table: it is written every second and must not bloat or lock the job's row.
CREATE TABLE slipway.status (
	only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
	status jsonb NOT NULL DEFAULT '{}', saved timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
-- The position of the stream; rewritten by every transaction of apply (updates in place: fillfactor).
CREATE TABLE slipway.progress (
	only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
	epoch bigint NOT NULL DEFAULT 0, lsn pg_lsn NOT NULL DEFAULT '0/0', commit_time timestamptz
) WITH (fillfactor = 50);
CREATE TABLE slipway.relation (
	schema text NOT NULL, name text NOT NULL, PRIMARY KEY (schema, name), source_oid oid NOT NULL,
	copy_lsn pg_lsn NOT NULL DEFAULT '0/0', parts integer NOT NULL DEFAULT 0, copied boolean NOT NULL DEFAULT false,
	indexed boolean NOT NULL DEFAULT false
);
CREATE TABLE slipway.part (
	schema text NOT NULL, name text NOT NULL, number integer NOT NULL, rows bigint NOT NULL, bytes bigint NOT NULL,
	PRIMARY KEY (schema, name, number)
);
-- pg_dump's archive of the source's structure at the snapshot, in pieces: the reference for every later stage.
CREATE TABLE slipway.archive (number integer PRIMARY KEY, piece bytea NOT NULL);
CREATE TABLE slipway.entry (key text PRIMARY KEY, failure text NOT NULL DEFAULT '', statement text NOT NULL DEFAULT '');
INSERT INTO slipway.status DEFAULT VALUES;
INSERT INTO slipway.progress DEFAULT VALUES;
`

// Read returns the job of the database that conn is connected to, or ErrNone.
func Read(ctx context.Context, conn *pgx.Conn) (*Job, error) {
	var exists bool
	err := conn.QueryRow(ctx, `SELECT count(*) > 0 FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'slipway' AND c.relname = 'job'`).Scan(&exists)
	if err != nil {
		return nil, fmt.Errorf("look for a migration: %w", err)
	}
	if !exists {
		return nil, ErrNone
	}
	job := &Job{}
	var source []byte
	err = conn.QueryRow(ctx, `SELECT j.id, j.format, j.phase, j.options, j.source, j.plugin, j.consistent::text,
			j.want_done, j.made_database, j.error, j.created, s.status, s.saved
		FROM slipway.job j CROSS JOIN slipway.status s`).Scan(&job.ID, &job.Format, &job.Phase, &job.Options, &source,
		&job.Plugin, &job.Consistent, &job.WantDone, &job.MadeDatabase, &job.Error, &job.Created, &job.Status, &job.StatusSaved)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("read the migration's state: %w", err)
	}
	if err := json.Unmarshal(source, &job.Source); err != nil {
		return nil, fmt.Errorf("read the migration's state: %w", err)
	}
	if job.Format != Format {
		return nil, fmt.Errorf("the migration in this database was made by another version of slipway (state format %d, this program knows %d): "+
			"go on with that version, or give the migration up with slipway migrate abort", job.Format, Format)
	}
	return job, nil
}

// Create makes our schema and the job's row in one transaction. A second creator fails on the schema's name.
func Create(ctx context.Context, conn *pgx.Conn, job *Job) error {
	source, err := json.Marshal(job.Source)
	if err != nil {
		return fmt.Errorf("create the migration's state: %w", err)
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Conn().PgConn().Exec(ctx, layout).ReadAll(); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO slipway.job (id, format, phase, options, source, plugin, made_database) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			job.ID, Format, job.Phase, job.Options, source, job.Plugin, job.MadeDatabase)
		return err
	})
	if err != nil {
		return fmt.Errorf("create schema %s in the target database: %w", Schema, err)
	}
	return nil
}

// Drop removes our schema from the database, if it is there.
func Drop(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.PgConn().Exec(ctx, `DROP SCHEMA IF EXISTS slipway CASCADE`).ReadAll(); err != nil {
		return fmt.Errorf("drop schema %s: %w", Schema, err)
	}
	return nil
}
