package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// InitOptions say what kind of cluster Init makes.
type InitOptions struct {
	// Locale is the default locale; empty means C.UTF-8. The encoding is UTF8.
	Locale string
	// Auth is the method for all connections: "trust" (the default), "scram-sha-256", "md5".
	Auth string
	// Password is the superuser's; needed for every method but trust.
	Password string
	// Args are added to initdb's arguments.
	Args []string
}

// Init makes the data directory with superuser "postgres". The directory must be empty or not there.
func (s *Server) Init(ctx context.Context, options InitOptions) error {
	if err := s.makeDataDir(); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	args := []string{
		"-D", s.config.DataDir, "-U", "postgres", "-E", "UTF8", "-N",
		"--locale", orDefault(options.Locale, "C.UTF-8"), "-A", orDefault(options.Auth, "trust"),
	}
	if options.Password != "" {
		file, err := s.passwordFile(options.Password)
		if err != nil {
			return fmt.Errorf("hand over the superuser's password: %w", err)
		}
		defer os.Remove(file)
		args = append(args, "--pwfile", file)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.config.Installation.Dir, "initdb"), append(args, options.Args...)...)
	cmd.Env = serverEnv()
	cmd.Dir = s.config.DataDir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb of PostgreSQL %d: %w: %s", s.config.Installation.Major, err, lastLines(out, 5))
	}
	return s.writeFile("postgresql.conf", "\ninclude_if_exists '"+settingsFile+"'\n", os.O_APPEND)
}

// InitFrom makes the data directory as a copy of one that Init made and no server uses: a hundred milliseconds instead
// of a second. The directory must be empty or not there.
func (s *Server) InitFrom(ctx context.Context, template string) error {
	if err := s.makeDataDir(); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	err := filepath.WalkDir(template, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == template {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name, err := filepath.Rel(template, path)
		if err != nil {
			return err
		}
		return s.copyEntry(path, name, entry)
	})
	if err != nil {
		return fmt.Errorf("copy data directory: %w", err)
	}
	return nil
}

func (s *Server) copyEntry(from, name string, entry fs.DirEntry) error {
	if entry.IsDir() {
		path := filepath.Join(s.config.DataDir, name)
		return errors.Join(os.Mkdir(path, 0o700), s.own(path))
	}
	if !entry.Type().IsRegular() {
		return fmt.Errorf("%s is neither a file nor a directory", from)
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := s.open(name, os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

func orDefault(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func (s *Server) makeDataDir() error {
	if err := os.MkdirAll(s.config.DataDir, 0o700); err != nil {
		return err
	}
	if err := s.own(s.config.DataDir); err != nil {
		return err
	}
	if err := reachable(s.config.Installation.Dir, s.credential); err != nil {
		return err
	}
	return reachable(s.config.DataDir, s.credential)
}

// own gives a file to the user who runs the server.
func (s *Server) own(path string) error {
	if s.credential == nil {
		return nil
	}
	return os.Lchown(path, int(s.credential.Uid), int(s.credential.Gid))
}

// passwordFile writes the password where only the server's user reads it: initdb takes it from a file or a terminal,
// and a command line would show it to everybody.
func (s *Server) passwordFile(password string) (path string, err error) {
	file, err := os.CreateTemp("", "slipway-pw-")
	if err != nil {
		return "", err
	}
	_, err = io.WriteString(file, password+"\n")
	if err = errors.Join(err, file.Close(), s.own(file.Name())); err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

// settingsFile is included at the end of postgresql.conf, so that its settings win over those of initdb.
const settingsFile = "slipway.conf"

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?$`)

// Configure replaces the settings given by an earlier Configure. They hold from the next Start or Reload, below ALTER
// SYSTEM. Port, address and socket directory belong to the configuration of Server and cannot be set here.
func (s *Server) Configure(settings map[string]string) error {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value := settings[name]
		if !settingName.MatchString(name) || strings.ContainsAny(value, "\x00\r\n") {
			return fmt.Errorf("setting %q: not a name, or its value has more than one line", name)
		}
		value = strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(value)
		fmt.Fprintf(&b, "%s = '%s'\n", name, value)
	}
	return s.writeFile(settingsFile, b.String(), os.O_TRUNC)
}

func (s *Server) writeFile(name, content string, flag int) error {
	file, err := s.open(name, flag)
	if err != nil {
		return err
	}
	_, err = io.WriteString(file, content)
	return errors.Join(err, file.Close())
}

// open opens a file of the data directory for writing, owned by the user who runs the server. That user owns the
// directory and could have put a link there to make root write or give away something else: links are not followed.
func (s *Server) open(name string, flag int) (*os.File, error) {
	path := filepath.Join(s.config.DataDir, name)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW|flag, 0o600)
	if err != nil {
		return nil, err
	}
	if s.credential != nil {
		err = file.Chown(int(s.credential.Uid), int(s.credential.Gid))
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// serverEnv is our environment without what would change a server behind its configuration: PGPORT, PGDATA, locales.
func serverEnv() []string {
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") || strings.HasPrefix(name, "LANG") ||
			name == "TZ"
	})
	return append(env, "LC_ALL=C")
}

// Remove deletes the data directory of a stopped server, and the small shared memory segment that a killed one
// leaves behind.
func (s *Server) Remove() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.running() != nil {
		return errors.New("remove data directory: the server runs")
	}
	s.removeSegment()
	if err := os.RemoveAll(s.config.DataDir); err != nil {
		return fmt.Errorf("remove data directory: %w", err)
	}
	return nil
}

// removeSegment frees the System V segment named in the seventh line of postmaster.pid, which only a server that
// did not shut down leaves. Failure is no matter: the segment has 56 bytes.
func (s *Server) removeSegment() {
	data, err := os.ReadFile(filepath.Join(s.config.DataDir, "postmaster.pid"))
	if err != nil {
		return
	}
	lines := strings.Split(string(data), "\n")
	if len(lines) < 7 {
		return
	}
	fields := strings.Fields(lines[6])
	if len(fields) != 2 {
		return
	}
	if id, err := strconv.Atoi(fields[1]); err == nil {
		_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	}
}
