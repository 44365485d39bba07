package precheck

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// server is one side, with what every check wants to know of it.
type server struct {
	side     Side
	endpoint postgres.Endpoint
	conn     *pgx.Conn
	// version, role and settings are read once.
	version  postgres.Version
	role     role
	settings map[string]setting
	recovery bool
}

// role is the user that the migration logs in as.
type role struct {
	Name                                                    string
	Superuser, Replication, CreateDB, CreateRole, BypassRLS bool
	ConnLimit                                               int
}

// setting is one row of pg_settings. Value is what a new session of this user and database starts with: our own
// sessions override some.
type setting struct{ Value, Unit string }

// session opens a read-only session: a check that would write is refused by the server itself. It does not wait long
// for a catalog that somebody holds locked.
func session(ctx context.Context, endpoint postgres.Endpoint) (*pgx.Conn, error) {
	return endpoint.Connect(ctx, postgres.Session{Name: "check", Settings: map[string]string{
		"default_transaction_read_only": "on",
		"lock_timeout":                  "10s",
	}})
}

// open connects to the first of the databases that is there and reads the facts. A database that is missing is an item
// of its own and no reason to know nothing about the server.
func open(ctx context.Context, side Side, endpoint postgres.Endpoint, databases []string) (*server, error) {
	var first error
	for _, name := range databases {
		s := &server{side: side, endpoint: endpoint.WithDatabase(name)}
		conn, err := session(ctx, s.endpoint)
		if err == nil {
			s.conn = conn
			return s, s.read(ctx)
		}
		if first == nil {
			first = err
		}
		if postgres.ConnectFault(err) != postgres.FaultDatabase {
			return nil, err
		}
	}
	return nil, first
}

func (s *server) read(ctx context.Context) error {
	version, err := postgres.ServerVersion(s.conn)
	if err != nil {
		return err
	}
	s.version = version
	bypass := "rolbypassrls"
	if version < 90500 { // row security came with 9.5
		bypass = "rolsuper"
	}
	err = s.conn.QueryRow(ctx, `SELECT rolname, rolsuper, rolreplication, rolcreatedb, rolcreaterole, `+bypass+`,
		rolconnlimit, pg_is_in_recovery() FROM pg_roles WHERE rolname = current_user`).
		Scan(&s.role.Name, &s.role.Superuser, &s.role.Replication, &s.role.CreateDB, &s.role.CreateRole,
			&s.role.BypassRLS, &s.role.ConnLimit, &s.recovery)
	if err != nil {
		return fmt.Errorf("read the role: %w", err)
	}
	s.settings, err = readSettings(ctx, s.conn)
	return err
}

// readSettings takes reset_val, which is what the session would have without our own SET.
func readSettings(ctx context.Context, conn *pgx.Conn) (map[string]setting, error) {
	rows, err := conn.Query(ctx, `SELECT lower(name), coalesce(reset_val, ''), coalesce(unit, '')
		FROM pg_catalog.pg_settings`)
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	settings := map[string]setting{}
	var name string
	var value setting
	_, err = pgx.ForEachRow(rows, []any{&name, &value.Value, &value.Unit}, func() error {
		settings[name] = value
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	return settings, nil
}

// has tells whether the server's version knows the setting.
func (s *server) has(name string) bool { _, ok := s.settings[name]; return ok }

// number is an integer setting in its own unit, 0 when the version does not have it.
func (s *server) number(name string) int {
	n, _ := strconv.Atoi(s.settings[name].Value) // pg_settings prints integers as integers
	return n
}

// database is one database while it is looked at.
type database struct {
	*runner
	names    Database
	sourceDB *pgx.Conn
	// targetDB is nil when the target database is still to be created.
	targetDB *pgx.Conn
	catalog  *schema.Catalog
}

func (d *database) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	for _, conn := range []*pgx.Conn{d.sourceDB, d.targetDB} {
		if conn != nil {
			_ = conn.Close(ctx) // nothing was written, so nothing is lost
		}
	}
}

// texts runs a query of one text column.
func texts(ctx context.Context, conn *pgx.Conn, sql string, args ...any) ([]string, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// rowsOf runs a query whose columns are the fields of T in order.
func rowsOf[T any](ctx context.Context, conn *pgx.Conn, sql string, args ...any) ([]T, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}
