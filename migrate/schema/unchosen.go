package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Unchosen are the tables of the user that the catalog's selection does not take. pg_dump locks every table that it is
// not told to leave out, which needs a privilege on tables that nobody wants to move.
func (c *Catalog) Unchosen(ctx context.Context, conn *pgx.Conn) ([]Name, error) {
	if c.all {
		return nil, nil
	}
	var names []Name
	var n Name
	err := each(ctx, conn, `SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND `+userSchema+` ORDER BY 1, 2`,
		nil, []any{&n.Schema, &n.Name}, func() {
			if !c.Relations[n] {
				names = append(names, n)
			}
		})
	if err != nil {
		return nil, fmt.Errorf("read tables that are not chosen: %w", err)
	}
	return names, nil
}
