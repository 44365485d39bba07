package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// program is one that we run, in a process group of its own: Ctrl-C reaches us alone and we end things in order.
type program struct {
	cmd    *exec.Cmd
	output bytes.Buffer
	ended  chan struct{} // closed once it was waited for
	err    error         // how it ended; valid after ended
}

// start runs a program. The kernel ends it when we die: to it, that is the end of the thread which started it, so one
// goroutine keeps a thread for as long as the program lives.
func (s *servers) start(path string, args ...string) (*program, error) {
	p := &program{cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.cmd.Env = s.env()
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(path), err)
	}
	return p, nil
}

// wait returns when the program has ended; it is killed with its children when ctx ends first.
func (p *program) wait(ctx context.Context) error {
	select {
	case <-p.ended:
	case <-ctx.Done():
		p.kill()
		return context.Cause(ctx)
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(p.cmd.Path), p.err, p.tail())
	}
	return nil
}

func (p *program) kill() {
	select {
	case <-p.ended:
		return // its number may be another's by now
	default:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may be ending by itself
	<-p.ended
}

// tailLines are enough for every failed item of a check.
const tailLines = 20

// tail is the end of what the program said; valid after it ended.
func (p *program) tail() string {
	lines := strings.Split(strings.TrimSpace(p.output.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// cpu is the processor time of the program and of all that it ran and waited for; valid after it ended.
func (p *program) cpu() time.Duration {
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// memory is the largest resident size in bytes of the program, or of one that it ran and waited for, whichever was
// larger; valid after it ended.
func (p *program) memory() int64 {
	usage, ok := p.cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return usage.Maxrss << 10
}

// call runs a program to its end, which must be a good one.
func (s *servers) call(ctx context.Context, path string, args ...string) (*program, error) {
	p, err := s.start(path, args...)
	if err != nil {
		return nil, err
	}
	return p, p.wait(ctx)
}

// tick is the unit in which /proc counts processor time, on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// treeCPU is the processor time so far of a process, of its children and of all children that it has waited for.
// Every process of a PostgreSQL server is a child of the postmaster.
func treeCPU(root int) (time.Duration, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	var total time.Duration
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		parent, cpu, ok := readStat(pid)
		if ok && (pid == root || parent == root) {
			total += cpu
		}
	}
	return total, nil
}

// readStat reads fields 4 (parent) and 14 to 17 (processor time of the process and of the children that it waited
// for). The second field may hold spaces and parentheses; the last ")" ends it.
func readStat(pid int) (parent int, cpu time.Duration, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false // it has ended meanwhile
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 15 {
		return 0, 0, false
	}
	parent, err = strconv.Atoi(fields[1])
	for _, field := range fields[11:15] {
		n, _ := strconv.ParseInt(field, 10, 64) // the kernel writes numbers
		cpu += time.Duration(n) * tick
	}
	return parent, cpu, err == nil
}
