package migrate

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/postgres"
)

// findDatabases lists the databases when all are to move.
func findDatabases(ctx context.Context, config *Config) error {
	if !config.AllDatabases {
		return nil
	}
	conn, err := config.Source.Connect(ctx, postgres.Session{Name: "run"})
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	databases, err := schema.ListDatabases(ctx, conn)
	if err != nil {
		return err
	}
	config.Databases = nil
	for _, d := range databases {
		config.Databases = append(config.Databases, Database{Source: d.Name, Target: d.Name})
	}
	if len(config.Databases) == 0 {
		return errors.New("the source has no database besides the system's")
	}
	return nil
}

// prepareInstance makes what belongs to the server and not to one database: roles and the databases themselves. All
// of it is done only where it is missing, so a later run changes nothing.
func prepareInstance(ctx context.Context, config *Config, result *Result) error {
	source, err := config.Source.WithDatabase(config.Databases[0].Source).Connect(ctx, postgres.Session{Name: "run"})
	if err != nil {
		return err
	}
	defer source.Close(context.WithoutCancel(ctx))
	target, err := maintenance(ctx, config)
	if err != nil {
		return err
	}
	defer target.Close(context.WithoutCancel(ctx))
	config.made = map[string]bool{}
	i := &instance{config: config, source: source, target: target, result: result}
	if i.version, err = postgres.ServerVersion(target); err != nil {
		return err
	}
	if err := i.createRoles(ctx); err != nil {
		return err
	}
	if err := i.createDatabases(ctx); err != nil {
		return err
	}
	return i.setRolesInDatabases(ctx)
}

// maintenance connects to a database of the target that exists: the one that the URI names, else postgres or
// template1, because the one to be filled may have to be made.
func maintenance(ctx context.Context, config *Config) (*pgx.Conn, error) {
	conn, err := config.Target.Connect(ctx, postgres.Session{Name: "run"})
	for _, name := range []string{"postgres", "template1"} {
		if err == nil || postgres.ConnectFault(err) != postgres.FaultDatabase {
			break
		}
		conn, err = config.Target.WithDatabase(name).Connect(ctx, postgres.Session{Name: "run"})
	}
	return conn, err
}

// instance is the server-wide part of a run.
type instance struct {
	config         *Config
	source, target *pgx.Conn
	version        postgres.Version
	result         *Result

	roles   []schema.Role
	options schema.RoleOptions
}

func (i *instance) createRoles(ctx context.Context) error {
	if !i.config.Roles {
		return nil
	}
	existing, err := i.rolesBefore(ctx)
	if err != nil {
		return err
	}
	i.options = schema.RoleOptions{Target: i.version, Existing: existing}
	if i.roles, err = schema.ReadRoles(ctx, i.source, false); err != nil {
		return err
	}
	for _, r := range i.roles {
		if !i.options.Existing[r.Name] {
			i.result.Roles = append(i.result.Roles, r.Name)
		}
	}
	return i.execute(ctx, schema.RoleStatements(i.roles, i.options))
}

// rolesBefore are the roles that the target had before the migration. The check lets none of them share a name with a
// role that moves, so when a migration is taken up again such roles are those that it made itself, perhaps by half.
func (i *instance) rolesBefore(ctx context.Context) (map[string]bool, error) {
	before := map[string]bool{}
	for _, d := range i.config.Databases {
		if jobOn(ctx, i.config.Target.WithDatabase(d.Target)) != nil {
			return before, nil
		}
	}
	roles, err := schema.ReadRoles(ctx, i.target, true)
	for _, r := range roles {
		before[r.Name] = true
	}
	return before, err
}

// execute runs a script; what the server refuses and what could not be said is part of the result.
func (i *instance) execute(ctx context.Context, script schema.Script) error {
	i.result.Notes = append(i.result.Notes, script.Notes...)
	failures, err := schema.Execute(ctx, i.target, script.Statements)
	for _, f := range failures {
		i.result.Notes = append(i.result.Notes, fmt.Sprintf("%s: %v (%s)", f.Statement.Object, f.Err, f.Statement.Shown()))
	}
	return err
}

// createDatabases creates those databases that the target lacks.
func (i *instance) createDatabases(ctx context.Context) error {
	names, err := state.Databases(ctx, i.target)
	if err != nil {
		return err
	}
	for _, d := range i.config.Databases {
		exists := slices.Contains(names, d.Target)
		if exists && !i.config.AllDatabases && !i.madeEarlier(ctx, d.Target) {
			continue // it was made by the user, who decides about its settings
		}
		database, err := schema.ReadDatabase(ctx, i.source, d.Source)
		if err != nil {
			return err
		}
		script := schema.DatabaseStatements(database, schema.DatabaseOptions{
			NewName: d.Target, Target: i.version, NoOwner: i.config.NoOwner, NoPrivileges: i.config.NoPrivileges,
		})
		if failures, err := schema.Execute(ctx, i.target, script.Create); err != nil || len(failures) > 0 {
			if len(failures) > 0 {
				err = fmt.Errorf("create database %s on the target: %w", d.Target, failures[0].Err)
			}
			return err
		}
		i.config.made[d.Target] = true
		if !exists {
			i.config.Log.Info("database created", "database", d.Target)
		}
		if err := i.execute(ctx, schema.Script{Statements: script.Settings, Notes: script.Notes}); err != nil {
			return err
		}
		i.result.last = append(i.result.last, script.Last...)
	}
	return nil
}

// madeEarlier tells whether an earlier run of this migration created the database.
func (i *instance) madeEarlier(ctx context.Context, database string) bool {
	job := jobOn(ctx, i.config.Target.WithDatabase(database))
	return job != nil && job.MadeDatabase
}

func (i *instance) setRolesInDatabases(ctx context.Context) error {
	for _, d := range i.config.Databases {
		if err := i.execute(ctx, schema.RoleDatabaseStatements(i.roles, i.options, d.Source, d.Target)); err != nil {
			return err
		}
	}
	return nil
}

// finishInstance sets what would have held up our own sessions: privileges and connection limits of databases that
// this migration created, in this run or in an earlier one.
func finishInstance(ctx context.Context, config *Config, result *Result) error {
	if len(result.last) == 0 {
		return nil
	}
	target, err := maintenance(ctx, config)
	if err != nil {
		return err
	}
	defer target.Close(context.WithoutCancel(ctx))
	i := &instance{config: config, target: target, result: result}
	return i.execute(ctx, schema.Script{Statements: result.last})
}

// defaultJobs is used where the target's cores cannot be seen.
const defaultJobs = 4

// targetCores is the number of CPU cores of the target, which PostgreSQL does not tell: it is known when the target is
// this machine.
func targetCores(ctx context.Context, config *Config) int {
	conn, err := maintenance(ctx, config)
	if err != nil {
		return defaultJobs
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if postgres.SameHost(conn) {
		return max(1, runtime.NumCPU())
	}
	return defaultJobs
}
