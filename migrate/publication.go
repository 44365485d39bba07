package migrate

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
)

// publicationStands is verifyPublication before a stream begins.
func (a *attempt) publicationStands(ctx context.Context) error {
	conn, err := a.connectSource(ctx, "publication")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return a.verifyPublication(ctx, conn)
}

// verifyPublication proves that the publication still carries every followed table whole. The server decodes each
// change by what the publication was at that time, so a table that was taken out loses changes without a word.
func (a *attempt) verifyPublication(ctx context.Context, conn *pgx.Conn) error {
	job := a.runner.Job
	if stream.Plugin(job.Plugin) != stream.Pgoutput {
		return nil
	}
	err := a.comparePublication(ctx, conn, a.catalog)
	if altered, ok := errors.AsType[*stream.PublicationError](err); !ok || len(altered.Missing) == 0 {
		return err
	}
	// A table that was dropped or renamed leaves by itself, which is for the stream and the completion to report.
	now, errLoad := schema.Load(ctx, conn, a.config.Selection)
	if errLoad != nil {
		return errLoad
	}
	return a.comparePublication(ctx, conn, now)
}

// comparePublication looks for the followed tables of a catalog in the publication. A table that was added to it hides
// nothing: the first change of it would stop the stream by name.
func (a *attempt) comparePublication(ctx context.Context, conn *pgx.Conn, catalog *schema.Catalog) error {
	relations, err := a.runner.Relations(ctx)
	if err != nil {
		return err
	}
	var names []schema.Name
	for _, name := range followed(catalog.Tables) {
		if _, copied := relations[name]; copied {
			names = append(names, name)
		}
	}
	err = stream.VerifyPublication(ctx, conn, a.runner.Job.Publication(), names)
	altered, ok := errors.AsType[*stream.PublicationError](err)
	if ok && !altered.Gone && len(altered.Missing)+len(altered.Altered) == 0 {
		return nil
	}
	return err
}
