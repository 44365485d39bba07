package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// keptOnDrop are entries that may have been there before, or that others may use by now.
var keptOnDrop = map[string]bool{"EXTENSION": true, "PROCEDURAL LANGUAGE": true}

// Drop removes from the target the objects that created names by key, the last one first, by pg_dump's own statements
// and never with CASCADE: what something else depends on by now stays and is returned in kept, with the reason.
func (a *Archive) Drop(ctx context.Context, conn *pgx.Conn, created map[string]bool) (dropped int, kept []string, err error) {
	for i := len(a.Entries) - 1; i >= 0; i-- {
		e := a.Entries[i]
		if !created[e.Key()] || e.DropSQL == "" {
			continue
		}
		if keptOnDrop[e.Desc] || e.Desc == "SCHEMA" && e.Tag == "public" {
			kept = append(kept, e.String())
			continue
		}
		_, err := conn.PgConn().Exec(ctx, e.DropSQL).ReadAll()
		switch code := postgres.Code(err); {
		case err == nil:
			dropped++
		case code == "" || postgres.Retryable(err):
			return dropped, kept, fmt.Errorf("drop %s: %w", e, err)
		case code == "42P01" || code == "42704" || code == "42883" || code == "3F000":
			// gone with the object that it belonged to
		default:
			kept = append(kept, fmt.Sprintf("%s: %v", e, err))
		}
	}
	return dropped, kept, nil
}
