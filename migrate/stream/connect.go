package stream

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/slipway-db/slipway/postgres"
)

// errEnded is a lost connection to whoever asks postgres.Retryable.
var errEnded = io.ErrUnexpectedEOF

// session is a stream that has started.
type session struct {
	wire     *wire
	pid      uint32 // of the walsender
	start    postgres.LSN
	interval time.Duration // of status messages
}

// open checks that the slot can be resumed at the wanted position, and starts the stream.
func (r *Reader) open(ctx context.Context) (*session, error) {
	control, err := r.config.Endpoint.Connect(ctx, postgres.Session{Name: r.config.Session})
	if err != nil {
		return nil, err
	}
	defer control.Close(context.WithoutCancel(ctx))
	if r.config.ServerVersion == 0 {
		if r.config.ServerVersion, err = postgres.ServerVersion(control); err != nil {
			return nil, err
		}
	}
	s := &session{}
	if s.interval, err = r.statusInterval(ctx, control); err != nil {
		return nil, err
	}
	conn, err := r.config.Endpoint.ConnectReplication(ctx, r.config.Session)
	if err != nil {
		return nil, err
	}
	if err = r.readable(conn); err == nil {
		err = r.prepare(ctx, conn)
	}
	if err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	s.pid = conn.PID()
	if s.wire, err = newWire(conn); err != nil {
		return nil, err
	}
	unblock := context.AfterFunc(ctx, func() { _ = s.wire.conn.SetDeadline(time.Unix(1, 0)) })
	defer unblock()
	if s.start, err = r.start(ctx, control, s.wire); err != nil {
		_ = s.wire.conn.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	return s, nil
}

// readable refuses to read text whose bytes mean something else than they would be taken for: test_decoding prints in
// the server's encoding, whatever the client's is.
func (r *Reader) readable(conn *pgconn.PgConn) error {
	encoding := conn.ParameterStatus("server_encoding")
	if r.config.Plugin != TestDecoding || encoding == "UTF8" || encoding == "SQL_ASCII" {
		return nil
	}
	return fmt.Errorf("%w: test_decoding prints text in the database's encoding %s, which is not converted; UTF8 and SQL_ASCII can be read",
		ErrEncoding, encoding)
}

// statusInterval is short enough for the server not to give us up: it may lose two of three messages.
func (r *Reader) statusInterval(ctx context.Context, conn *pgx.Conn) (time.Duration, error) {
	var milliseconds int64
	err := conn.QueryRow(ctx, `SELECT setting::pg_catalog.int8 FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'`).
		Scan(&milliseconds)
	if err != nil {
		return 0, fmt.Errorf("read wal_sender_timeout: %w", err)
	}
	interval := r.config.StatusInterval
	if milliseconds > 0 {
		interval = min(interval, max(time.Duration(milliseconds)*time.Millisecond/3, time.Millisecond))
	}
	return interval, nil
}

// prepare checks that the server is the one it was, and pins what could not go with the start message.
func (r *Reader) prepare(ctx context.Context, conn *pgconn.PgConn) error {
	now, err := identify(ctx, conn)
	if err != nil {
		return err
	}
	if err := r.config.Identity.check(now); err != nil {
		return err
	}
	if now.Position < r.config.Start {
		return fmt.Errorf("%w: its log ends at %s, before %s, which was read from it", ErrSourceReplaced, now.Position, r.config.Start)
	}
	return pinWalsender(ctx, conn, r.config.ServerVersion)
}

// pinWalsender sets on a walsender what sessions of ours have everywhere else: names in values (regclass) are printed
// with their schemas, and no timeout ends the session. Walsenders run SQL since PostgreSQL 10.
func pinWalsender(ctx context.Context, conn *pgconn.PgConn, version postgres.Version) error {
	if !version.AtLeast(10) {
		return nil
	}
	_, err := conn.Exec(ctx, `SELECT pg_catalog.set_config(name, CASE name WHEN 'search_path' THEN 'pg_catalog' ELSE '0' END, false)
		FROM pg_catalog.pg_settings
		WHERE name IN ('search_path', 'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
			'idle_session_timeout', 'transaction_timeout')`).ReadAll()
	if err != nil {
		return fmt.Errorf("pin session settings: %w", err)
	}
	return nil
}

// busyPoll is how often a slot that somebody else reads is looked at.
const busyPoll = 200 * time.Millisecond

// start sends START_REPLICATION, after the slot proved to be ours and to hold the position. It waits for a while for
// another session to leave the slot: after a broken connection the server may not have noticed yet.
func (r *Reader) start(ctx context.Context, control *pgx.Conn, w *wire) (postgres.LSN, error) {
	limit, cancel := context.WithTimeout(ctx, r.config.ActiveTimeout)
	defer cancel()
	tick := time.NewTicker(busyPoll)
	defer tick.Stop()
	for {
		from, busy, err := r.resumable(ctx, control)
		if err != nil {
			return 0, err
		}
		if busy == nil {
			err = w.startCopy(r.command(from))
			if err == nil {
				return from, nil
			}
			if postgres.Code(err) != "55006" {
				return 0, r.slotError(err)
			}
			busy = &SlotError{Slot: r.config.Slot, State: ErrSlotActive, Err: err}
		}
		select {
		case <-limit.Done():
			if ctx.Err() != nil {
				return 0, context.Cause(ctx)
			}
			return 0, busy
		case <-tick.C:
		}
	}
}

// resumable checks the slot and gives the position to ask for.
func (r *Reader) resumable(ctx context.Context, control *pgx.Conn) (from postgres.LSN, busy, err error) {
	slot, err := InspectSlot(ctx, control, r.config.Slot)
	if err != nil {
		return 0, nil, err
	}
	wrong := &SlotError{Slot: r.config.Slot}
	switch {
	case !slot.Exists:
		wrong.State = ErrSlotMissing
	case slot.Plugin != r.config.Plugin || slot.Database != r.config.Endpoint.Database():
		wrong.State = ErrSlotMismatch
		wrong.Detail = fmt.Sprintf("it is of plugin %s in database %s", slot.Plugin, slot.Database)
	case slot.Lost():
		wrong.State, wrong.Detail = ErrSlotLost, slot.Reason()
	case r.config.Start != 0 && slot.ConfirmedFlush > r.config.Start:
		wrong.State, wrong.Confirmed, wrong.Wanted = ErrSlotAhead, slot.ConfirmedFlush, r.config.Start
	case slot.Active:
		return 0, &SlotError{Slot: r.config.Slot, State: ErrSlotActive, PID: slot.ActivePID}, nil
	default:
		return max(r.config.Start, slot.ConfirmedFlush), nil, nil
	}
	return 0, nil, wrong
}

// slotError gives the server's error its meaning where the slot cannot go on.
func (r *Reader) slotError(err error) error {
	switch postgres.Code(err) {
	case "55000", // can no longer get changes from the slot
		"58P01": // requested WAL segment has already been removed
		return &SlotError{Slot: r.config.Slot, State: ErrSlotLost, Detail: err.Error(), Err: err}
	}
	return fmt.Errorf("read slot %q: %w", r.config.Slot, err)
}

func (r *Reader) command(from postgres.LSN) string {
	options := r.pgoutputOptions()
	if r.config.Plugin == TestDecoding {
		options = r.testDecodingOptions()
	}
	var sql strings.Builder
	fmt.Fprintf(&sql, "START_REPLICATION SLOT %s LOGICAL %s (", postgres.QuoteIdent(r.config.Slot), from)
	for i, o := range options {
		if i > 0 {
			sql.WriteString(", ")
		}
		// The replication grammar knows no escapes but the doubled quote.
		sql.WriteString(postgres.QuoteIdent(o.name) + " '" + strings.ReplaceAll(o.value, "'", "''") + "'")
	}
	sql.WriteString(")")
	return sql.String()
}

type option struct{ name, value string }

func (r *Reader) pgoutputOptions() []option {
	version := r.config.ServerVersion
	protocol := 1
	if version.AtLeast(14) {
		protocol = 2 // transactions may be sent before they end
	}
	options := []option{
		{"proto_version", strconv.Itoa(protocol)},
		{"publication_names", postgres.QuoteIdents(r.config.Publications)},
	}
	if version.AtLeast(14) {
		options = append(options, option{"streaming", "on"}, option{"binary", "off"}, option{"messages", "off"})
	}
	if version.AtLeast(16) {
		options = append(options, option{"origin", "any"})
	}
	return options
}

func (r *Reader) testDecodingOptions() []option {
	options := []option{
		{"include-xids", "on"}, {"include-timestamp", "on"}, {"skip-empty-xacts", "on"}, {"force-binary", "off"},
	}
	if r.config.ServerVersion >= 90500 {
		options = append(options, option{"only-local", "off"})
	}
	if r.config.ServerVersion.AtLeast(11) {
		options = append(options, option{"include-rewrites", "off"})
	}
	if r.config.ServerVersion.AtLeast(14) {
		options = append(options, option{"stream-changes", "off"})
	}
	return options
}
