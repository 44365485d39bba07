package schema

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// SequenceValue is where a sequence stands.
type SequenceValue struct {
	Name Name
	// LastValue is the value that was given out last, or, when IsCalled is false, the one that comes next.
	LastValue int64
	IsCalled  bool
}

const (
	// sequencesPerQuery bounds the locks of one statement: each sequence that is read takes one, and the server has
	// room for 64 per connection by default, shared by all.
	sequencesPerQuery = 500
	// setvalsPerBatch bounds what is in flight at once.
	setvalsPerBatch = 1000
)

// ReadSequenceValues reads where sequences stand, in the order given, a few hundred in a round trip. It wants no open
// transaction: one would keep a lock on every sequence until its end. A sequence that does not exist or may not be
// read is an error that names it.
func ReadSequenceValues(ctx context.Context, conn *pgx.Conn, sequences []Name) ([]SequenceValue, error) {
	values := make([]SequenceValue, 0, len(sequences))
	for chunk := range slices.Chunk(sequences, sequencesPerQuery) {
		var sql strings.Builder
		for i, name := range chunk {
			if i > 0 {
				sql.WriteString(" UNION ALL ")
			}
			fmt.Fprintf(&sql, "SELECT %d, last_value, is_called FROM %s", i, name.SQL())
		}
		var at int
		var v SequenceValue
		start := len(values)
		values = append(values, make([]SequenceValue, len(chunk))...)
		// The text differs each time: a prepared statement would only fill the cache.
		err := each(ctx, conn, sql.String(), []any{pgx.QueryExecModeDescribeExec}, []any{&at, &v.LastValue, &v.IsCalled},
			func() {
				values[start+at] = SequenceValue{Name: chunk[at], LastValue: v.LastValue, IsCalled: v.IsCalled}
			})
		if err != nil {
			return nil, fmt.Errorf("read values of sequences: %w", err)
		}
	}
	return values, nil
}

// SetSequenceValues sets sequences, pipelined. The effect of setval is not undone by a rollback, so a call that failed
// half-way has set those before the one in the error; calling it again is safe.
func SetSequenceValues(ctx context.Context, conn *pgx.Conn, values []SequenceValue) error {
	for chunk := range slices.Chunk(values, setvalsPerBatch) {
		batch := &pgx.Batch{}
		for _, v := range chunk {
			batch.Queue(`SELECT pg_catalog.setval($1::pg_catalog.text::pg_catalog.regclass, $2, $3)`,
				v.Name.SQL(), v.LastValue, v.IsCalled)
		}
		if err := sendSetvals(ctx, conn, batch, chunk); err != nil {
			return err
		}
	}
	return nil
}

func sendSetvals(ctx context.Context, conn *pgx.Conn, batch *pgx.Batch, values []SequenceValue) (err error) {
	results := conn.SendBatch(ctx, batch)
	defer func() { err = errors.Join(err, results.Close()) }()
	for _, v := range values {
		if _, err := results.Exec(); err != nil {
			return fmt.Errorf("set sequence %s to %d: %w", v.Name, v.LastValue, err)
		}
	}
	return nil
}
