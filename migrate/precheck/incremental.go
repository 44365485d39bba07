package precheck

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

func (r *runner) walLevel(_ context.Context, f *finding) error {
	level := r.source.settings["wal_level"].Value
	f.looked = "wal_level = " + level
	if level != "logical" {
		f.fail("the source's WAL does not hold what is needed to follow changes", "ALTER SYSTEM SET wal_level = 'logical'; -- then restart the source")
	}
	return nil
}

// ownSlots are the slots that resumed jobs of ours hold already.
func (r *runner) ownSlots() []string {
	slots := []string{}
	for _, d := range r.Databases {
		if d.JobID != "" {
			slots = append(slots, namePrefix+d.JobID)
		}
	}
	return slots
}

// replicationSlots wants a permanent slot per database, and one more that is there only while a table is copied again
// under a new snapshot.
func (r *runner) replicationSlots(ctx context.Context, f *finding) error {
	var used, own int
	err := r.source.conn.QueryRow(ctx, `SELECT count(*)::int, count(*) FILTER (WHERE slot_name = ANY($1::text[]))::int
		FROM pg_replication_slots`, r.ownSlots()).Scan(&used, &own)
	if err != nil {
		return err
	}
	limit, databases := r.source.number("max_replication_slots"), len(r.Databases)
	f.looked = fmt.Sprintf("max_replication_slots = %d, %d in use; %d needed", limit, used, databases-own+1)
	missing := used - own + databases + 1 - limit
	if missing <= 0 {
		return nil
	}
	f.fail(fmt.Sprintf("a slot per database and one for tables that are copied again are needed, and %d are missing", missing),
		fmt.Sprintf("ALTER SYSTEM SET max_replication_slots = %d; -- then restart the source", limit+missing))
	idle, err := texts(ctx, r.source.conn, `SELECT slot_name FROM pg_replication_slots
		WHERE NOT active AND slot_name <> ALL($1::text[]) ORDER BY slot_name`, r.ownSlots())
	for _, name := range idle {
		f.objects = append(f.objects, name)
		f.fix = append(f.fix, fmt.Sprintf("SELECT pg_drop_replication_slot(%s); -- it is idle: only when nobody needs it", strings.TrimSpace(postgres.QuoteLiteral(name))))
	}
	return err
}

// walSenders wants a sender per database while it is followed, and one for a snapshot that is held.
func (r *runner) walSenders(ctx context.Context, f *finding) error {
	var used int
	err := r.source.conn.QueryRow(ctx, `SELECT count(*)::int FROM pg_stat_get_wal_senders()`).Scan(&used)
	if err != nil {
		return err
	}
	limit, need := r.source.number("max_wal_senders"), len(r.Databases)+1
	f.looked = fmt.Sprintf("max_wal_senders = %d, %d in use; %d needed", limit, used, need)
	if missing := used + need - limit; missing > 0 && !r.resumes() {
		f.fail(fmt.Sprintf("a walsender per database and one for the snapshot are needed, and %d are missing", missing),
			fmt.Sprintf("ALTER SYSTEM SET max_wal_senders = %d; -- then restart the source", limit+missing))
	}
	return nil
}

// resumes tells that every database continues a job, whose senders may still be connected.
func (r *runner) resumes() bool { return len(r.ownSlots()) == len(r.Databases) }

// plugin is the output plugin that changes are read with.
func (r *runner) plugin() string {
	if r.TestDecoding || !r.source.version.AtLeast(10) {
		return "test_decoding"
	}
	return "pgoutput"
}

// outputPlugin reads the list of allowed plugins, which minor releases of August 2026 brought. ALTER SYSTEM with one
// quoted string would make a single name of it.
func (r *runner) outputPlugin(_ context.Context, f *finding) error {
	allowed, exists := r.source.settings["output_plugin_libraries"]
	if !exists {
		f.looked = "this release allows every output plugin"
		return nil
	}
	f.looked = "output_plugin_libraries = " + allowed.Value
	names := splitNames(allowed.Value)
	if slices.Contains(names, r.plugin()) {
		return nil
	}
	f.fail("the source does not allow "+r.plugin(), fmt.Sprintf("ALTER SYSTEM SET output_plugin_libraries = %s; -- then SELECT pg_reload_conf();",
		postgres.QuoteIdents(append(names, r.plugin()))))
	return nil
}

// splitNames reads a setting that is a list of names: separated by commas, each quoted where it needs to be.
func splitNames(list string) []string {
	names := []string{}
	for _, name := range strings.Split(list, ",") {
		name = strings.TrimSpace(name)
		if unquoted, quoted := strings.CutPrefix(name, `"`); quoted {
			name = strings.ReplaceAll(strings.TrimSuffix(unquoted, `"`), `""`, `"`)
		}
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// walRetention names settings that take the slot away when we stand still for long.
func (r *runner) walRetention(_ context.Context, f *finding) error {
	looked := []string{}
	if r.source.has("max_slot_wal_keep_size") {
		kept := r.source.number("max_slot_wal_keep_size") // MB; -1 without bound
		looked = append(looked, fmt.Sprintf("max_slot_wal_keep_size = %d MB", kept))
		if kept >= 0 {
			f.warn(fmt.Sprintf("when more than %d MB of WAL wait for us, the slot is lost and the migration starts over", kept),
				"ALTER SYSTEM SET max_slot_wal_keep_size = -1; -- while the migration runs, then SELECT pg_reload_conf();")
		}
	}
	if r.source.has("idle_replication_slot_timeout") {
		limit := r.source.settings["idle_replication_slot_timeout"]
		looked = append(looked, "idle_replication_slot_timeout = "+limit.Value+limit.Unit)
		if r.source.number("idle_replication_slot_timeout") > 0 {
			f.warn("a stopped migration loses its slot after "+limit.Value+limit.Unit+" and starts over",
				"ALTER SYSTEM SET idle_replication_slot_timeout = 0; -- while the migration runs, then SELECT pg_reload_conf();")
		}
	}
	if len(looked) > 0 {
		f.looked = strings.Join(looked, ", ")
	} else {
		f.looked = "this version keeps all WAL that a slot needs"
	}
	return nil
}

// synchronousStandbys: the server counts every session that reads its log, a logical one too, when the list takes its
// application_name, and makes commits wait until it has confirmed them.
func (r *runner) synchronousStandbys(_ context.Context, f *finding) error {
	names := r.source.settings["synchronous_standby_names"].Value
	f.looked = "synchronous_standby_names = '" + names + "'"
	if strings.Contains(names, "*") {
		f.warn("the list takes any session that reads the log: commits on the source may wait for this migration",
			"ALTER SYSTEM SET synchronous_standby_names = 'standby1'; -- the application_name of each standby, while the migration runs, then SELECT pg_reload_conf();")
	}
	return nil
}

// targetWorkers matters to subscriptions of the server itself only: we apply changes in ordinary sessions.
func (r *runner) targetWorkers(ctx context.Context, f *finding) error {
	if !r.target.has("max_logical_replication_workers") {
		return nil
	}
	workers, logical := r.target.number("max_worker_processes"), r.target.number("max_logical_replication_workers")
	f.looked = fmt.Sprintf("max_worker_processes = %d, max_logical_replication_workers = %d", workers, logical)
	// Column by column: the connection strings of subscriptions are readable by superusers only.
	var subscriptions int
	if err := r.target.conn.QueryRow(ctx, `SELECT count(oid)::int FROM pg_subscription`).Scan(&subscriptions); err != nil {
		if postgres.Code(err) != "42501" {
			return err
		}
		f.note("whether the target has subscriptions is not known")
	}
	switch {
	case subscriptions > 0 && workers <= logical:
		f.warn(fmt.Sprintf("%s of the target's own may take every background worker", plural(subscriptions, "subscription")),
			fmt.Sprintf("ALTER SYSTEM SET max_worker_processes = %d; -- then restart the target", logical+4))
	case subscriptions == 0:
		f.note("changes are applied in ordinary sessions, which need no background workers")
	}
	return nil
}

// unloggedTables are not in the WAL: their rows would be copied once and changes lost without a word.
func (d *database) unloggedTables(_ context.Context, f *finding) error {
	fix := []string{}
	for _, t := range d.catalog.Tables {
		if t.Unlogged && t.Kind == schema.Ordinary {
			f.objects = append(f.objects, t.String())
			fix = append(fix, fmt.Sprintf("ALTER TABLE %s SET LOGGED;", t.SQL()), excludeOption(t.Schema, t.Name.Name))
		}
	}
	if len(f.objects) > 0 {
		f.fail(plural(len(f.objects), "unlogged table")+": their changes are not in the WAL and cannot be followed", fix...)
	}
	return nil
}

// connections asks both servers for room: the jobs, the stream, the job's own session and a spare one.
func (r *runner) connections(ctx context.Context, f *finding) error {
	need := r.Jobs + 3
	looked := []string{}
	for _, s := range []*server{r.source, r.target} {
		if r.resumes() {
			f.looked = "the resumed job has its sessions already"
			return nil
		}
		free, err := s.freeConnections(ctx)
		if err != nil {
			return err
		}
		looked = append(looked, fmt.Sprintf("%s: %d of %d free", s.side, free, s.number("max_connections")))
		s.connectionRoom(f, free, need)
		if err := s.databaseRoom(ctx, f, r.names(s.side), need); err != nil {
			return err
		}
	}
	f.looked = fmt.Sprintf("%s; %d needed on each", strings.Join(looked, ", "), need)
	return nil
}

func (r *runner) names(side Side) []string {
	names := []string{}
	for _, d := range r.Databases {
		if side == Source {
			names = append(names, d.Source)
		} else {
			names = append(names, d.Target)
		}
	}
	return names
}

// freeConnections counts what this role may still take: the reserved ones are not for us unless we are superuser.
func (s *server) freeConnections(ctx context.Context) (int, error) {
	var used int
	backends := `SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend'`
	if !s.version.AtLeast(10) {
		backends = `SELECT count(*)::int FROM pg_stat_activity`
	}
	if err := s.conn.QueryRow(ctx, backends).Scan(&used); err != nil {
		return 0, err
	}
	free := s.number("max_connections") - used
	if !s.role.Superuser {
		free -= s.number("superuser_reserved_connections") + s.number("reserved_connections")
	}
	return free, nil
}

func (s *server) connectionRoom(f *finding, free, need int) {
	limit := s.number("max_connections")
	switch {
	case free < 3: // two sessions and the stream are the least that works
		f.fail(fmt.Sprintf("the %s has %d free connections, 3 are the least", s.side, max(free, 0)),
			fmt.Sprintf("ALTER SYSTEM SET max_connections = %d; -- then restart the %s", limit+need, s.side))
	case free < need:
		f.warn(fmt.Sprintf("the %s has %d free connections, %d would be used", s.side, free, need),
			fmt.Sprintf("--jobs %d", max(1, free-3)),
			fmt.Sprintf("ALTER SYSTEM SET max_connections = %d; -- then restart the %s", limit+need, s.side))
	}
}

// databaseRoom looks at the connection limits of the role and of each database.
func (s *server) databaseRoom(ctx context.Context, f *finding, names []string, need int) error {
	if s.role.Superuser {
		return nil // neither limit holds for superusers
	}
	type limit struct {
		Name string
		Free int
	}
	limits, err := rowsOf[limit](ctx, s.conn, `
		SELECT 'DATABASE ' || quote_ident(d.datname), d.datconnlimit - (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid)::int
		FROM pg_database d WHERE d.datname = ANY($1::text[]) AND d.datconnlimit >= 0
		UNION ALL
		SELECT 'ROLE ' || quote_ident(r.rolname), r.rolconnlimit - (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid)::int
		FROM pg_roles r WHERE r.rolname = current_user AND r.rolconnlimit >= 0`, names)
	if err != nil {
		return err
	}
	for _, l := range limits {
		if l.Free >= need {
			continue
		}
		reason := fmt.Sprintf("CONNECTION LIMIT of %s on the %s leaves %d, %d would be used", l.Name, s.side, max(l.Free, 0), need)
		fix := []string{fmt.Sprintf("ALTER %s CONNECTION LIMIT -1;", l.Name)}
		if l.Free < 3 {
			f.fail(reason, fix...)
		} else {
			f.warn(reason, append(fix, fmt.Sprintf("--jobs %d", max(1, l.Free-3)))...)
		}
	}
	return nil
}
