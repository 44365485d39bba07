package stream

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Blocker is a transaction that a new slot has to wait for: any that wrote something, in any database of the server.
type Blocker struct {
	// PID, User, Application and Client of the session, and its state; not of a prepared transaction.
	PID         int
	User        string // also of a prepared transaction
	Application string
	Client      string // address, empty for a local one
	State       string // active, idle in transaction, …
	Database    string
	// GID is the name of a prepared transaction, which ends only by COMMIT PREPARED or ROLLBACK PREPARED.
	GID string
	// Began is when the transaction began, or was prepared; QueryBegan when its last query did.
	Began      time.Time
	QueryBegan time.Time
	Age        time.Duration // since Began, by the server's clock
}

// String is one line for people.
func (b Blocker) String() string {
	if b.GID != "" {
		return fmt.Sprintf("prepared transaction %q of %s in database %s, %s old", b.GID, b.User, b.Database, b.Age.Round(time.Second))
	}
	return fmt.Sprintf("process %d (%s, application %q, database %s): transaction open for %s, %s",
		b.PID, b.User, b.Application, b.Database, b.Age.Round(time.Second), b.State)
}

// blockers lists, oldest first, the transactions that are older than the wait of the walsender pid, if it waits for
// any. The server waits for them one by one, so that all of them are named, not only the next one.
func blockers(ctx context.Context, conn *pgx.Conn, pid uint32) ([]Blocker, error) {
	rows, err := conn.Query(ctx, blockersQuery, int32(pid))
	if err != nil {
		return nil, fmt.Errorf("list open transactions: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Blocker, error) {
		var b Blocker
		var began, queryBegan *time.Time
		var age float64
		err := row.Scan(&b.PID, &b.User, &b.Application, &b.Client, &b.State, &b.Database, &b.GID, &began, &queryBegan, &age)
		if began != nil {
			b.Began = *began
		}
		if queryBegan != nil {
			b.QueryBegan = *queryBegan
		}
		b.Age = time.Duration(age * float64(time.Second))
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("list open transactions: %w", err)
	}
	return list, nil
}

// blockersQuery needs no more than PostgreSQL 9.4. Other people's sessions are shown without details to a role
// without pg_read_all_stats; the process is named all the same.
const blockersQuery = `
WITH waiting AS (
	SELECT true FROM pg_catalog.pg_locks WHERE pid = $1 AND NOT granted AND locktype = 'transactionid' LIMIT 1
)
SELECT b.pid, b.usename, b.application, b.client, b.state, b.database, b.gid, b.began, b.query_began,
	COALESCE(EXTRACT(epoch FROM pg_catalog.clock_timestamp() - b.began), 0)::pg_catalog.float8
FROM (
	SELECT a.pid, COALESCE(a.usename::pg_catalog.text, '') AS usename, COALESCE(a.application_name, '') AS application,
		COALESCE(pg_catalog.host(a.client_addr), '') AS client, COALESCE(a.state, '') AS state,
		COALESCE(a.datname::pg_catalog.text, '') AS database, ''::pg_catalog.text AS gid,
		a.xact_start AS began, a.query_start AS query_began
	FROM pg_catalog.pg_stat_activity a WHERE a.backend_xid IS NOT NULL AND a.pid <> $1
	UNION ALL
	SELECT 0, p.owner::pg_catalog.text, '', '', 'prepared', p.database::pg_catalog.text, p.gid, p.prepared, NULL
	FROM pg_catalog.pg_prepared_xacts p
) b, waiting
ORDER BY b.began NULLS LAST, b.pid`
