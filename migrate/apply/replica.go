package apply

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// CanBeReplica tells whether the session's user may set session_replication_role, so that triggers, rules and foreign
// keys do not fire: superusers may, and since PostgreSQL 15 whoever was granted it. It tries, in a transaction that is
// rolled back.
func CanBeReplica(ctx context.Context, conn *pgx.Conn) bool {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return false
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // it changed nothing
	_, err = tx.Exec(ctx, `SET LOCAL session_replication_role = replica`)
	return err == nil
}
