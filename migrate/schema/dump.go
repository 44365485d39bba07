package schema

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-db/slipway/postgres"
)

// DumpOptions say what Dump reads and with which program.
type DumpOptions struct {
	// Tool is the path of pg_dump, of at least the source's major version (postgres.ClientTool finds it).
	Tool string
	// Source is the server and database.
	Source postgres.Endpoint
	// Snapshot is the name of an exported snapshot that the dump shall see; empty for the present state.
	Snapshot string
	// Exclude are tables that are neither dumped nor locked. Beyond excludeLimit of them all tables are locked.
	Exclude []Name
}

// excludeLimit keeps the command line within what every system takes.
const excludeLimit = 2000

// childOptions are settings of the dumping session that decide how constants are written into the DDL; those of the
// source's database or role must not. A name that a server does not know would refuse the connection, so all are old.
const childOptions = " -c standard_conforming_strings=on -c lc_monetary=C -c lc_numeric=C -c timezone=UTC" +
	" -c bytea_output=hex -c xmlbinary=base64"

// stderrKept bounds what is remembered of the program's messages, in bytes.
const stderrKept = 16 << 10

// Dump runs pg_dump and reads its archive, which stays in memory: rows and large objects are not in it, and there is no
// file. Archive.Raw is for keeping, so that a run which resumes reads the structure that was copied and not what the
// source has become.
//
// It asks for the sections before and after the data and not for --schema-only, which would leave out the refreshing
// of materialized views. Identifiers are quoted throughout, because the target's version may reserve words that the
// source's does not.
func Dump(ctx context.Context, o DumpOptions) (*Archive, error) {
	args := []string{
		"--format=custom", "--compress=0", "--section=pre-data", "--section=post-data", "--no-blobs", "--no-subscriptions",
		"--quote-all-identifiers", "--encoding=UTF8", "--no-password",
	}
	if o.Snapshot != "" {
		args = append(args, "--snapshot="+o.Snapshot)
	}
	if len(o.Exclude) <= excludeLimit {
		for _, n := range o.Exclude {
			args = append(args, "--exclude-table="+n.SQL()) // quoted, so no character of it is a wildcard
		}
	}
	cmd := exec.CommandContext(ctx, o.Tool, args...)
	cmd.Env = childEnv(o.Source)
	cmd.WaitDelay = 5 * time.Second // for a wrapper script that leaves a child with the pipe
	var out bytes.Buffer
	messages := &boundedBuffer{limit: stderrKept}
	cmd.Stdout, cmd.Stderr = &out, messages
	if err := cmd.Run(); err != nil {
		return nil, dumpError(ctx, o.Tool, err, messages.kept.String())
	}
	archive, err := ReadArchive(bytes.NewReader(out.Bytes()))
	if err != nil {
		return nil, fmt.Errorf("dump structure: %w", err)
	}
	archive.Raw = out.Bytes()
	return archive, nil
}

// dumpError prefers what pg_dump said over what could not be read because of it.
func dumpError(ctx context.Context, tool string, err error, messages string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("dump structure: %w", context.Cause(ctx))
	}
	messages = strings.TrimSpace(messages)
	if messages == "" {
		return fmt.Errorf("dump structure: %s: %w", filepath.Base(tool), err)
	}
	return fmt.Errorf("dump structure: %s: %w: %s", filepath.Base(tool), err, messages)
}

func childEnv(source postgres.Endpoint) []string {
	env := source.ChildEnv()
	const name = "PGOPTIONS="
	i := slices.IndexFunc(env, func(entry string) bool { return strings.HasPrefix(entry, name) })
	if i < 0 {
		return append(env, name+strings.TrimSpace(childOptions))
	}
	env[i] += childOptions
	return env
}

// boundedBuffer keeps the first bytes, where the cause of a failure stands.
type boundedBuffer struct {
	kept  bytes.Buffer
	limit int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if room := b.limit - b.kept.Len(); room > 0 {
		b.kept.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
