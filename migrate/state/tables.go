package state

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// Relation is the state of one table.
type Relation struct {
	OID uint32 // on the source, when its structure was copied
	// CopyLSN is the consistent point of the snapshot that the table was (or is being) copied under: transactions
	// whose commit record begins below it are in the copy.
	CopyLSN postgres.LSN
	Parts   int
	Copied  bool
	Indexed bool
}

// pieceSize keeps each row of the archive well below what one value may hold.
const pieceSize = 16 << 20

// Begin stores, in one transaction, all that a new snapshot decided: the slot's consistent point, the structure's
// archive and the tables, and moves to the next phase. Until it has committed, the slot counts as not made.
func (r *Runner) Begin(ctx context.Context, consistent postgres.LSN, archive []byte, tables []*schema.Table) error {
	chosen, oids := make([]schema.Name, len(tables)), make([]uint32, len(tables))
	for i, t := range tables {
		chosen[i], oids[i] = t.Name, t.OID
	}
	schemas, names := split(chosen)
	err := r.Do(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE slipway.job SET consistent = $1::text::pg_lsn, phase = $2`, consistent.String(), string(Structure))
		if err != nil {
			return err
		}
		// The stream starts at the consistent point: nothing before it is for us.
		if _, err := tx.Exec(ctx, `UPDATE slipway.progress SET lsn = $1::text::pg_lsn`, consistent.String()); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO slipway.relation (schema, name, source_oid) SELECT * FROM unnest($1::text[], $2::text[], $3::oid[])`, schemas, names, oids); err != nil {
			return err
		}
		for number := 0; number*pieceSize < len(archive); number++ {
			piece := archive[number*pieceSize : min((number+1)*pieceSize, len(archive))]
			if _, err := tx.Exec(ctx, `INSERT INTO slipway.archive VALUES ($1, $2)`, number, piece); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store the start of the migration: %w", err)
	}
	r.Job.Consistent, r.Job.Phase = consistent, Structure
	return nil
}

// Archive reads the stored archive of the source's structure.
func (r *Runner) Archive(ctx context.Context) (io.Reader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Archive(ctx, r.conn)
}

// Archive reads the stored archive over any session of the target.
func Archive(ctx context.Context, conn *pgx.Conn) (io.Reader, error) {
	rows, err := conn.Query(ctx, `SELECT piece FROM slipway.archive ORDER BY number`)
	if err != nil {
		return nil, fmt.Errorf("read the stored structure: %w", err)
	}
	pieces, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, fmt.Errorf("read the stored structure: %w", err)
	}
	return bytes.NewReader(bytes.Join(pieces, nil)), nil
}

// Relations reads the state of all tables.
func (r *Runner) Relations(ctx context.Context) (map[schema.Name]Relation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rows, err := r.conn.Query(ctx, `SELECT schema, name, source_oid, copy_lsn::text, parts, copied, indexed FROM slipway.relation`)
	if err != nil {
		return nil, fmt.Errorf("read the state of the tables: %w", err)
	}
	defer rows.Close()
	relations := map[schema.Name]Relation{}
	for rows.Next() {
		var name schema.Name
		var relation Relation
		if err := rows.Scan(&name.Schema, &name.Name, &relation.OID, &relation.CopyLSN, &relation.Parts, &relation.Copied, &relation.Indexed); err != nil {
			return nil, fmt.Errorf("read the state of the tables: %w", err)
		}
		relations[name] = relation
	}
	return relations, rows.Err()
}

// BeginCopy says that the tables are to be copied under a snapshot with that consistent point, in so many parts.
// What an earlier snapshot had copied of them is forgotten, and empty empties them, in the same transaction: a runner
// that was paused for long cannot empty what another one has filled since.
func (r *Runner) BeginCopy(ctx context.Context, parts map[schema.Name]int, lsn postgres.LSN, empty func(*pgx.Conn) error) error {
	tables := make([]schema.Name, 0, len(parts))
	numbers := make([]int32, 0, len(parts))
	for name, number := range parts {
		tables, numbers = append(tables, name), append(numbers, int32(number))
	}
	schemas, names := split(tables)
	err := r.Do(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM slipway.part p USING unnest($1::text[], $2::text[]) AS t(schema, name)
			WHERE p.schema = t.schema AND p.name = t.name`, schemas, names)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE slipway.relation r SET copy_lsn = $4::text::pg_lsn, parts = t.parts, copied = false, indexed = false
			FROM unnest($1::text[], $2::text[], $3::integer[]) AS t(schema, name, parts) WHERE r.schema = t.schema AND r.name = t.name`,
			schemas, names, numbers, lsn.String())
		if err != nil {
			return err
		}
		return empty(tx.Conn())
	})
	if err != nil {
		return fmt.Errorf("store the plan of the copy: %w", err)
	}
	return nil
}

// SetCopied says that all parts of a table are on the target. It fails when a part is missing.
func (r *Runner) SetCopied(ctx context.Context, table schema.Name) error {
	return r.setTable(ctx, table, `UPDATE slipway.relation r SET copied = true WHERE schema = $1 AND name = $2
		AND parts = (SELECT count(*) FROM slipway.part p WHERE p.schema = r.schema AND p.name = r.name)`)
}

// SetIndexed says that the indexes of a table are built.
func (r *Runner) SetIndexed(ctx context.Context, table schema.Name) error {
	return r.setTable(ctx, table, `UPDATE slipway.relation SET indexed = true WHERE schema = $1 AND name = $2 AND copied`)
}

func (r *Runner) setTable(ctx context.Context, table schema.Name, sql string) error {
	return r.Do(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, sql, table.Schema, table.Name)
		if err == nil && tag.RowsAffected() != 1 {
			err = fmt.Errorf("its parts are not complete")
		}
		if err != nil {
			return fmt.Errorf("store the state of table %s: %w", table, err)
		}
		return nil
	})
}

// Totals are the rows and bytes copied so far.
func (r *Runner) Totals(ctx context.Context) (rows, bytes int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err = r.conn.QueryRow(ctx, `SELECT coalesce(sum(rows), 0)::bigint, coalesce(sum(bytes), 0)::bigint FROM slipway.part`).Scan(&rows, &bytes)
	return rows, bytes, err
}

// Failure is an archive entry that could not be created.
type Failure struct {
	Key       string `json:"object"`
	Message   string `json:"error"`
	Statement string `json:"statement"`
}

// Entries reads which archive entries were created (true) or given up with a failure (false).
func (r *Runner) Entries(ctx context.Context) (done map[string]bool, failures []Failure, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Entries(ctx, r.conn)
}

// Entries reads them over any session of the target.
func Entries(ctx context.Context, conn *pgx.Conn) (done map[string]bool, failures []Failure, err error) {
	rows, err := conn.Query(ctx, `SELECT key, failure, statement FROM slipway.entry ORDER BY key`)
	if err != nil {
		return nil, nil, fmt.Errorf("read created objects: %w", err)
	}
	defer rows.Close()
	done = map[string]bool{}
	for rows.Next() {
		var f Failure
		if err := rows.Scan(&f.Key, &f.Message, &f.Statement); err != nil {
			return nil, nil, fmt.Errorf("read created objects: %w", err)
		}
		done[f.Key] = f.Message == ""
		if f.Message != "" {
			failures = append(failures, f)
		}
	}
	return done, failures, rows.Err()
}

func split(tables []schema.Name) (schemas, names []string) {
	schemas, names = make([]string, len(tables)), make([]string, len(tables))
	for i, t := range tables {
		schemas[i], names[i] = t.Schema, t.Name
	}
	return schemas, names
}

// Done tells which of the archive entries are created or given up; see schema.Journal.
func (r *Runner) Done(ctx context.Context, conn *pgx.Conn, keys []string) (map[string]bool, error) {
	rows, err := conn.Query(ctx, `SELECT key FROM slipway.entry WHERE key = ANY ($1::text[])`, keys)
	if err != nil {
		return nil, fmt.Errorf("read created objects: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read created objects: %w", err)
	}
	done := make(map[string]bool, len(found))
	for _, key := range found {
		done[key] = true
	}
	return done, nil
}

// RecordKeys is the statement by which restore stores created archive entries in its own transaction; see schema.Journal.
// It affects no row when another runner took over.
func (r *Runner) RecordKeys(keys []string) (string, []any) {
	return `INSERT INTO slipway.entry (key)
		SELECT k FROM (SELECT FROM slipway.progress WHERE epoch = $2 FOR SHARE) AS current, unnest($1::text[]) AS k`,
		[]any{keys, r.Epoch}
}

// Undo takes an archive entry back: its statement and the forgetting of it are one transaction.
func (r *Runner) Undo(ctx context.Context, key, statement string) error {
	err := r.Do(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Conn().PgConn().Exec(ctx, statement).ReadAll(); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM slipway.entry WHERE key = $1`, key)
		return err
	})
	if err != nil {
		return fmt.Errorf("take back %s: %w", key, err)
	}
	return nil
}
