package pgtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/slipway-db/slipway/postgres"
)

// workspace is what one test process owns. The directory is made on first use:
//
//	<temp>/slipway-pgtest-<uid>/           of all test processes of the user
//	  lock                                 held while one of them makes or removes what is below
//	  template-<major>-<hash>/             what initdb made, copied for each server
//	  run-<random>/                        of one process; its lock is held as long as the process lives
var workspace = &space{shared: map[sharedKey]*sharedServer{}}

type space struct {
	mu     sync.Mutex
	dir    string   // run-<random>
	lock   *os.File // of dir
	count  int      // servers made, for their directories' names
	shared map[sharedKey]*sharedServer
}

type sharedKey struct {
	role  string
	major int
}

type sharedServer struct {
	start  sync.Once
	server *Server
	err    error
}

// serverDir is a fresh, short path for a data directory.
func (w *space) serverDir(major int) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dir == "" {
		if err := w.open(); err != nil {
			return "", fmt.Errorf("make the tests' directory: %w", err)
		}
	}
	w.count++
	return filepath.Join(w.dir, fmt.Sprintf("%d-%d", w.count, major)), nil
}

// baseDir is shared by the user's test processes. It is short, because sockets lie below it, and its name can be
// guessed, so one that somebody else has made is refused.
func baseDir() (string, error) {
	temp := os.TempDir()
	if len(temp) > 40 {
		temp = "/tmp"
	}
	dir := filepath.Join(temp, "slipway-pgtest-"+strconv.Itoa(os.Getuid()))
	// Servers run as another user when we are root, and must be able to pass through.
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(stat.Uid) != os.Getuid() || info.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("%s does not belong to us alone", dir)
	}
	return dir, nil
}

func (w *space) open() error {
	base, err := baseDir()
	if err != nil {
		return err
	}
	unlock, err := lockFile(filepath.Join(base, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if err := removeStale(base); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(base, "run-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(err, lock.Close())
	}
	w.dir, w.lock = dir, lock
	return nil
}

// removeStale deletes what test processes left that were killed: their locks are free.
func removeStale(base string) error {
	runs, err := filepath.Glob(filepath.Join(base, "run-*"))
	if err != nil {
		return err
	}
	for _, run := range runs {
		lock, err := os.Open(filepath.Join(run, "lock"))
		if err != nil {
			if err := os.RemoveAll(run); err != nil {
				return err
			}
			continue
		}
		free := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
		if free {
			err = os.RemoveAll(run)
		}
		if err := errors.Join(err, lock.Close()); err != nil {
			return err
		}
	}
	return nil
}

// lockFile waits for the lock on path.
func lockFile(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = file.Close() }, nil // closing gives the lock back
}

// close stops the shared servers and removes everything of this process.
func (w *space) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, shared := range w.shared {
		if shared.server != nil {
			errs = append(errs, shared.server.destroy())
		}
	}
	clear(w.shared)
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir), w.lock.Close())
		w.dir = ""
	}
	return errors.Join(errs...)
}

// template is a data directory as initdb made it with these options, kept across test processes.
func template(ctx context.Context, installation postgres.Installation, options postgres.InitOptions) (string, error) {
	base, err := baseDir()
	if err != nil {
		return "", err
	}
	version, err := exec.CommandContext(ctx, filepath.Join(installation.Dir, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask postgres for its version: %w", err)
	}
	hash := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%q", installation.Dir, version, options))
	dir := filepath.Join(base, fmt.Sprintf("template-%d-%s", installation.Major, hex.EncodeToString(hash[:6])))
	unlock, err := lockFile(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	fresh := strings.Replace(dir, "template", "fresh", 1)
	if err := os.RemoveAll(fresh); err != nil { // of a process that was killed while initdb ran
		return "", err
	}
	server, err := postgres.NewServer(postgres.ServerConfig{Installation: installation, DataDir: fresh})
	if err != nil {
		return "", err
	}
	if err := server.Init(ctx, options); err != nil {
		return "", errors.Join(err, os.RemoveAll(fresh))
	}
	return dir, os.Rename(fresh, dir) // under its own name only when complete
}
