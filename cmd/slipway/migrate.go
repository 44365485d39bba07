package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

// migrateFlags are the flags of all commands below `migrate`; each command declares those it takes.
type migrateFlags struct {
	source, target string

	kind             string
	databases        []string
	allDatabases     bool
	include, exclude []string
	roles            bool
	noOwner          bool
	noPrivileges     bool

	jobs               int
	maxRowsPerSecond   int64
	completeWhenSynced bool
	onObjectError      string
	allowDrift         bool
	plugin             string
	yes                bool
}

func migrateCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "migrate",
		Short: "Check, copy, follow, compare and cut over a live database",
		Example: `  slipway migrate check    --source postgres://me@old/app --target postgres://me@new/app
  slipway migrate run      --source postgres://me@old/app --target postgres://me@new/app
  slipway migrate status   --target postgres://me@new/app --watch
  slipway migrate complete --target postgres://me@new/app`,
		Long: `Moves PostgreSQL databases from a source to a target server. All state is kept in schema "slipway" of the
target database: any command may be stopped or killed at any moment and run again.

` + exitCodes,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	command.AddCommand(checkCommand(), runCommand(), statusCommand(), completeCommand(), abortCommand(), compareCommand())
	return command
}

// noArguments turns a stray word into a usage error; for a group of commands it is an unknown command.
func noArguments(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if c.HasSubCommands() {
		return usageError{fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath())}
	}
	return usageError{fmt.Errorf("unexpected argument %q", args[0])}
}

func (f *migrateFlags) endpoints(c *cobra.Command, source bool) {
	flags := c.Flags()
	if source {
		flags.StringVar(&f.source, "source", "", "source database: a connection URI or keyword=value string (or SLIPWAY_SOURCE)")
	}
	flags.StringVar(&f.target, "target", "", "target database: a connection URI or keyword=value string (or SLIPWAY_TARGET)")
}

func (f *migrateFlags) what(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.kind, "type", string(migrate.FullIncremental), "what moves: structure, full, or full+incremental")
	flags.StringArrayVar(&f.databases, "database", nil, "database NAME, or NAME:NEWNAME to rename it; repeatable (default: the databases in the URIs)")
	flags.BoolVar(&f.allDatabases, "all-databases", false, "every database of the source but the system's, with roles")
	flags.StringArrayVar(&f.include, "include", nil, `only objects that match schema.object ("*" and "?" are wildcards); repeatable`)
	flags.StringArrayVar(&f.exclude, "exclude", nil, "leave out objects that match; repeatable")
	flags.BoolVar(&f.roles, "roles", false, "also roles, their memberships and settings")
	flags.BoolVar(&f.noOwner, "no-owner", false, "the target's user owns everything")
	flags.BoolVar(&f.noPrivileges, "no-privileges", false, "no GRANTs")
	fixed := func(name string, values ...string) {
		_ = c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	fixed("type", string(migrate.StructureOnly), string(migrate.Full), string(migrate.FullIncremental))
}

func (f *migrateFlags) how(c *cobra.Command) {
	flags := c.Flags()
	flags.IntVar(&f.jobs, "jobs", 0, "parallel copies and index builds (default: CPU cores of the target where they can be seen, else 4)")
	flags.Int64Var(&f.maxRowsPerSecond, "max-rows-per-second", 0, "limit of the copy; 0 is none")
	flags.BoolVar(&f.completeWhenSynced, "complete-when-synced", false, "complete as soon as source and target are in sync and the source is no longer written to")
	flags.StringVar(&f.onObjectError, "on-object-error", "stop", "when an object cannot be created: stop or continue")
	flags.BoolVar(&f.allowDrift, "allow-drift", false, "complete although tables came or went on the source since the start")
	flags.BoolVar(&f.yes, "yes", false, "accept the warnings of the check")
	flags.StringVar(&f.plugin, "plugin", "", "output plugin: pgoutput or test_decoding (default: by the source's version)")
	_ = c.RegisterFlagCompletionFunc("on-object-error", cobra.FixedCompletions([]string{"stop", "continue"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("plugin", cobra.FixedCompletions([]string{"pgoutput", "test_decoding"}, cobra.ShellCompDirectiveNoFileComp))
}

// config validates all flags; every error names the flag and is a usage error.
func (f *migrateFlags) config(c *cobra.Command) (migrate.Config, error) {
	config := migrate.Config{
		AllDatabases: f.allDatabases, Roles: f.roles, NoOwner: f.noOwner, NoPrivileges: f.noPrivileges,
		Jobs: f.jobs, MaxRowsPerSecond: f.maxRowsPerSecond, CompleteWhenSynced: f.completeWhenSynced, AllowDrift: f.allowDrift,
		ToolRoots: toolRoots(),
	}
	var err error
	if config.Target, err = endpoint("target", f.target); err != nil {
		return config, err
	}
	if c.Flags().Lookup("source") != nil {
		if config.Source, err = endpoint("source", f.source); err != nil {
			return config, err
		}
	}
	if c.Flags().Lookup("type") != nil {
		if config.Type, err = migrate.ParseType(f.kind); err != nil {
			return config, usageError{fmt.Errorf("--type: %w", err)}
		}
	}
	if config.Databases, err = f.databasePairs(config.AllDatabases); err != nil {
		return config, err
	}
	if config.Selection.Include, err = patterns("include", f.include); err != nil {
		return config, err
	}
	if config.Selection.Exclude, err = patterns("exclude", f.exclude); err != nil {
		return config, err
	}
	return config, f.setHow(&config)
}

func (f *migrateFlags) setHow(config *migrate.Config) error {
	switch f.onObjectError {
	case "", "stop":
	case "continue":
		config.ContinueOnObjectError = true
	default:
		return usageError{fmt.Errorf("--on-object-error: unknown value %q: want stop or continue", f.onObjectError)}
	}
	switch plugin := stream.Plugin(f.plugin); plugin {
	case "", stream.Pgoutput, stream.TestDecoding:
		config.Plugin = plugin
	default:
		return usageError{fmt.Errorf("--plugin: unknown value %q: want pgoutput or test_decoding", f.plugin)}
	}
	if err := config.Validate(); err != nil {
		return usageError{err}
	}
	return nil
}

func (f *migrateFlags) databasePairs(all bool) ([]migrate.Database, error) {
	if all && len(f.databases) > 0 {
		return nil, usageError{errors.New("--database and --all-databases exclude each other")}
	}
	var pairs []migrate.Database
	for _, text := range f.databases {
		name, newName, renamed := strings.Cut(text, ":")
		if !renamed {
			newName = name
		}
		if name == "" || newName == "" {
			return nil, usageError{fmt.Errorf("--database %q: want NAME or NAME:NEWNAME", text)}
		}
		pairs = append(pairs, migrate.Database{Source: name, Target: newName})
	}
	return pairs, nil
}

// endpoint reads a URI from its flag or from SLIPWAY_SOURCE / SLIPWAY_TARGET, which keeps passwords out of shell
// history and process lists.
func endpoint(flag, value string) (postgres.Endpoint, error) {
	if value == "" {
		value = os.Getenv("SLIPWAY_" + strings.ToUpper(flag))
	}
	if value == "" {
		return postgres.Endpoint{}, usageError{fmt.Errorf("--%s is missing: want a connection URI such as postgres://user@host/database", flag)}
	}
	e, err := postgres.ParseEndpoint(value)
	if err != nil {
		return e, usageError{fmt.Errorf("--%s: %w", flag, err)}
	}
	return e, nil
}

func patterns(flag string, texts []string) ([]schema.Pattern, error) {
	var parsed []schema.Pattern
	for _, text := range texts {
		p, err := schema.ParsePattern(text)
		if err != nil {
			return nil, usageError{fmt.Errorf("--%s: %w", flag, err)}
		}
		parsed = append(parsed, p)
	}
	return parsed, nil
}

// toolRoots are where client tools of PostgreSQL are looked for besides PATH: directories named by the environment (as
// many as in PATH), var/postgres beside the binary's own tree, where `make test` puts what it installs, and Debian's
// packages, whose /usr/bin/pg_dump is a wrapper that chooses a version by itself.
func toolRoots() []string {
	roots := filepath.SplitList(os.Getenv("SLIPWAY_POSTGRES_DIR"))
	if executable, err := os.Executable(); err == nil {
		roots = append(roots, filepath.Join(filepath.Dir(executable), "..", "var", "postgres"))
	}
	return append(roots, postgres.DebianRoot)
}
