package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
)

// emptyAtOnce bounds the length of one statement.
const emptyAtOnce = 500

// Empty truncates tables on the target that are to be copied anew: these tables alone, not what inherits from them.
func Empty(ctx context.Context, conn *pgx.Conn, tables []schema.Name) error {
	for chunk := range slices.Chunk(tables, emptyAtOnce) {
		names := make([]string, len(chunk))
		for i, t := range chunk {
			names[i] = "ONLY " + t.SQL()
		}
		if _, err := conn.Exec(ctx, "TRUNCATE "+strings.Join(names, ", ")); err != nil {
			return fmt.Errorf("empty tables on the target: %w", err)
		}
	}
	return nil
}
