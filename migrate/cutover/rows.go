package cutover

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// ReplaceRows makes the rows that an extension keeps for the user in a configuration table equal to those of the
// source, in one transaction. The rows of the extension itself (those outside its condition) are left alone.
func ReplaceRows(ctx context.Context, source, target *pgx.Conn, table schema.ConfigTable) error {
	names := make([]string, 0, len(table.Columns))
	for _, c := range table.CopyColumns() {
		names = append(names, c.Name)
	}
	columns := postgres.QuoteIdents(names)
	read, write := io.Pipe()
	go func() {
		_, err := source.PgConn().CopyTo(ctx, write, fmt.Sprintf("COPY (SELECT %s FROM %s %s) TO STDOUT", columns, table.SQL(), table.Condition))
		write.CloseWithError(err) // nil ends the copy
	}()
	err := pgx.BeginFunc(ctx, target, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, strings.TrimSpace(fmt.Sprintf("DELETE FROM %s %s", table.SQL(), table.Condition))); err != nil {
			return err
		}
		_, err := tx.Conn().PgConn().CopyFrom(ctx, read, fmt.Sprintf("COPY %s (%s) FROM STDIN", table.SQL(), columns))
		return err
	})
	read.Close() // ends the reader of the source when the target refused
	if err != nil {
		return fmt.Errorf("rows of extension %s in %s: %w", table.Extension, table.Name, err)
	}
	return nil
}
