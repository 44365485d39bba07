package apply

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// session is the one connection that writes to the target.
type session struct {
	conn *pgx.Conn
	// statements by text. Their number on the server is bounded: tables times column sets can be many.
	statements map[string]*statement
	prepared   int
	names      int
}

// statement is a prepared statement, prepared when first used.
type statement struct {
	sql      string
	name     string // empty until prepared
	describe *pgconn.StatementDescription
}

// maxPrepared bounds the memory that the server spends on statements of ours.
const maxPrepared = 1000

// settings hold for the whole session. Keys are probed through their index whatever the statistics of a table that has
// just been filled say, and a commit is made durable by the barrier, not each by itself. Settings that a version does
// not have are left out.
var settings = map[string]string{
	"synchronous_commit":              "off",
	"plan_cache_mode":                 "force_generic_plan",
	"enable_seqscan":                  "off",
	"enable_hashjoin":                 "off",
	"enable_mergejoin":                "off",
	"enable_memoize":                  "off",
	"jit":                             "off",
	"max_parallel_workers_per_gather": "0",
}

func openSession(ctx context.Context, config *Config) (*session, error) {
	conn, err := config.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to apply: %w", err)
	}
	s := &session{conn: conn, statements: map[string]*statement{}}
	names, values := []string{}, []string{}
	for name, value := range settings {
		names, values = append(names, name), append(values, value)
	}
	_, err = conn.Exec(ctx, `SELECT set_config(s.name, v.value, false)
		FROM ROWS FROM (unnest($1::text[]), unnest($2::text[])) AS v(name, value)
		JOIN pg_settings s ON s.name = v.name`, names, values)
	if err == nil && config.ReplicaRole {
		_, err = conn.Exec(ctx, `SET session_replication_role = replica`)
	}
	if err != nil {
		s.close(ctx)
		return nil, fmt.Errorf("prepare the session that applies: %w", err)
	}
	return s, nil
}

// closeTimeout bounds the farewell to a server that may be gone.
const closeTimeout = 5 * time.Second

// close runs also after the context has ended, so it takes a deadline of its own.
func (s *session) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = s.conn.Close(ctx)
}

func (s *session) statement(sql string) *statement {
	st, known := s.statements[sql]
	if !known {
		st = &statement{sql: sql}
		s.statements[sql] = st
	}
	return st
}

// query is one statement of a pipeline and what is expected of it.
type query struct {
	sql       string     // sent as it is, planned for its parameters
	statement *statement // or prepared once
	values    [][]byte
	formats   []int16

	// rows is how many rows it must affect, anyRows when that does not matter.
	rows int64
	// target and change tell what it was for: the table of a set, the change of a single row, neither for our own.
	target *target
	change *change
	record bool // stores the position
}

const anyRows = -1

// failure says which query of a pipeline did not do what it should.
type failure struct {
	query *query
	rows  int64
	err   error // nil when only the number of rows is wrong
}

func (f *failure) Error() string {
	if f.err != nil {
		return f.err.Error()
	}
	return fmt.Sprintf("%d rows affected instead of %d", f.rows, f.query.rows)
}

func (f *failure) Unwrap() error { return f.err }

// run sends the queries in one round trip and returns a *failure for the first one that failed, or the error that
// broke the connection.
func (s *session) run(ctx context.Context, queries []query) error {
	if s.prepared > maxPrepared {
		if err := s.forget(ctx); err != nil {
			return err
		}
	}
	p := s.conn.PgConn().StartPipeline(ctx)
	prepares := make([]bool, len(queries))
	for i := range queries {
		prepares[i] = s.send(p, &queries[i])
	}
	err := p.Sync()
	if err == nil {
		err = s.receive(p, queries, prepares)
	}
	if closeErr := p.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("apply: %w", closeErr)
	}
	return err
}

// send queues a query and tells whether its statement has to be prepared first.
func (s *session) send(p *pgconn.Pipeline, q *query) (prepares bool) {
	if q.statement == nil {
		p.SendQueryParams(q.sql, q.values, nil, q.formats, nil)
		return false
	}
	if q.statement.name == "" {
		prepares = true
		s.names++
		q.statement.name = "slipway_" + strconv.Itoa(s.names)
		p.SendPrepare(q.statement.name, q.statement.sql, nil)
	}
	p.SendQueryPrepared(q.statement.name, q.values, q.formats, nil)
	return prepares
}

// receive reads all results, also after a wrong number of rows, so that it knows which statements are prepared. After
// an error the server has skipped the rest: those statements are not.
func (s *session) receive(p *pgconn.Pipeline, queries []query, prepares []bool) error {
	var first error
	for i := range queries {
		q := &queries[i]
		if prepares[i] {
			if _, err := p.GetResults(); err != nil {
				unprepare(queries[i:], prepares[i:])
				return s.failed(q, err)
			}
			s.prepared++
		}
		results, err := p.GetResults()
		if err != nil {
			unprepare(queries[i+1:], prepares[i+1:])
			return s.failed(q, err)
		}
		reader, ok := results.(*pgconn.ResultReader)
		if !ok {
			return fmt.Errorf("apply: unexpected %T in the pipeline", results)
		}
		tag, err := reader.Close()
		if err != nil {
			unprepare(queries[i+1:], prepares[i+1:])
			return s.failed(q, err)
		}
		if first == nil && q.rows != anyRows && tag.RowsAffected() != q.rows {
			first = &failure{query: q, rows: tag.RowsAffected()}
		}
	}
	return first
}

func unprepare(queries []query, prepares []bool) {
	for i := range queries {
		if prepares[i] {
			queries[i].statement.name = ""
		}
	}
}

// failed tells what the server said of a query from the loss of the connection.
func (s *session) failed(q *query, err error) error {
	if _, said := errors.AsType[*pgconn.PgError](err); said {
		return &failure{query: q, err: err}
	}
	return fmt.Errorf("apply: %w", err)
}

// forget drops all prepared statements. Queries that wait to be sent hold on to theirs, which is prepared again then.
func (s *session) forget(ctx context.Context) error {
	if _, err := s.conn.PgConn().Exec(ctx, "DEALLOCATE ALL").ReadAll(); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	for _, st := range s.statements {
		st.name, st.describe = "", nil
	}
	clear(s.statements)
	s.prepared = 0
	return nil
}

// recordQuery builds the query that stores the position. Its parameters may be of any type, so the server is asked
// for them once per statement.
func (s *session) recordQuery(ctx context.Context, end *position) (query, error) {
	sql, args := end.recorder.Record(end.lsn, end.commitTime)
	st := s.statement(sql)
	if st.describe == nil {
		s.names++
		name := "slipway_" + strconv.Itoa(s.names)
		description, err := s.conn.PgConn().Prepare(ctx, name, sql, nil)
		if err != nil {
			return query{}, fmt.Errorf("prepare the record of the position: %w", err)
		}
		st.name, st.describe = name, description
		s.prepared++
	}
	builder := pgx.ExtendedQueryBuilder{}
	if err := builder.Build(s.conn.TypeMap(), st.describe, args); err != nil {
		return query{}, fmt.Errorf("encode the record of the position: %w", err)
	}
	return query{statement: st, values: builder.ParamValues, formats: builder.ParamFormats, rows: 1, record: true}, nil
}

// exec runs one statement without parameters and returns what it is reported as.
func (s *session) exec(ctx context.Context, sql string) (tag string, err error) {
	results, err := s.conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", err
	}
	return results[0].CommandTag.String(), nil
}
