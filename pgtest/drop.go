package pgtest

import (
	"testing"

	"github.com/slipway-db/slipway/postgres"
)

// drop removes a database of a shared server, with the sessions, prepared transactions and subscriptions of its
// test. Left-over replication slots fail the test: they would hold back WAL and vacuum of a real source for ever.
func (d *Database) drop(t testing.TB) {
	if d.Server.Pid() == 0 {
		t.Errorf("the shared server of database %q was stopped; a test that stops servers starts its own", d.Name)
		return
	}
	postgresDB := d.Server.Maintenance()
	d.dropSlots(t)
	if postgresDB.Int(t, `SELECT count(*) FROM pg_database WHERE datname = $1`, d.Name) == 0 {
		return // the test dropped or renamed it
	}
	d.dropDependents(t)
	if d.Server.Major() >= 13 {
		postgresDB.Exec(t, "DROP DATABASE "+postgres.QuoteIdent(d.Name)+" WITH (FORCE)")
		return
	}
	Eventually(t, patience, "sessions of "+d.Name+" end", func() bool {
		return postgresDB.Int(t, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1`, d.Name) == 0
	})
	postgresDB.Exec(t, "DROP DATABASE "+postgres.QuoteIdent(d.Name))
}

func (d *Database) dropSlots(t testing.TB) {
	postgresDB := d.Server.Maintenance()
	for _, slot := range postgresDB.Strings(t, `SELECT slot_name FROM pg_replication_slots WHERE database = $1 AND NOT temporary`, d.Name) {
		t.Errorf("replication slot %q was left in database %q", slot, d.Name)
		Eventually(t, patience, "slot "+slot+" is released", func() bool {
			return postgresDB.Int(t, `SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots
				WHERE slot_name = $1 AND active_pid IS NOT NULL`, slot) == 0
		})
		postgresDB.Strings(t, `SELECT pg_drop_replication_slot($1)`, slot)
	}
}

// dropDependents removes what forbids DROP DATABASE and can only be removed from inside.
func (d *Database) dropDependents(t testing.TB) {
	postgresDB := d.Server.Maintenance()
	for _, gid := range postgresDB.Strings(t, `SELECT gid FROM pg_prepared_xacts WHERE database = $1`, d.Name) {
		d.Exec(t, "ROLLBACK PREPARED "+postgres.QuoteLiteral(gid))
	}
	for _, name := range postgresDB.Strings(t, `SELECT s.subname FROM pg_subscription s
			JOIN pg_database b ON b.oid = s.subdbid WHERE b.datname = $1`, d.Name) {
		ident := postgres.QuoteIdent(name)
		d.Exec(t, "ALTER SUBSCRIPTION "+ident+" DISABLE", "ALTER SUBSCRIPTION "+ident+" SET (slot_name = NONE)",
			"DROP SUBSCRIPTION "+ident)
	}
}
