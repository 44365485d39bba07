package migrate

import (
	"context"

	"github.com/slipway-db/slipway/migrate/precheck"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// Check does every check for the migration and changes nothing. A migration that is under way on the target already
// is not in its own way.
func Check(ctx context.Context, config Config) (*precheck.Report, error) {
	config.setDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	checked := precheck.Config{
		Source: config.Source, Target: config.Target, AllDatabases: config.AllDatabases,
		Type: precheck.Type(config.Type), Selection: config.Selection,
		Roles: config.Roles, NoOwner: config.NoOwner, NoPrivileges: config.NoPrivileges, Jobs: config.Jobs,
		TestDecoding: config.Plugin == stream.TestDecoding,
		Tool: func(minMajor int) (string, int, error) {
			tool, err := postgres.ClientTool(ctx, config.ToolRoots, "pg_dump", minMajor)
			return tool.Path, tool.Version.Major(), err
		},
	}
	// A source that cannot be reached is for the check to report.
	if err := findDatabases(ctx, &config); err != nil && ctx.Err() != nil {
		return nil, stopped(ctx, err)
	}
	for _, d := range config.Databases {
		checking := precheck.Database{Source: d.Source, Target: d.Target, Create: true}
		if job := jobOn(ctx, config.Target.WithDatabase(d.Target)); job != nil {
			checking.JobID = job.ID
		}
		checked.Databases = append(checked.Databases, checking)
	}
	report, err := precheck.Run(ctx, checked)
	return report, stopped(ctx, err)
}

// jobOn is the migration that the target database holds, nil when there is none or it cannot be read; the check and the
// run tell why then.
func jobOn(ctx context.Context, target postgres.Endpoint) *state.Job {
	conn, err := target.Connect(ctx, postgres.Session{Name: "check"})
	if err != nil {
		return nil
	}
	defer conn.Close(context.WithoutCancel(ctx))
	job, err := state.Read(ctx, conn)
	if err != nil {
		return nil
	}
	return job
}
