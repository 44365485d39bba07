package cutover

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-db/slipway/migrate/schema"
)

// Analyze collects the planner's statistics of the tables, several at a time.
func Analyze(ctx context.Context, connect func(context.Context) (*pgx.Conn, error), tables []schema.Name, jobs int) error {
	queue := make(chan schema.Name, len(tables))
	for _, t := range tables {
		queue <- t
	}
	close(queue)
	group, ctx := errgroup.WithContext(ctx)
	for range min(jobs, len(tables)) {
		group.Go(func() error {
			conn, err := connect(ctx)
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			for t := range queue {
				if _, err := conn.Exec(ctx, "ANALYZE "+t.SQL()); err != nil {
					return fmt.Errorf("analyze %s: %w", t, err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// Refresh fills materialized views in the given order, which must be that of their dependencies.
func Refresh(ctx context.Context, conn *pgx.Conn, views []schema.Name) error {
	for _, v := range views {
		if _, err := conn.Exec(ctx, "REFRESH MATERIALIZED VIEW "+v.SQL()); err != nil {
			return fmt.Errorf("refresh materialized view %s: %w", v, err)
		}
	}
	return nil
}
