// Command slipway moves live PostgreSQL databases: see slipway migrate --help.
//
// This package is the only place where the others meet: it reads flags and environment, wires the engine to the
// terminal and turns errors into exit codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/slipway-db/slipway/migrate"
)

// Exit codes; documented in the README and in `slipway --help`.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitCheckFailed = 3
	exitDifferent   = 4
	exitStopped     = 5
)

const exitCodes = `Exit codes:
  0  done
  1  failed; the message says what to do, and running the same command again goes on where it ended
  2  wrong usage: a flag, a URI or a pattern that cannot be
  3  a check failed (or a warning was not accepted); nothing was begun
  4  differences found
  5  stopped on request; the same command goes on where it ended`

// usageError is an error of the command line itself.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// errDifferent says that a comparison ended and found differences; they were printed already.
var errDifferent = errors.New("differences found")

func main() {
	os.Exit(run(takeArguments(), os.Stdout, &console{file: os.Stderr}))
}

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := stopOnSignal(stderr)
	defer stop()
	root := rootCommand(stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	code := exitCode(err)
	switch {
	case err == nil, errors.Is(err, errDifferent):
	case err == migrate.ErrStopped: //nolint:errorlint // a wrapped one says by itself what goes on
		fmt.Fprintln(stderr, "slipway: stopped. Nothing is lost: run the same command again to go on, or slipway migrate abort to give up.")
	default:
		fmt.Fprintf(stderr, "slipway: %v\n", err)
		if code == exitUsage {
			fmt.Fprintln(stderr, "See slipway --help, or --help after a command.")
		}
	}
	return code
}

func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, migrate.ErrChecksFailed):
		return exitCheckFailed
	case errors.Is(err, errDifferent):
		return exitDifferent
	case errors.Is(err, migrate.ErrStopped):
		return exitStopped
	}
	return exitFailed
}

// stopOnSignal cancels the context on the first signal and ends the process at once on the second. Both are safe: all
// state is in the target database.
func stopOnSignal(stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	finished := make(chan struct{})
	go func() {
		select {
		case <-signals:
		case <-finished:
			return
		}
		fmt.Fprintln(stderr, "slipway: stopping cleanly (press Ctrl-C again to end at once; both can be resumed)")
		cancel(migrate.ErrStopped)
		select {
		case <-signals:
			os.Exit(exitStopped)
		case <-finished:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(finished)
		cancel(nil)
	}
}

func rootCommand(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           "slipway",
		Short:         "Move live PostgreSQL databases without stopping them and without losing a row",
		Long:          "slipway moves a live PostgreSQL database from one server to another while it is being written to,\nand proves that nothing was lost.\n\n" + exitCodes,
		Version:       version(),
		Args:          noArguments,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().String("output", "text", "form of the result on standard output: text or json")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(migrateCommand())
	refuseUnknownShells(root)
	return root
}

// refuseUnknownShells makes an unknown shell a usage error; by itself the command would show its help and succeed.
func refuseUnknownShells(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Args = noArguments
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	}
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "development"
}
