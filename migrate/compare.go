package migrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/verify"
	"github.com/slipway-db/slipway/postgres"
)

// CompareOptions say how thoroughly source and target are compared.
type CompareOptions struct {
	Mode       verify.Mode
	SampleRate float64 // percent, for mode sample
	Threads    int     // chunks at a time, 1 to 8; 0: 4, or the cores of this machine when fewer
	OnProgress func(Database, verify.Progress)
}

// Validate tells what is wrong with the options themselves.
func (o CompareOptions) Validate() error {
	switch o.Mode {
	case verify.Full, verify.Sample, verify.Rows, verify.Structure:
	default:
		return fmt.Errorf("unknown mode %q: want full, sample, rows or structure", o.Mode)
	}
	if o.Mode == verify.Sample && !(o.SampleRate > 0 && o.SampleRate <= 100) {
		return fmt.Errorf("sample rate %g: want more than 0 and at most 100 percent", o.SampleRate)
	}
	if o.Threads < 0 || o.Threads > 8 {
		return fmt.Errorf("threads %d: want 1 to 8", o.Threads)
	}
	return nil
}

// CompareReport is what a comparison of one database found.
type CompareReport struct {
	Database Database       `json:"database"`
	Report   *verify.Report `json:"report"`
}

// CompareReports are those of all databases.
type CompareReports []CompareReport

// Verdict is nil when everything was compared and is the same, different when something differs, and another error
// when something could not be compared.
func (r CompareReports) Verdict(different error) error {
	var verdict error
	for _, one := range r {
		switch one.Report.Result {
		case verify.Same:
		case verify.Different:
			if verdict == nil {
				verdict = different
			}
		default:
			return fmt.Errorf("database %s: not everything could be compared", one.Database.Source)
		}
	}
	return verdict
}

// Compare compares the chosen objects of source and target. While a migration follows, rows are compared at positions
// that the target has applied.
func Compare(ctx context.Context, config Config, options CompareOptions) (CompareReports, error) {
	config.setDefaults()
	if err := errors.Join(config.validate(), options.Validate()); err != nil {
		return nil, err
	}
	if err := findDatabases(ctx, &config); err != nil {
		return nil, stopped(ctx, err)
	}
	var reports CompareReports
	for _, d := range config.Databases {
		report, err := compareDatabase(ctx, &config, d, options)
		if err != nil {
			return reports, stopped(ctx, err)
		}
		reports = append(reports, CompareReport{Database: d, Report: report})
	}
	return reports, nil
}

func compareDatabase(ctx context.Context, config *Config, d Database, options CompareOptions) (*verify.Report, error) {
	source, target := config.Source.WithDatabase(d.Source), config.Target.WithDatabase(d.Target)
	sourceConn, err := source.Connect(ctx, postgres.Session{Name: "compare"})
	if err != nil {
		return nil, err
	}
	defer sourceConn.Close(context.WithoutCancel(ctx))
	catalog, err := schema.Load(ctx, sourceConn, config.Selection)
	if err != nil {
		return nil, err
	}
	targetConn, err := target.Connect(ctx, postgres.Session{Name: "compare"})
	if err != nil {
		return nil, err
	}
	defer targetConn.Close(context.WithoutCancel(ctx))
	c := verify.Config{
		Source: connector(source), Target: connector(target),
		Mode: options.Mode, SampleRate: options.SampleRate, Threads: options.Threads,
		Tables: pairs(catalog), LargeObjects: config.Selection.All(),
	}
	if options.OnProgress != nil {
		c.Progress = func(p verify.Progress) { options.OnProgress(d, p) }
	}
	for _, s := range catalog.Sequences {
		c.Sequences = append(c.Sequences, verify.SequencePair{Source: s.Name, Target: s.Name})
	}
	job, err := unfinished(ctx, targetConn)
	if err != nil {
		return nil, err
	}
	if job != nil {
		c.Applied = applied(targetConn)
	}
	c.Definitions = definitions(config, catalog, job)
	return verify.Run(ctx, c)
}

// unfinished is the migration that is filling the target, nil when there is none. While one copies, or stands still,
// nothing can be said about rows.
func unfinished(ctx context.Context, target *pgx.Conn) (*state.Job, error) {
	job, err := state.Read(ctx, target)
	if errors.Is(err, state.ErrNone) || err == nil && job.Phase == state.Done {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if job.Phase != state.Follow && job.Phase != state.Complete {
		return nil, fmt.Errorf("the migration of %s is in phase %s: compare when it follows or has ended", job.Source.Database, job.Phase)
	}
	running, err := state.Running(ctx, target)
	if err == nil && !running {
		err = fmt.Errorf("the migration of %s is not running, so the target is behind: run it again and compare while it follows, or when it is complete", job.Source.Database)
	}
	return job, err
}

func connector(e postgres.Endpoint) verify.Connector {
	return func(ctx context.Context, name string) (*pgx.Conn, error) {
		return e.Connect(ctx, postgres.Session{Name: name})
	}
}

// applied reads the position from the target; verify calls it one at a time.
func applied(target *pgx.Conn) func(context.Context) (postgres.LSN, bool, error) {
	return func(ctx context.Context) (postgres.LSN, bool, error) {
		lsn, err := state.Position(ctx, target)
		if postgres.Code(err) == "42P01" { // our schema has just gone: the migration is complete, nothing streams
			return ^postgres.LSN(0), true, nil
		}
		return lsn, err == nil, err
	}
}

// pairs are the tables. Materialized views are left out: the target's are computed at completion, and those of the
// source are as old as their last refresh.
func pairs(catalog *schema.Catalog) []verify.TablePair {
	tables := make([]verify.TablePair, 0, len(catalog.Tables))
	for _, t := range catalog.Tables {
		tables = append(tables, verify.TablePair{Source: t, Target: t.Name})
	}
	return tables
}
