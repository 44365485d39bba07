package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/migrate/precheck"
	"github.com/slipway-db/slipway/migrate/verify"
)

func checkCommand() *cobra.Command {
	f := &migrateFlags{}
	command := &cobra.Command{
		Use: "check --source URI --target URI", Short: "Check everything that a migration needs; changes nothing", Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := f.config(c)
			if err != nil {
				return err
			}
			report, err := migrate.Check(c.Context(), config)
			if err != nil {
				return err
			}
			if err := printResult(c, report, func(w *printer) { w.check(report, true) }); err != nil {
				return err
			}
			return checkVerdict(report)
		},
	}
	f.endpoints(command, true)
	f.what(command)
	return command
}

func checkVerdict(report *precheck.Report) error {
	if report.Result() == precheck.Failed {
		return fmt.Errorf("%w: %d item(s); mend them and check again", migrate.ErrChecksFailed, report.Failed)
	}
	return nil
}

func runCommand() *cobra.Command {
	f := &migrateFlags{}
	command := &cobra.Command{
		Use: "run --source URI --target URI", Args: noArguments,
		Short: "Migrate in the foreground; the same command again goes on where it ended",
		Long: `Checks, copies, builds indexes and follows the source until completion is asked for (slipway migrate complete, or
--complete-when-synced). Structure and full migrations end by themselves.

` + exitCodes,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := f.config(c)
			if err != nil {
				return err
			}
			return runMigration(c, f, config)
		},
	}
	f.endpoints(command, true)
	f.what(command)
	f.how(command)
	return command
}

func runMigration(c *cobra.Command, f *migrateFlags, config migrate.Config) error {
	ctx := c.Context()
	report, err := migrate.Check(ctx, config)
	if err != nil {
		return err
	}
	if err := acceptCheck(c, f, report); err != nil {
		return err
	}
	progress := newProgress(c.ErrOrStderr())
	config.Log, config.OnStatus = progress.logger(), progress.update
	result, err := migrate.Run(ctx, config)
	progress.close()
	if result != nil {
		if printErr := printResult(c, result, func(w *printer) { w.result(result) }); printErr != nil {
			return errors.Join(err, printErr)
		}
	}
	return err
}

// acceptCheck shows what is not passed and asks about warnings: a person on a terminal, else --yes must be there.
func acceptCheck(c *cobra.Command, f *migrateFlags, report *precheck.Report) error {
	if report.Result() == precheck.Passed {
		return nil
	}
	newPrinter(c.ErrOrStderr()).check(report, false)
	if err := checkVerdict(report); err != nil {
		return err
	}
	if f.yes {
		return nil
	}
	accepted, asked := confirm(c, fmt.Sprintf("%d warning(s). Go on?", report.Warnings))
	switch {
	case !asked:
		return fmt.Errorf("%w: %d warning(s) need a decision: mend them, or accept them with --yes", migrate.ErrChecksFailed, report.Warnings)
	case !accepted:
		return fmt.Errorf("%w: the warnings were not accepted", migrate.ErrChecksFailed)
	}
	return nil
}

func statusCommand() *cobra.Command {
	f := &migrateFlags{}
	var watch bool
	command := &cobra.Command{
		Use: "status --target URI", Short: "Show how far the migrations on the target are", Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := f.config(c)
			if err != nil {
				return err
			}
			for {
				statuses, err := migrate.ReadStatus(c.Context(), config.Target)
				if err != nil {
					if watch && errors.Is(err, migrate.ErrNothingToDo) {
						return nil
					}
					return err
				}
				if err := printResult(c, statuses, func(w *printer) { w.statuses(statuses) }); err != nil {
					return err
				}
				if !watch {
					return nil
				}
				select {
				case <-c.Context().Done():
					return nil // leaving a watch stops nothing
				case <-time.After(time.Second):
				}
			}
		},
	}
	f.endpoints(command, false)
	command.Flags().BoolVar(&watch, "watch", false, "show it again every second until the migration ends")
	return command
}

func completeCommand() *cobra.Command {
	f := &migrateFlags{}
	command := &cobra.Command{
		Use: "complete --target URI", Short: "Ask the running migration to drain and finish, and wait for the end", Args: noArguments,
		Long: `Stop the application's writes on the source first: the migration completes when nothing is left to apply and the
source is no longer written to. Until then everything can go back.

` + exitCodes,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := f.config(c)
			if err != nil {
				return err
			}
			progress := newProgress(c.ErrOrStderr())
			results, err := migrate.Complete(c.Context(), config.Target, progress.update)
			progress.close()
			if err != nil {
				return detached(c.Context(), err)
			}
			return printResult(c, results, func(w *printer) { w.completions(results) })
		},
	}
	f.endpoints(command, false)
	return command
}

// detached explains that leaving the wait does not stop the migration.
func detached(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), migrate.ErrStopped) {
		return fmt.Errorf("%w waiting; the migration itself goes on and will complete (see slipway migrate status)", migrate.ErrStopped)
	}
	return err
}

func abortCommand() *cobra.Command {
	f := &migrateFlags{}
	var options migrate.AbortOptions
	command := &cobra.Command{
		Use: "abort --source URI --target URI", Args: noArguments,
		Short: "Give a migration up: its slot, publication and our schema go",
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := f.config(c)
			if err != nil {
				return err
			}
			reports, err := migrate.Abort(c.Context(), config, options)
			if len(reports) > 0 {
				err = errors.Join(err, printResult(c, reports, func(w *printer) { w.aborted(reports) }))
			}
			return err
		},
	}
	f.endpoints(command, true)
	command.Flags().BoolVar(&options.DropCopied, "drop-copied", false, "also drop what the migration created on the target")
	command.Flags().BoolVar(&options.SourceGone, "source-gone", false, "the source is gone or another server by now: leave it alone and say what would be left there")
	return command
}

func compareCommand() *cobra.Command {
	f := &migrateFlags{}
	var mode string
	var sample float64
	var threads int
	command := &cobra.Command{
		Use: "compare --source URI --target URI", Args: noArguments,
		Short: "Compare source and target: structure, counts, every row; also while the migration follows",
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := f.config(c)
			if err != nil {
				return err
			}
			options := migrate.CompareOptions{Mode: verify.Mode(mode), SampleRate: sample, Threads: threads}
			if err := options.Validate(); err != nil {
				return usageError{err}
			}
			reports, err := migrate.Compare(c.Context(), config, options)
			if err != nil {
				return err
			}
			if err := printResult(c, reports, func(w *printer) { w.compared(reports) }); err != nil {
				return err
			}
			return reports.Verdict(errDifferent)
		},
	}
	f.endpoints(command, true)
	f.what(command)
	command.Flags().StringVar(&mode, "mode", string(verify.Full), "full (every row), sample, rows (counts) or structure")
	command.Flags().Float64Var(&sample, "sample-rate", 10, "percent of the rows that mode sample compares")
	command.Flags().IntVar(&threads, "threads", 0, "tables compared at a time, 1 to 8 (default: 4 or the CPU cores here)")
	_ = command.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"full", "sample", "rows", "structure"}, cobra.ShellCompDirectiveNoFileComp))
	return command
}
