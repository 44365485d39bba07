package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// child is a program that runs beside us and does not outlive us.
type child struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once it was waited for
	err   error         // how it ended; valid after ended
}

// startChild runs cmd in a process group of its own, so that Ctrl-C reaches us alone and we end things in order. The
// kernel kills it when we die: to it, that is the end of the thread which started it, so one goroutine keeps a thread
// for as long as the child lives.
func startChild(cmd *exec.Cmd) (*child, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c := &child{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	return c, nil
}

// kill ends the child and returns when it is gone. A child that has ended is left alone.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it may have ended by itself
	<-c.ended
}

// wait returns when the child has ended by itself; it is killed when ctx ends first.
func (c *child) wait(ctx context.Context) error {
	select {
	case <-c.ended:
		return c.err
	case <-ctx.Done():
		c.kill()
		return context.Cause(ctx)
	}
}

// peakMemory is the largest resident size that the child had, in bytes, or that of a program that it ran and waited
// for (pg_dump), whichever was larger.
func (c *child) peakMemory() int64 {
	usage, ok := c.cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return usage.Maxrss << 10
}

// ran is what a program that has ended leaves.
type ran struct {
	stdout, stderr string
	code           int
	took           time.Duration
}

// runCommand runs a program to its end. The error is for a program that could not run; an exit code is none.
func runCommand(ctx context.Context, cmd *exec.Cmd) (ran, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	started := time.Now()
	c, err := startChild(cmd)
	if err != nil {
		return ran{}, err
	}
	err = c.wait(ctx)
	took := time.Since(started)
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		err = nil
	}
	return ran{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode(), took: took}, err
}

// succeed runs a program that must end well.
func succeed(ctx context.Context, cmd *exec.Cmd) (stdout string, err error) {
	result, err := runCommand(ctx, cmd)
	if err == nil && result.code != 0 {
		err = fmt.Errorf("exit code %d: %s", result.code, strings.TrimSpace(result.stderr))
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
	}
	return result.stdout, nil
}

// childEnv is our environment without what libpq would read from it, and with the password that all servers of the
// demo share: it is in no command line.
func childEnv(password string) []string {
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "PG") || strings.HasPrefix(entry, "SLIPWAY_")
	})
	return append(env, "PGPASSWORD="+password)
}
