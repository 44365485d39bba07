package stream

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/slipway-db/slipway/postgres"
)

// Identity tells one server's history of changes from another's.
type Identity struct {
	SystemID string // made by initdb, the same on all standbys
	Timeline int32  // raised by each promotion and each restore
	// Position is the end of the server's log when it was asked: flushed, or on a standby replayed.
	Position postgres.LSN
}

// Identify asks a server who it is, over a replication connection (IDENTIFY_SYSTEM).
func Identify(ctx context.Context, e postgres.Endpoint) (Identity, error) {
	conn, err := e.ConnectReplication(ctx, "identify")
	if err != nil {
		return Identity{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return identify(ctx, conn)
}

func identify(ctx context.Context, conn *pgconn.PgConn) (Identity, error) {
	results, err := conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil {
		return Identity{}, fmt.Errorf("identify the source: %w", err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 3 {
		return Identity{}, fmt.Errorf("identify the source: %w", ErrProtocol)
	}
	row := results[0].Rows[0]
	timeline, err := strconv.ParseInt(string(row[1]), 10, 32)
	if err != nil {
		return Identity{}, fmt.Errorf("identify the source: timeline: %w", err)
	}
	position, err := postgres.ParseLSN(string(row[2]))
	if err != nil {
		return Identity{}, fmt.Errorf("identify the source: %w", err)
	}
	return Identity{SystemID: string(row[0]), Timeline: int32(timeline), Position: position}, nil
}

// check compares what was expected with who answered. An empty expectation takes anybody.
func (i Identity) check(now Identity) error {
	if i.SystemID == "" {
		return nil
	}
	if i.SystemID != now.SystemID {
		return fmt.Errorf("%w: its system identifier was %s and is %s", ErrSourceReplaced, i.SystemID, now.SystemID)
	}
	if now.Position < i.Position {
		return fmt.Errorf("%w: its log ended at %s and now ends at %s", ErrSourceReplaced, i.Position, now.Position)
	}
	if i.Timeline != now.Timeline {
		return fmt.Errorf("%w: it was %d and is %d", ErrTimeline, i.Timeline, now.Timeline)
	}
	return nil
}

// SourcePosition is how far the source's log reaches: flushed on a primary, replayed on a standby. That is as far as
// the stream can follow, so that the distance to it is the lag. A commit with synchronous_commit=off may lie beyond
// it for the fraction of a second that the server takes to flush; to drain a source use Heartbeat.
func SourcePosition(ctx context.Context, conn *pgx.Conn) (postgres.LSN, error) {
	version, err := postgres.ServerVersion(conn)
	if err != nil {
		return 0, err
	}
	query := `SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
		ELSE pg_catalog.pg_current_wal_flush_lsn() END::pg_catalog.text`
	switch {
	case version >= 90600 && version < 100000:
		query = `SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_xlog_replay_location()
			ELSE pg_catalog.pg_current_xlog_flush_location() END::pg_catalog.text`
	case version < 90600: // written, the nearest there is
		query = `SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_xlog_replay_location()
			ELSE pg_catalog.pg_current_xlog_location() END::pg_catalog.text`
	}
	var lsn postgres.LSN
	if err := conn.QueryRow(ctx, query).Scan(&lsn); err != nil {
		return 0, fmt.Errorf("read the source's position: %w", err)
	}
	return lsn, nil
}

// Heartbeat writes a small record into the source's log, so that the stream of a quiet database moves on, and returns
// its position: everything that was committed before the call, asynchronous commits included, lies below it and is
// flushed. The stream reaches it without any further change. It changes no data and needs no privilege; a standby
// refuses it (SQLSTATE 25006).
func Heartbeat(ctx context.Context, conn *pgx.Conn) (postgres.LSN, error) {
	version, err := postgres.ServerVersion(conn)
	if err != nil {
		return 0, err
	}
	// The commit flushes the log, whatever the session's setting; "local" does not wait for standbys.
	mark := `SELECT pg_catalog.pg_logical_emit_message(true, 'slipway', 'heartbeat')::pg_catalog.text`
	if version < 90600 {
		mark = `SELECT CASE WHEN pg_catalog.txid_current() > 0 THEN pg_catalog.pg_current_xlog_insert_location()::pg_catalog.text END`
	}
	var lsn postgres.LSN
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL synchronous_commit = local`); err != nil {
			return err
		}
		return tx.QueryRow(ctx, mark).Scan(&lsn)
	})
	if err != nil {
		return 0, fmt.Errorf("write a heartbeat: %w", err)
	}
	return lsn, nil
}
