package postgres

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a running postmaster.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the process was reaped
	err  error         // why it ended; valid after done

	mu    sync.Mutex
	guard *guard // while frozen
}

// startProcess starts cmd in a process group of its own, so that a Ctrl-C meant for us does not reach it, and asks
// the kernel to send it SIGQUIT (PostgreSQL's immediate shutdown, which takes all of its children along) when we die,
// however we die.
//
// The kernel sends that signal when the *thread* that forked ends, not the process. Therefore one goroutine keeps
// one thread for as long as the server lives, and also waits for it.
func startProcess(cmd *exec.Cmd, credential *syscall.Credential) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGQUIT, Credential: credential}
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			p.setGuard(nil)
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// freeze stops the postmaster first, so that it neither forks nor reaps, and then every process below it. It returns
// the processes below, which can be neither replaced nor reaped while the postmaster stands still.
func (p *process) freeze() ([]int, error) {
	if err := p.stop(); err != nil {
		return nil, err
	}
	frozen := map[int]bool{}
	var order []int
	for {
		fresh := 0
		for _, pid := range descendants(p.cmd.Process.Pid) {
			if !frozen[pid] {
				frozen[pid] = true
				order = append(order, pid)
				fresh++
				_ = syscall.Kill(pid, syscall.SIGSTOP) // gone already is as good as stopped
			}
		}
		if fresh == 0 {
			return order, nil
		}
	}
}

// stop stops the postmaster and waits until it stands: the signal alone returns before that.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for !p.ended() {
		if stat, ok := readStat(p.cmd.Process.Pid); ok && stat.state == "T" {
			return nil
		}
		time.Sleep(time.Millisecond) // the kernel offers no event for it to anyone who does not reap
	}
	return os.ErrProcessDone
}

// guard is a shell that wakes a stopped postmaster when we die: only then can it act on the SIGQUIT that the kernel
// sends it. It reads from a pipe whose other end nobody but us has.
type guard struct {
	cmd  *exec.Cmd
	pipe io.Closer
}

func newGuard(postmaster int) (*guard, error) {
	cmd := exec.Command("/bin/sh", "-c", `read -r _; kill -CONT "$1"`, "sh", strconv.Itoa(postmaster))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // outlives a signal to our group
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &guard{cmd: cmd, pipe: pipe}, nil
}

// setGuard replaces the guard; nil leaves the process without one.
func (p *process) setGuard(g *guard) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.guard != nil {
		_ = p.guard.cmd.Process.Kill() // before its input ends, which would make it wake the server
		_ = p.guard.cmd.Wait()         // killed, by us
		_ = p.guard.pipe.Close()
	}
	p.guard = g
}

// pause freezes everything until thaw or our death.
func (p *process) pause() error {
	g, err := newGuard(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	p.setGuard(g)
	if _, err := p.freeze(); err != nil {
		p.setGuard(nil)
		return err
	}
	return nil
}

// thaw undoes pause.
func (p *process) thaw() error {
	p.setGuard(nil)
	for _, pid := range descendants(p.cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGCONT) // one that is gone needs nothing
	}
	return p.cmd.Process.Signal(syscall.SIGCONT)
}

// descendants lists the processes below pid, parents first. PostgreSQL gives every child a session of its own, so
// the process group does not tell.
func descendants(pid int) []int {
	children := map[int][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil // without /proc nothing below can be seen
	}
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if stat, ok := readStat(child); ok {
			children[stat.parent] = append(children[stat.parent], child)
		}
	}
	var below []int
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		below = append(below, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return below
}

// processStat is what /proc tells of a process.
type processStat struct {
	state  string
	parent int
}

// readStat reads the state of a process that is not dead: a zombie holds no memory and no files any more, so it
// counts as gone. The command, the second field, may hold spaces and parentheses; the last ")" ends it.
func readStat(pid int) (processStat, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processStat{}, false
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 2 || fields[0] == "Z" || fields[0] == "X" {
		return processStat{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	return processStat{state: fields[0], parent: parent}, err == nil
}

// alive tells whether pid runs.
func alive(pid int) bool {
	_, ok := readStat(pid)
	return ok
}

// serverCredential decides as whom servers run: nil is ourselves. PostgreSQL refuses to run as root, so root gives
// way to the named user, or else to postgres, or else to nobody.
func serverCredential(name string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	candidates := []string{"postgres", "nobody"}
	if name != "" {
		candidates = []string{name}
	}
	for _, candidate := range candidates {
		account, err := user.Lookup(candidate)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(account.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(account.Gid, 10, 32)
		if errUID != nil || errGID != nil || uid == 0 {
			return nil, fmt.Errorf("user %q cannot run a server", candidate)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("PostgreSQL does not run as root, and no user of %q exists", candidates)
}

// reachable tells whether the user may enter every directory from the root to dir; the servers' own message for it
// ("could not access directory") does not name the culprit.
func reachable(dir string, credential *syscall.Credential) error {
	if credential == nil {
		return nil
	}
	for d := dir; ; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		need := os.FileMode(0o001)
		switch {
		case stat.Uid == credential.Uid:
			need = 0o100
		case stat.Gid == credential.Gid:
			need = 0o010
		}
		if info.Mode()&need == 0 {
			return fmt.Errorf("user %d, who runs the server, may not enter %s", credential.Uid, d)
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}
