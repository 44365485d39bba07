package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// validSlotName knows the server's rule. It also keeps the name harmless in replication commands.
func validSlotName(name string) error {
	const allowed = "abcdefghijklmnopqrstuvwxyz0123456789_"
	if name == "" || len(name) > 63 || strings.Trim(name, allowed) != "" {
		return fmt.Errorf("invalid slot name %q: want at most 63 lower-case letters, digits and underscores", name)
	}
	return nil
}

// SlotInfo is the state of a slot. What a server version does not tell is zero.
type SlotInfo struct {
	Exists         bool
	Plugin         Plugin
	Database       string
	Temporary      bool // PostgreSQL 10
	Active         bool
	ActivePID      int // PostgreSQL 9.5
	RestartLSN     postgres.LSN
	ConfirmedFlush postgres.LSN // PostgreSQL 9.6
	// CatalogXminAge is how many transactions ago the oldest one began whose catalogue rows the slot keeps from
	// VACUUM.
	CatalogXminAge int64
	// WALStatus is reserved, extended, unreserved or lost (PostgreSQL 13).
	WALStatus string
	// SafeWALSize is how many bytes may still be written before the slot is lost, -1 when there is no limit or the
	// server does not tell (PostgreSQL 13).
	SafeWALSize int64
	// InvalidationReason is why the slot is lost (PostgreSQL 17); before, only a conflict with recovery on a standby
	// is told (16).
	InvalidationReason string
	Failover, Synced   bool // PostgreSQL 17
}

// Lost tells that nothing can be read from the slot any more.
func (s SlotInfo) Lost() bool {
	return s.Exists && (s.WALStatus == "lost" || s.InvalidationReason != "" || s.RestartLSN == 0)
}

// Reason says why a lost slot is lost, for people.
func (s SlotInfo) Reason() string {
	switch {
	case s.InvalidationReason != "":
		return s.InvalidationReason
	case s.WALStatus == "lost":
		return "the server removed WAL that it needed (max_slot_wal_keep_size)"
	case s.RestartLSN == 0:
		return "it keeps no WAL"
	}
	return ""
}

// slotColumns are the columns of pg_replication_slots that not every version has, with the first version that does.
var slotColumns = []struct {
	since             postgres.Version
	column, otherwise string
}{
	{100000, "s.temporary", "false"},
	{90500, "COALESCE(s.active_pid, 0)", "0"},
	{90600, "s.confirmed_flush_lsn::pg_catalog.text", "NULL::pg_catalog.text"},
	{130000, "COALESCE(s.wal_status, '')", "''::pg_catalog.text"},
	{130000, "COALESCE(s.safe_wal_size, -1)", "(-1)::pg_catalog.int8"},
	{170000, "COALESCE(s.invalidation_reason, '')", ""},
	{170000, "s.failover", "false"},
	{170000, "s.synced", "false"},
}

func slotQuery(version postgres.Version) string {
	columns := []string{
		"COALESCE(s.plugin::pg_catalog.text, '')", "COALESCE(s.database::pg_catalog.text, '')", "s.active", "s.restart_lsn::pg_catalog.text",
		"COALESCE(pg_catalog.age(s.catalog_xmin), 0)::pg_catalog.int8",
	}
	for _, c := range slotColumns {
		switch {
		case version >= c.since:
			columns = append(columns, c.column)
		case c.otherwise != "":
			columns = append(columns, c.otherwise)
		case version >= 160000:
			columns = append(columns, "CASE WHEN s.conflicting THEN 'conflict with recovery on a standby' ELSE '' END")
		default:
			columns = append(columns, "''::pg_catalog.text")
		}
	}
	return "SELECT " + strings.Join(columns, ", ") + " FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1"
}

// InspectSlot reads the state of a slot; a missing one is no error. conn may be to any database of the server.
func InspectSlot(ctx context.Context, conn *pgx.Conn, name string) (SlotInfo, error) {
	version, err := postgres.ServerVersion(conn)
	if err != nil {
		return SlotInfo{}, err
	}
	s := SlotInfo{Exists: true}
	err = conn.QueryRow(ctx, slotQuery(version), name).Scan(&s.Plugin, &s.Database, &s.Active, &s.RestartLSN, &s.CatalogXminAge,
		&s.Temporary, &s.ActivePID, &s.ConfirmedFlush, &s.WALStatus, &s.SafeWALSize, &s.InvalidationReason, &s.Failover, &s.Synced)
	if errors.Is(err, pgx.ErrNoRows) {
		return SlotInfo{}, nil
	}
	if err != nil {
		return SlotInfo{}, fmt.Errorf("read slot %q: %w", name, err)
	}
	return s, nil
}

// Waits of DropSlot for a session that still reads the slot.
const (
	dropGrace    = 2 * time.Second  // to end by itself
	dropPatience = 30 * time.Second // in all
)

// DropSlot drops a slot; a missing one is no error. When a session of ours still reads it, for example one whose
// client died, it is ended; another one's session is left alone and the error is ErrSlotActive.
func DropSlot(ctx context.Context, conn *pgx.Conn, name string) error {
	limit, cancel := context.WithTimeout(ctx, dropPatience)
	defer cancel()
	tick := time.NewTicker(busyPoll)
	defer tick.Stop()
	for began := time.Now(); ; {
		_, err := conn.Exec(limit, `SELECT pg_catalog.pg_drop_replication_slot(slot_name)
			FROM pg_catalog.pg_replication_slots WHERE slot_name = $1`, name)
		switch {
		case err == nil, postgres.Code(err) == "42704": // gone in between
			return nil
		case postgres.Code(err) != "55006":
			return fmt.Errorf("drop slot %q: %w", name, err)
		}
		if time.Since(began) > dropGrace {
			if err := endSlotSession(limit, conn, name); err != nil {
				return err
			}
		}
		select {
		case <-limit.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("drop slot %q: %w", name, &SlotError{Slot: name, State: ErrSlotActive, Err: err})
		case <-tick.C:
		}
	}
}

// endSlotSession ends the session that reads the slot if it is ours.
func endSlotSession(ctx context.Context, conn *pgx.Conn, name string) error {
	info, err := InspectSlot(ctx, conn, name)
	if err != nil || !info.Active {
		return err
	}
	var ours bool
	err = conn.QueryRow(ctx, `SELECT COALESCE(pg_catalog.bool_or(application_name ~~ 'slipway/%'), true)
		FROM pg_catalog.pg_stat_activity WHERE pid = $1`, info.ActivePID).Scan(&ours)
	if err != nil {
		return fmt.Errorf("drop slot %q: %w", name, err)
	}
	if !ours {
		return fmt.Errorf("drop slot %q: %w", name, &SlotError{Slot: name, State: ErrSlotActive, PID: info.ActivePID})
	}
	if _, err := conn.Exec(ctx, `SELECT pg_catalog.pg_terminate_backend($1)`, info.ActivePID); err != nil {
		return fmt.Errorf("end session %d, which reads slot %q: %w", info.ActivePID, name, err)
	}
	return nil
}
