package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// Export begins a read-only transaction on an idle session and returns the name of its snapshot. The snapshot lives as
// long as the session: it ends with Close, and nothing else may be done with it.
func Export(ctx context.Context, conn *pgx.Conn) (string, error) {
	name, err := begin(ctx, conn, "")
	if err != nil {
		return "", fmt.Errorf("export snapshot: %w", err)
	}
	return name, nil
}

// Within runs f while the idle session is in a read-only transaction inside the snapshot of that name, and ends the
// transaction. When the name is not valid any more the error is ErrSnapshotLost.
func Within(ctx context.Context, conn *pgx.Conn, name string, f func() error) error {
	_, err := enter(ctx, conn, []string{name})
	if err != nil {
		return err
	}
	err = f()
	if _, endErr := conn.Exec(context.WithoutCancel(ctx), "ROLLBACK"); endErr != nil && !conn.IsClosed() {
		err = errors.Join(err, fmt.Errorf("leave snapshot: %w", endErr))
	}
	return err
}

// enter begins the transaction inside the snapshot by the first name that still lives, and returns the name under which
// this session exports it again.
func enter(ctx context.Context, conn *pgx.Conn, candidates []string) (string, error) {
	var refused []error
	for _, candidate := range candidates {
		name, err := begin(ctx, conn, candidate)
		if err == nil {
			return name, nil
		}
		if postgres.Code(err) == "" || postgres.Retryable(err) {
			return "", fmt.Errorf("enter snapshot: %w", err)
		}
		refused = append(refused, err)
		if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
			return "", fmt.Errorf("enter snapshot: %w", err)
		}
	}
	return "", fmt.Errorf("%w: %w", ErrSnapshotLost, errors.Join(refused...))
}

// begin starts a transaction, inside the given snapshot or with one of its own when it is empty, and exports it.
func begin(ctx context.Context, conn *pgx.Conn, snapshot string) (string, error) {
	sql := "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
	if snapshot != "" {
		sql += "SET TRANSACTION SNAPSHOT " + postgres.QuoteLiteral(snapshot) + "; "
	}
	results, err := conn.PgConn().Exec(ctx, sql+"SELECT pg_catalog.pg_export_snapshot()").ReadAll()
	if err != nil {
		return "", err
	}
	last := results[len(results)-1]
	if len(last.Rows) != 1 {
		return "", errors.New("pg_export_snapshot returned no name")
	}
	return string(last.Rows[0][0]), nil
}
