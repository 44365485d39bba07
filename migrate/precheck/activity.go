package precheck

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/postgres"
)

// otherTask looks for migrations by somebody else: on the target, our schema with another job; on the source, slots and
// publications of ours for this database.
func (d *database) otherTask(ctx context.Context, f *finding) error {
	if d.targetDB != nil {
		if err := d.otherJob(ctx, f); err != nil {
			return err
		}
	}
	own := namePrefix + d.names.JobID
	type slot struct {
		Name   string
		Active bool
	}
	slots, err := rowsOf[slot](ctx, d.sourceDB, `SELECT slot_name::text, active FROM pg_replication_slots
		WHERE slot_name LIKE 'slipway\_%' AND slot_name <> $1 AND database = current_database() ORDER BY 1`, own)
	if err != nil {
		return err
	}
	for _, s := range slots {
		f.objects = append(f.objects, "slot "+s.Name)
		drop := fmt.Sprintf("SELECT pg_drop_replication_slot('%s'); -- on the source, only when its migration was given up", s.Name)
		if s.Active {
			f.warn("another migration follows this database now", "slipway migrate status --target <its target> # shows it")
		} else {
			f.warn("a slot of another migration holds WAL back on the source", drop)
		}
	}
	if !d.source.version.AtLeast(10) {
		return nil
	}
	publications, err := texts(ctx, d.sourceDB, `SELECT pubname::text FROM pg_publication
		WHERE pubname LIKE 'slipway\_%' AND pubname <> $1 AND pubname <> ALL (SELECT slot_name FROM pg_replication_slots) ORDER BY 1`, own)
	for _, name := range publications {
		f.objects = append(f.objects, "publication "+name)
		f.warn("a publication was left by a migration that has no slot any more",
			fmt.Sprintf("DROP PUBLICATION %s; -- on the source", postgres.QuoteIdent(name)))
	}
	return err
}

// otherJob reads the state that a target database may hold.
func (d *database) otherJob(ctx context.Context, f *finding) error {
	job, err := state.Read(ctx, d.targetDB)
	dropSchema := fmt.Sprintf("DROP SCHEMA %s CASCADE; -- on the target, only when nobody uses it", postgres.QuoteIdent(state.Schema))
	switch {
	case errors.Is(err, state.ErrNone):
		var foreign bool
		err := d.targetDB.QueryRow(ctx, `SELECT count(*) > 0 FROM pg_namespace WHERE nspname = $1`, state.Schema).Scan(&foreign)
		if err == nil && foreign {
			f.objects = append(f.objects, "schema "+state.Schema)
			f.fail("the target has a schema named "+state.Schema+", where the state of the migration has to go", dropSchema)
		}
		return err
	case err != nil:
		f.objects = append(f.objects, "schema "+state.Schema)
		f.fail("the state of another migration on the target cannot be read: "+serverSaid(err), dropSchema)
	case job.ID != d.names.JobID:
		f.objects = append(f.objects, "job "+job.ID)
		f.fail(fmt.Sprintf("the target database belongs to migration %s from %s (phase %s)", job.ID, job.Source.Endpoint, job.Phase),
			"slipway migrate abort # with the source and target of that migration", dropSchema)
	}
	return nil
}

// transaction is an open transaction of the source.
type transaction struct {
	PID         int
	User        string
	Database    string
	Application string
	Started     time.Time
	Seconds     int
	State       string
	WaitsFor    bool // has a transaction id of its own: the slot is made only when it has ended
}

// longTransactions names what a new slot has to wait for: every transaction with an id, in any database.
func (r *runner) longTransactions(ctx context.Context, f *finding) error {
	threshold := int(r.LongTransaction.Seconds())
	f.looked = fmt.Sprintf("transactions older than %s, and prepared ones", r.LongTransaction)
	open, err := rowsOf[transaction](ctx, r.source.conn, `
		SELECT pid, coalesce(usename::text, ''), coalesce(datname::text, ''), application_name, xact_start,
			extract(epoch FROM clock_timestamp() - xact_start)::int, coalesce(state, ''), backend_xid IS NOT NULL
		FROM pg_stat_activity
		WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid()
			AND clock_timestamp() - xact_start > make_interval(secs => $1::int)
			AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)
			AND application_name NOT LIKE 'slipway/%'
		ORDER BY xact_start`, threshold)
	if err != nil {
		return err
	}
	for _, t := range open {
		f.objects = append(f.objects, fmt.Sprintf("pid %d: %s@%s (%s), open since %s (%s), %s", t.PID, t.User, t.Database,
			t.Application, t.Started.UTC().Format(time.RFC3339), time.Duration(t.Seconds)*time.Second, t.State))
		reason := "transactions that only read hold vacuum back, and DDL of the migration may wait for them"
		if t.WaitsFor {
			reason = "the slot, and with it the whole migration, waits until transactions that write have ended"
		}
		f.warn(reason, fmt.Sprintf("SELECT pg_terminate_backend(%d); -- or let it end", t.PID))
	}
	return r.preparedTransactions(ctx, f)
}

// preparedTransactions have no session that could end by itself, so that a young one is named as well.
func (r *runner) preparedTransactions(ctx context.Context, f *finding) error {
	type prepared struct {
		GID, Owner, Database string
		Prepared             time.Time
	}
	all, err := rowsOf[prepared](ctx, r.source.conn, `SELECT gid, owner::text, database::text, prepared FROM pg_prepared_xacts ORDER BY prepared`)
	if err != nil {
		return err
	}
	for _, p := range all {
		f.objects = append(f.objects, fmt.Sprintf("prepared transaction %q of %s in %s, since %s", p.GID, p.Owner, p.Database,
			p.Prepared.UTC().Format(time.RFC3339)))
		gid := strings.TrimSpace(postgres.QuoteLiteral(p.GID))
		f.warn("the slot waits until prepared transactions are finished",
			fmt.Sprintf(`COMMIT PREPARED %s; -- or ROLLBACK PREPARED, in database %s`, gid, postgres.QuoteIdent(p.Database)))
	}
	return nil
}
