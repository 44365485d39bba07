package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// maxIndexMemory bounds maintenance_work_mem, in kB; more brings no index build forward.
const maxIndexMemory = 2 << 20

// IndexSettings are session settings for building indexes with so many builders at a time: a quarter of the server's
// buffers in all, which is what a server of that size can spare, and never less than it has set for maintenance.
func IndexSettings(ctx context.Context, conn *pgx.Conn, builders int) (map[string]string, error) {
	var buffers, present int64 // kB
	err := conn.QueryRow(ctx, `SELECT
		(SELECT setting::bigint * 8 FROM pg_catalog.pg_settings WHERE name = 'shared_buffers'),
		(SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem')`).Scan(&buffers, &present)
	if err != nil {
		return nil, fmt.Errorf("read memory settings: %w", err)
	}
	memory := max(present, min(buffers/4/int64(max(1, builders)), maxIndexMemory))
	return map[string]string{"maintenance_work_mem": fmt.Sprintf("%dkB", memory)}, nil
}
