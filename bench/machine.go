package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// heading says what one must know to read the numbers: when, where, with which versions and by which command.
func (b *bench) heading(ctx context.Context, load string) ([]string, error) {
	flush, err := flushTime(b.servers.dir)
	if err != nil {
		return nil, err
	}
	slipway, err := b.servers.call(ctx, b.slipway, "--version")
	if err != nil {
		return nil, err
	}
	versions := []string{firstLine(slipway)}
	conn, err := b.servers.connect(ctx, b.servers.source, "postgres")
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var server string
	if err := conn.QueryRow(ctx, `SHOW server_version`).Scan(&server); err != nil {
		return nil, err
	}
	versions = append(versions, "PostgreSQL "+server)
	if b.pgcopydb != "" {
		p, err := b.servers.call(ctx, b.pgcopydb, "--version")
		if err != nil {
			return nil, err
		}
		versions = append(versions, firstLine(p))
	}
	memory, _, _ := strings.Cut(field("/proc/meminfo", "MemTotal"), " ")
	kilobytes, _ := strconv.Atoi(memory) // 0 where the kernel does not tell
	return []string{
		"Date: " + time.Now().UTC().Format(time.RFC3339),
		fmt.Sprintf("Machine: %d cores (%s), %d GB of memory, fdatasync of 8 kB in %.1f ms, load average before %s",
			runtime.NumCPU(), field("/proc/cpuinfo", "model name"), (kilobytes+1<<19)>>20, float64(flush.Microseconds())/1000, load),
		"Versions: " + strings.Join(versions, ", "),
		"Command: go run ./bench " + strings.Join(os.Args[1:], " "),
		fmt.Sprintf("Rounds: %d, jobs: %d, source and target on this machine with the same settings", b.rounds, b.jobs),
	}, nil
}

// firstLine is the line of an output that names a version: programs may log before it.
func firstLine(p *program) string {
	for line := range strings.SplitSeq(p.output.String(), "\n") {
		if strings.Contains(line, "version") && !strings.Contains(line, "INFO") {
			return strings.TrimSpace(line)
		}
	}
	return filepath.Base(p.cmd.Path)
}

// field is the first value of a name in a file of /proc, or "".
func field(path, name string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// loadAverage is that of the last minute.
func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "not known"
	}
	load, _, _ := strings.Cut(string(data), " ")
	return load
}

// flushTime is the median time to make one page durable: what a commit costs on this disk.
func flushTime(dir string) (time.Duration, error) {
	file, err := os.CreateTemp(dir, "flush-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	page := make([]byte, 8192)
	times := make([]time.Duration, 101)
	for i := range times {
		if _, err := file.WriteAt(page, int64(i)*int64(len(page))); err != nil {
			return 0, err
		}
		begun := time.Now()
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return 0, err
		}
		times[i] = time.Since(begun)
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}
