package precheck

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/slipway-db/slipway/postgres"
)

// targetSpace compares the free space of the target with 1.2 times what moves. PostgreSQL has no SQL for free space,
// so that it is seen only where the data directory is on this machine; elsewhere the item passes and says what is
// needed.
func (r *runner) targetSpace(ctx context.Context, f *finding) error {
	need := r.bytes + r.bytes/5
	f.looked = fmt.Sprintf("1.2 times the chosen data: %s", size(need))
	free, ok, err := r.target.freeSpace(ctx)
	if err != nil {
		return err
	}
	switch {
	case !ok:
		f.note(fmt.Sprintf("the free space of the target is not known from here: have at least %s", size(need)))
	case free < need:
		f.fail(fmt.Sprintf("the target has %s free", size(free)),
			`df -h "$(psql -AtXc 'SHOW data_directory')" # on the target's host: enlarge that file system or delete what is not needed`)
	default:
		f.note(size(free) + " free")
	}
	return nil
}

// freeSpace is known when the directory that the server names is here and belongs to that very server.
func (s *server) freeSpace(ctx context.Context) (free int64, ok bool, err error) {
	dir := s.settings["data_directory"].Value // shown to superusers and pg_read_all_settings only
	if dir == "" {
		return 0, false, nil
	}
	var system uint64
	err = s.conn.QueryRow(ctx, `SELECT system_identifier::text::numeric FROM pg_control_system()`).Scan(&system)
	if postgres.Code(err) == "42501" {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read system identifier: %w", err)
	}
	if local, err := controlFile(dir); err != nil || local != system {
		return 0, false, nil // not here, not readable, or another server's
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, false, nil
	}
	return int64(stat.Bavail) * stat.Bsize, true, nil
}

// controlFile reads the system identifier, the first field of pg_control in the machine's byte order.
func controlFile(dir string) (uint64, error) {
	file, err := os.Open(filepath.Join(dir, "global", "pg_control"))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	var head [8]byte
	if _, err := io.ReadFull(file, head[:]); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(head[:]), nil
}

// size prints bytes with binary units, as pg_size_pretty does.
func size(n int64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB"}
	unit := 0
	for n >= 10240 && unit < len(units)-1 {
		n, unit = (n+512)/1024, unit+1
	}
	return fmt.Sprintf("%d %s", n, units[unit])
}

// measure sums up the chosen tables with their indexes and TOAST, and the large objects.
func (d *database) measure(ctx context.Context) error {
	var tables, objects int64
	err := d.sourceDB.QueryRow(ctx, `SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class WHERE oid = ANY($1::oid[])`,
		d.tableOIDs()).Scan(&tables)
	if err != nil {
		return fmt.Errorf("measure tables: %w", err)
	}
	if d.catalog.LargeObjects > 0 {
		err := d.sourceDB.QueryRow(ctx, `SELECT pg_total_relation_size('pg_catalog.pg_largeobject'::regclass)`).Scan(&objects)
		if err != nil {
			return fmt.Errorf("measure large objects: %w", err)
		}
	}
	d.bytes += tables + objects
	return nil
}
