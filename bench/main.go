// Command bench measures bin/slipway beside its peers, on servers of its own and in one run: whole migrations against
// pg_dump with pg_restore and against pgcopydb, and the draining of a prepared backlog of changes against a native
// subscription. Tools take turns and every copy is checked. `make bench` builds what it needs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	os.Exit(run())
}

// Exit codes as the shell knows them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

var errInterrupted = errors.New("interrupted")

func run() int {
	o, err := parseOptions(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		return exitUsage
	}
	// `go run` passes Ctrl-C on, but a SIGTERM ends it without telling us.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return exitFailed
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		cancel(errInterrupted)
	}()
	err = newBench(o).run(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(context.Cause(ctx), errInterrupted):
		fmt.Fprintln(os.Stderr, "bench: interrupted; everything was stopped and removed")
		return exitInterrupted
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	return exitFailed
}

// options are the flags.
type options struct {
	rounds       int
	scale        int // of pgbench, 100,000 accounts each
	rows         int // of the largest typed table
	tables       int
	transactions int
	jobs         int
	only         string
	dir          string
	markdown     bool
}

// measurements are the names that -only takes, in the order in which they run.
var measurements = []string{"pgbench", "typed", "tables", "tpcb", "simple"}

// defaultDir is ours: what a killed run left there is removed.
const defaultDir = "var/bench"

func parseOptions(args []string) (options, error) {
	var o options
	quick := false
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.rounds, "rounds", 3, "how often each tool runs")
	flags.IntVar(&o.scale, "scale", 30, "pgbench scale of the first data set")
	flags.IntVar(&o.rows, "rows", 450_000, "rows of the events table in the typed data set")
	flags.IntVar(&o.tables, "tables", 1000, "tables of the third data set")
	flags.IntVar(&o.transactions, "transactions", 40_000, "transactions of a backlog")
	flags.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "parallel jobs of every tool")
	flags.StringVar(&o.only, "only", "", "measure only these, comma separated: "+strings.Join(measurements, ", "))
	flags.StringVar(&o.dir, "dir", defaultDir, "where the servers keep their data; another one must be empty or not there")
	flags.BoolVar(&o.markdown, "markdown", false, "print the tables as markdown")
	flags.BoolVar(&quick, "quick", false, "tiny sizes and one round: tries the tool, measures nothing of use")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if quick {
		given := o
		o.rounds, o.scale, o.rows, o.tables, o.transactions = 1, 1, 3000, 30, 400
		flags.Visit(func(f *flag.Flag) { // what was asked for in so many words holds
			switch f.Name {
			case "rounds":
				o.rounds = given.rounds
			case "scale":
				o.scale = given.scale
			case "rows":
				o.rows = given.rows
			case "tables":
				o.tables = given.tables
			case "transactions":
				o.transactions = given.transactions
			}
		})
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if min(o.rounds, o.scale, o.rows, o.tables, o.jobs) < 1 || o.transactions < backlogClients {
		return o, errors.New("sizes, rounds and jobs must be positive")
	}
	for name := range strings.SplitSeq(o.only, ",") {
		if o.only != "" && !slices.Contains(measurements, name) {
			return o, fmt.Errorf("-only: unknown measurement %q", name)
		}
	}
	var err error
	o.dir, err = filepath.Abs(o.dir)
	return o, err
}

func (o options) wants(name string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), name)
}
