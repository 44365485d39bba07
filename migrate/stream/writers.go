package stream

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// OpenWriters lists transactions of conn's database, other than our own, that have written something and not ended:
// what they did is not in the log's commits yet and would come after whatever position is taken now. Locks are used
// because they show every session to every role.
func OpenWriters(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	rows, err := conn.Query(ctx, `
		SELECT 'process ' || l.pid || ' (' || COALESCE(a.usename::text, '?') || COALESCE(', application ' || NULLIF(a.application_name, ''), '') || ')'
		FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
			AND a.datname = current_database() AND l.pid <> pg_backend_pid() AND COALESCE(a.application_name, '') NOT LIKE 'slipway/%'
			AND COALESCE(a.query, '') NOT LIKE 'autovacuum:%'
		UNION ALL
		SELECT 'prepared transaction ' || quote_literal(gid) || ' of ' || owner::text FROM pg_catalog.pg_prepared_xacts
		WHERE database = current_database()`)
	if err != nil {
		return nil, fmt.Errorf("list open transactions: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list open transactions: %w", err)
	}
	return found, nil
}
