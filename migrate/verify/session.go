package verify

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/slipway-db/slipway/postgres"
)

// side is one of the two servers.
type side struct {
	name     string // "source" or "target", for messages
	connect  Connector
	version  postgres.Version
	encoding string
	// walBlock and walSegment are sizes in bytes, to read WAL positions.
	walBlock, walSegment uint64
}

// row is one result row as the server printed it; nil is NULL.
type row [][]byte

func (r row) text(i int) string { return string(r[i]) }

func (r row) int(i int) (int64, error) { return strconv.ParseInt(string(r[i]), 10, 64) }

// settings of our sessions, over the pinned ones: short queries that each stay on one core and never wait for a lock
// without end.
var sessionSettings = map[string]string{
	"default_transaction_read_only":   "on",
	"max_parallel_workers_per_gather": "0",
	"jit":                             "off",
	"lock_timeout":                    "30s",
}

// session is a connection that opens when it is needed and again after it was lost. It is not for concurrent use.
type session struct {
	side *side
	conn *pgx.Conn
}

func (s *session) open(ctx context.Context) (*pgconn.PgConn, error) {
	if s.conn != nil && s.conn.IsClosed() {
		s.close()
	}
	if s.conn == nil {
		conn, err := s.side.connect(ctx, "compare")
		if err != nil {
			return nil, err
		}
		s.conn = conn
		if err := s.configure(ctx); err != nil {
			s.close()
			return nil, err
		}
	}
	return s.conn.PgConn(), nil
}

func (s *session) configure(ctx context.Context) error {
	for name, value := range sessionSettings {
		_, err := s.conn.Exec(ctx, `SELECT pg_catalog.set_config(name, $2, false) FROM pg_catalog.pg_settings WHERE name = $1`,
			name, value)
		if err != nil {
			return fmt.Errorf("%s: set %s: %w", s.side.name, name, err)
		}
	}
	return nil
}

// close lets go of the connection; the deadline keeps a dead network from holding us up.
func (s *session) close() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
	s.conn = nil
}

// query runs one statement that returns few rows.
func (s *session) query(ctx context.Context, sql string) ([]row, error) {
	rows := []row{}
	err := s.stream(ctx, sql, func(r row) error {
		kept := make(row, len(r))
		for i, value := range r {
			if value != nil {
				kept[i] = append([]byte{}, value...)
			}
		}
		rows = append(rows, kept)
		return nil
	})
	return rows, err
}

// stream runs one statement and gives each row to f; the row's bytes are valid only during the call.
func (s *session) stream(ctx context.Context, sql string, f func(row) error) error {
	conn, err := s.open(ctx)
	if err != nil {
		return err
	}
	// Unprepared with text results: the plan knows the literals, and values are as the server prints them.
	reader := conn.ExecParams(ctx, sql, nil, nil, nil, nil)
	var stop error
	for stop == nil && reader.NextRow() {
		stop = f(reader.Values())
	}
	if stop != nil {
		// What is left of the result may be large: drop the session instead of reading it.
		s.abandon()
		return stop
	}
	if _, err := reader.Close(); err != nil {
		return fmt.Errorf("%s: %w", s.side.name, err)
	}
	return nil
}

// abandon ends a session in the middle of a result.
func (s *session) abandon() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.conn.Close(ctx)
	s.conn = nil
}

// one runs a statement that returns exactly one row.
func (s *session) one(ctx context.Context, sql string) (row, error) {
	rows, err := s.query(ctx, sql)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("%s: got %d rows where one was due", s.side.name, len(rows))
	}
	return rows[0], nil
}

// identify reads what the server is.
func (s *side) identify(ctx context.Context) error {
	session := &session{side: s}
	defer session.close()
	var facts row
	err := attempt(ctx, func() (err error) {
		facts, err = session.one(ctx, `SELECT pg_catalog.current_setting('server_version_num'),
			pg_catalog.current_setting('server_encoding'),
			(SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_block_size'),
			(SELECT setting::pg_catalog.int8 * CASE unit WHEN '8kB' THEN 8192 ELSE 1 END
			   FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size')`)
		return err
	})
	if err != nil {
		return fmt.Errorf("read facts of the %s: %w", s.name, err)
	}
	numbers := [3]int64{}
	for i, column := range []int{0, 2, 3} {
		if numbers[i], err = facts.int(column); err != nil {
			return fmt.Errorf("read facts of the %s: %w", s.name, err)
		}
	}
	s.version, s.encoding = postgres.Version(numbers[0]), facts.text(1)
	s.walBlock, s.walSegment = uint64(numbers[1]), uint64(numbers[2])
	return nil
}

// retries are the pauses between the attempts at one piece of work.
var retries = []time.Duration{
	200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second,
}

// attempt repeats work while the server says that the cause passes; sessions reconnect by themselves.
func attempt(ctx context.Context, work func() error) error {
	for _, pause := range retries {
		err := work()
		if err == nil || !postgres.Retryable(err) {
			return err
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	return work()
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
