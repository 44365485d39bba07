package precheck

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// sourceConnection opens the session that all server items of the source use.
func (r *runner) sourceConnection(ctx context.Context, f *finding) error {
	names := []string{}
	for _, d := range r.Databases {
		names = append(names, d.Source)
	}
	s, err := r.connectServer(ctx, f, Source, r.Config.Source, names)
	r.source = s
	if err != nil || s == nil || len(r.Databases) > 0 {
		return err
	}
	databases, err := schema.ListDatabases(ctx, s.conn)
	if err != nil {
		return err
	}
	for _, database := range databases {
		r.Databases = append(r.Databases, Database{Source: database.Name, Target: database.Name, Create: true})
	}
	if len(databases) == 0 {
		f.fail("the source has no user database", "CREATE DATABASE app; -- on the source; or name one with --database")
	}
	return nil
}

// targetConnection opens the session that all server items of the target use.
func (r *runner) targetConnection(ctx context.Context, f *finding) error {
	names := []string{}
	for _, d := range r.Databases {
		names = append(names, d.Target)
	}
	s, err := r.connectServer(ctx, f, Target, r.Config.Target, names)
	r.target = s
	return err
}

func (r *runner) connectServer(ctx context.Context, f *finding, side Side, e postgres.Endpoint, names []string) (*server, error) {
	f.looked = fmt.Sprintf("a session on %s", e)
	// A database that is not there is the matter of another item: any other one tells about the server.
	s, err := open(ctx, side, e, append(names, e.Database(), "postgres", "template1"))
	if err != nil {
		connectFault(f, e, side, err)
		return nil, nil
	}
	f.note(fmt.Sprintf("PostgreSQL %s, role %s", s.version, s.role.Name))
	return s, nil
}

// connectFault tells at which layer a connection failed, and what changes that.
func connectFault(f *finding, e postgres.Endpoint, side Side, err error) {
	user, database := postgres.QuoteIdent(e.User()), postgres.QuoteIdent(e.Database())
	said := serverSaid(err)
	switch postgres.ConnectFault(err) {
	case postgres.FaultUnreachable:
		f.fail("unreachable: "+said, "ALTER SYSTEM SET listen_addresses = '*'; -- then restart, and open the server's port in firewalls for this machine")
	case postgres.FaultTLS:
		f.fail("TLS: "+said,
			"ALTER SYSTEM SET ssl = on; -- with ssl_cert_file and ssl_key_file, then SELECT pg_reload_conf(); when the server has no TLS",
			"sslrootcert=/path/to/ca.crt # in the URI, when the certificate is signed by an own authority")
	case postgres.FaultLogin:
		f.fail("login refused: "+said,
			fmt.Sprintf(`\password %s -- in psql, when the password is wrong`, user),
			fmt.Sprintf("CREATE ROLE %s LOGIN; -- when the role is not there", user),
			fmt.Sprintf("host %s %s <this machine's address>/32 scram-sha-256 # in pg_hba.conf, then SELECT pg_reload_conf();", database, user))
	case postgres.FaultDatabase:
		databaseFault(f, e, side, err)
	case postgres.FaultLimit:
		f.fail("no free connection: "+said,
			"ALTER SYSTEM SET max_connections = 200; -- then restart",
			fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT -1;", user),
			fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT -1;", database))
	case postgres.FaultStarting:
		f.fail("the server is starting or shutting down: "+said, "pg_isready -h <host> -p <port> # until it says: accepting connections")
	default:
		f.fail(said, "slipway migrate check # again, when the cause is gone")
	}
}

func databaseFault(f *finding, e postgres.Endpoint, side Side, err error) {
	user, database := postgres.QuoteIdent(e.User()), postgres.QuoteIdent(e.Database())
	switch {
	case postgres.Code(err) == "42501":
		f.fail("no CONNECT privilege: "+serverSaid(err), fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s;", database, user))
	case side == Target:
		f.fail(fmt.Sprintf("database %s does not exist on the target", e.Database()),
			fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0;", database))
	default:
		f.fail(fmt.Sprintf("database %s does not exist on the source", e.Database()),
			"SELECT datname FROM pg_catalog.pg_database; -- shows the names to choose from with --database")
	}
}

// serverSaid is the server's own message, or the driver's, which both hold no password.
func serverSaid(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.Join(strings.Fields(pgErr.Message+" "+postgres.Detail(pgErr)), " ")
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// directConnection compares the process id of the session's startup with that of its backend: a pooler hands out ids
// of its own. Behind one, settings, advisory locks and snapshots belong to whoever gets the backend next.
func (r *runner) directConnection(ctx context.Context, f *finding) error {
	for _, s := range []*server{r.source, r.target} {
		var pid uint32
		if err := s.conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
			return err
		}
		if pid != s.conn.PgConn().PID() {
			f.fail(fmt.Sprintf("a connection pooler stands between us and the %s: snapshots, session settings and replication do not pass it", s.side),
				fmt.Sprintf("--%s postgres://%s@<address of the PostgreSQL server itself>/%s", s.side, s.role.Name, s.endpoint.Database()))
		}
	}
	return nil
}

// replicationConnection opens a real walsender session, because only that proves pg_hba.conf, the role's right and a
// free walsender at once.
func (d *database) replicationConnection(ctx context.Context, f *finding) error {
	endpoint := d.Config.Source.WithDatabase(d.names.Source)
	conn, err := endpoint.ConnectReplication(ctx, "check")
	if err == nil {
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it only asked
		_, err = conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
		return err
	}
	user := postgres.QuoteIdent(endpoint.User())
	switch postgres.Code(err) {
	case "42501":
		grant, errGrant := d.source.replicationGrant(ctx)
		if errGrant != nil {
			return errGrant
		}
		f.fail(fmt.Sprintf("role %s may not replicate: %s", endpoint.User(), serverSaid(err)), grant)
	case "53300":
		f.fail("no free walsender: "+serverSaid(err), "ALTER SYSTEM SET max_wal_senders = 20; -- then restart")
	case "28000", "28P01":
		f.fail("a replication session is refused: "+serverSaid(err),
			fmt.Sprintf("host %s %s <this machine's address>/32 scram-sha-256 # in pg_hba.conf, then SELECT pg_reload_conf();",
				postgres.QuoteIdent(d.names.Source), user))
	default:
		connectFault(f, endpoint, Source, err)
	}
	return nil
}

func (d *database) openSource(ctx context.Context, f *finding) error {
	endpoint := d.Config.Source.WithDatabase(d.names.Source)
	f.looked = "database " + d.names.Source + " of the source"
	conn, err := session(ctx, endpoint)
	if err != nil {
		connectFault(f, endpoint, Source, err)
		return nil
	}
	d.sourceDB = conn
	return nil
}

func (d *database) openTarget(ctx context.Context, f *finding) error {
	endpoint := d.Config.Target.WithDatabase(d.names.Target)
	f.looked = "database " + d.names.Target + " of the target"
	conn, err := session(ctx, endpoint)
	switch {
	case err == nil:
		d.targetDB = conn
		return d.isTemplate(ctx, f)
	case postgres.Code(err) == "3D000" && d.names.Create:
		f.note("it is not there and will be created")
	default:
		connectFault(f, endpoint, Target, err)
	}
	return nil
}

// isTemplate refuses a database that later CREATE DATABASE statements copy from.
func (d *database) isTemplate(ctx context.Context, f *finding) error {
	var template bool
	err := d.targetDB.QueryRow(ctx, `SELECT datistemplate FROM pg_database WHERE datname = current_database()`).Scan(&template)
	if err == nil && template {
		f.fail(d.names.Target+" is a template: every database created later would get a copy of what is moved there",
			fmt.Sprintf("--database %s:<another name>", shellQuote(d.names.Source)))
	}
	return err
}

// distinct refuses to copy a database onto itself.
func (d *database) distinct(ctx context.Context, f *finding) error {
	if d.targetDB == nil {
		f.note("the target database is not there yet")
		return nil
	}
	source, err := identify(ctx, d.sourceDB, d.source.version)
	if err != nil {
		return err
	}
	target, err := identify(ctx, d.targetDB, d.target.version)
	if err != nil {
		return err
	}
	f.looked = fmt.Sprintf("system identifiers %s and %s", source.System, target.System)
	another := fmt.Sprintf("--database %s:<another name> # or another server with --target", shellQuote(d.names.Source))
	switch {
	case source.System == target.System && source.Started == target.Started && source.OID == target.OID:
		f.fail("source and target are the same database of the same server", another)
	case source.System == target.System && source.Timeline == target.Timeline && source.Recovery && source.OID == target.OID:
		f.fail("the source is a standby of the target: what is written to the target would change the source", another)
	}
	return nil
}

// identity is what tells two servers apart. Clones by base backup share the system identifier, so that the time of
// the start counts as well.
type identity struct {
	System   string
	Timeline int64
	Started  string
	OID      uint32
	Recovery bool
}

func identify(ctx context.Context, conn *pgx.Conn, version postgres.Version) (identity, error) {
	system := `(SELECT system_identifier::text FROM pg_control_system()), (SELECT timeline_id::bigint FROM pg_control_checkpoint())`
	if version < 90600 {
		system = `'', 0::bigint`
	}
	var id identity
	query := func(system string) error {
		return conn.QueryRow(ctx, `SELECT `+system+`, pg_postmaster_start_time()::text, d.oid, pg_is_in_recovery()
			FROM pg_database d WHERE d.datname = current_database()`).
			Scan(&id.System, &id.Timeline, &id.Started, &id.OID, &id.Recovery)
	}
	err := query(system)
	if postgres.Code(err) == "42501" { // a provider may have taken the right away: the start time in microseconds remains
		err = query(`'', 0::bigint`)
	}
	return id, err
}
