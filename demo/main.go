// Command demo shows a whole migration on servers of its own: it fills a source, writes to it all the time, lets
// bin/slipway check, copy, follow, compare and complete, proves on the target that nothing was lost, and reports what
// it measured. It leaves nothing running and nothing behind. `make demo` builds what it needs.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	os.Exit(run())
}

// errInterrupted is the cause when somebody ends the demo.
var errInterrupted = errors.New("interrupted")

// signalled is the exit code by which shells tell an interrupted program.
const signalled = 130

func run() int {
	// `go run` passes Ctrl-C on, but a SIGTERM ends it without telling us.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	// A reader of our output that goes away must not keep us from cleaning up: taken, the signal does not end us.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		cancel(errInterrupted)
	}()

	err := newDemo(newScreen(os.Stdout)).run(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(context.Cause(ctx), errInterrupted):
		fmt.Fprintln(os.Stderr, "demo: interrupted; everything was stopped and removed")
		return signalled
	}
	fmt.Fprintln(os.Stderr, "demo:", err)
	return 1
}
