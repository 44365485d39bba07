// Package postgres knows one PostgreSQL server: how to reach it as libpq would, which version it is, how its names
// and values are quoted, which of its errors pass by themselves, and how to run one from local binaries.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Endpoint is one server and database as the user named it, with everything libpq would add: environment,
// service file, password file, several hosts, certificates.
type Endpoint struct {
	settings map[string]string
}

// ParseEndpoint reads a connection URI or keyword/value string and validates it without connecting. Errors say what
// is wrong and never hold the password.
func ParseEndpoint(s string) (Endpoint, error) {
	settings, err := parseDSN(s)
	if err != nil {
		return Endpoint{}, err
	}
	e := Endpoint{settings: settings}
	if _, err := e.config(); err != nil {
		return Endpoint{}, err
	}
	return e, nil
}

// WithDatabase is the same server with another database.
func (e Endpoint) WithDatabase(name string) Endpoint {
	settings := maps.Clone(e.settings)
	if settings == nil {
		settings = map[string]string{}
	}
	settings["dbname"] = name
	return Endpoint{settings: settings}
}

// Database is the database that a connection will use: as named, else from the environment, else the user's name.
func (e Endpoint) Database() string {
	config, err := e.config()
	if err != nil {
		return e.settings["dbname"]
	}
	if config.Database == "" {
		return config.User
	}
	return config.Database
}

// User is the role that a connection will use.
func (e Endpoint) User() string {
	config, err := e.config()
	if err != nil {
		return e.settings["user"]
	}
	return config.User
}

// String names the endpoint for people: user@host:port/database, never a password.
func (e Endpoint) String() string {
	config, err := e.config()
	if err != nil {
		return "invalid endpoint"
	}
	hosts := []string{net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))}
	for _, f := range config.Fallbacks {
		if host := net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port))); host != hosts[len(hosts)-1] {
			hosts = append(hosts, host)
		}
	}
	return fmt.Sprintf("%s@%s/%s", config.User, strings.Join(hosts, ","), e.Database())
}

// LogValue keeps passwords out of structured logs.
func (e Endpoint) LogValue() string { return e.String() }

// MarshalText keeps passwords out of JSON.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// config fails with a message that holds no password: the driver's own message quotes the input.
func (e Endpoint) config() (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(formatDSN(e.settings))
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			return nil, fmt.Errorf("connection parameters: %w", cause)
		}
		return nil, errors.New("connection parameters: invalid port, sslmode, timeout or session attribute")
	}
	return config, nil
}

// pinned are session settings that decide how values are read, printed and compared, or how long a session may live.
// Defaults of the server, the database and the role differ between the two sides, so every session of ours sets all
// of them. Settings that a version does not have are left out there.
var pinned = map[string]string{
	"search_path":                         "pg_catalog",
	"datestyle":                           "ISO, YMD",
	"intervalstyle":                       "postgres",
	"timezone":                            "UTC",
	"extra_float_digits":                  "3",
	"bytea_output":                        "hex",
	"xmloption":                           "content",
	"xmlbinary":                           "base64",
	"array_nulls":                         "on",
	"lc_monetary":                         "C",
	"lc_numeric":                          "C",
	"standard_conforming_strings":         "on",
	"escape_string_warning":               "off",
	"backslash_quote":                     "safe_encoding",
	"transform_null_equals":               "off",
	"quote_all_identifiers":               "off",
	"row_security":                        "off", // an error instead of a silent subset
	"statement_timeout":                   "0",
	"lock_timeout":                        "0",
	"idle_in_transaction_session_timeout": "0",
	"idle_session_timeout":                "0",
	"transaction_timeout":                 "0",
	"client_min_messages":                 "warning",
	"check_function_bodies":               "off",
	"synchronize_seqscans":                "off",
	"default_transaction_isolation":       "read committed",
	"default_transaction_read_only":       "off",
	"default_transaction_deferrable":      "off",
	"gin_fuzzy_search_limit":              "0",
	"jit":                                 "off", // compiling our catalog queries takes longer than running them
}

// Session says what a connection is for.
type Session struct {
	// Name is shown after "slipway/" as application_name, so that a DBA finds our sessions.
	Name string
	// Settings are applied over the pinned ones; a setting that the server does not have is an error.
	Settings map[string]string
}

// connectTimeout bounds one attempt when the user named none (seconds are libpq's unit for it).
const connectTimeout = 30 * time.Second

// Connect opens a session with all pinned settings. The error tells unreachable, TLS and login apart (see ConnectFault).
func (e Endpoint) Connect(ctx context.Context, session Session) (*pgx.Conn, error) {
	config, err := e.config()
	if err != nil {
		return nil, err
	}
	e.prepare(&config.Config, session.Name)
	config.RuntimeParams["client_encoding"] = "UTF8"
	for _, key := range []string{"statement_timeout", "lock_timeout", "search_path"} { // pinning itself needs them
		config.RuntimeParams[key] = pinned[key]
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", e, err)
	}
	if err := pin(ctx, conn, session.Settings); err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("connect to %s: %w", e, err)
	}
	return conn, nil
}

// ConnectReplication opens a walsender session for logical decoding in the endpoint's database. Settings that decide
// how values are printed go with the start message, because walsenders before PostgreSQL 10 run no SQL.
func (e Endpoint) ConnectReplication(ctx context.Context, name string) (*pgconn.PgConn, error) {
	config, err := e.config()
	if err != nil {
		return nil, err
	}
	e.prepare(&config.Config, name)
	config.RuntimeParams["client_encoding"] = "UTF8"
	config.RuntimeParams["replication"] = "database"
	for _, key := range []string{
		"datestyle", "intervalstyle", "timezone", "extra_float_digits", "bytea_output", "statement_timeout",
		"lc_monetary", "xmlbinary", "quote_all_identifiers", "client_min_messages",
	} {
		config.RuntimeParams[key] = pinned[key]
	}
	conn, err := pgconn.ConnectConfig(ctx, &config.Config)
	if err == nil && conn.ParameterStatus("server_encoding") == noEncoding {
		// It is known only now, and cannot be changed by a walsender before PostgreSQL 10.
		_ = conn.Close(context.WithoutCancel(ctx))
		config.RuntimeParams["client_encoding"] = noEncoding
		conn, err = pgconn.ConnectConfig(ctx, &config.Config)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s for replication: %w", e, err)
	}
	return conn, nil
}

// noEncoding is the encoding of a database that does not say what its bytes mean. Such a server would only check them
// against a client's encoding, not convert them, so sessions with it take and give them as they are.
const noEncoding = "SQL_ASCII"

func (e Endpoint) prepare(config *pgconn.Config, name string) {
	config.RuntimeParams["application_name"] = "slipway/" + name
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	dialer := &net.Dialer{
		Timeout: config.ConnectTimeout,
		// A peer that vanished without a word is noticed within a minute.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 20 * time.Second, Interval: 10 * time.Second, Count: 3},
	}
	config.DialFunc = dialer.DialContext
}

// pin applies all settings in one round trip and leaves out those that the server's version does not know.
func pin(ctx context.Context, conn *pgx.Conn, extra map[string]string) error {
	names, values := []string{}, []string{}
	for name, value := range pinned {
		if _, replaced := extra[name]; !replaced {
			names, values = append(names, name), append(values, value)
		}
	}
	_, err := conn.Exec(ctx, `SELECT pg_catalog.set_config(s.name, v.value, false)
		FROM (SELECT pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) AS v(name, value)
		JOIN pg_catalog.pg_settings s ON pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) v.name`, names, values)
	if err == nil && conn.PgConn().ParameterStatus("server_encoding") == noEncoding {
		_, err = conn.Exec(ctx, `SELECT pg_catalog.set_config('client_encoding', $1, false)`, noEncoding)
	}
	if err != nil {
		return fmt.Errorf("pin session settings: %w", err)
	}
	for name, value := range extra {
		if _, err := conn.Exec(ctx, `SELECT pg_catalog.set_config($1, $2, false)`, name, value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// ServerVersion is the version that the server told when the session began.
func ServerVersion(conn *pgx.Conn) (Version, error) {
	return ParseVersion(conn.PgConn().ParameterStatus("server_version"))
}

// ChildEnv is the environment for a client tool of PostgreSQL (pg_dump) so that it reaches this endpoint as we do.
// The password goes through the environment and never through the command line; PG* variables of our own
// environment that the endpoint overrides are replaced.
func (e Endpoint) ChildEnv() []string {
	values := map[string]string{}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		values[name] = value
	}
	for key, variable := range childVariables {
		if value, ok := e.settings[key]; ok {
			values[variable] = value
		}
	}
	values["PGDATABASE"] = e.Database()
	values["PGAPPNAME"] = "slipway/pg_dump"
	values["PGOPTIONS"] = strings.TrimSpace(values["PGOPTIONS"] +
		" -c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off")
	values["LC_ALL"] = "C"
	env := make([]string, 0, len(values))
	for name, value := range values {
		env = append(env, name+"="+value)
	}
	return env
}

var childVariables = map[string]string{
	"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "passfile": "PGPASSFILE",
	"service": "PGSERVICE", "servicefile": "PGSERVICEFILE", "options": "PGOPTIONS", "sslmode": "PGSSLMODE",
	"sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslcertmode": "PGSSLCERTMODE", "sslrootcert": "PGSSLROOTCERT",
	"sslpassword": "PGSSLPASSWORD", "sslnegotiation": "PGSSLNEGOTIATION", "sslsni": "PGSSLSNI",
	"krbsrvname": "PGKRBSRVNAME", "target_session_attrs": "PGTARGETSESSIONATTRS",
	"connect_timeout": "PGCONNECT_TIMEOUT", "channel_binding": "PGCHANNELBINDING", "require_auth": "PGREQUIREAUTH",
}

// HasPassword tells whether the connection string itself holds a password.
func (e Endpoint) HasPassword() bool {
	return e.settings["password"] != "" || e.settings["sslpassword"] != ""
}

// SameHost tells whether the server that conn reached runs on this machine.
func SameHost(conn *pgx.Conn) bool {
	switch address := conn.PgConn().Conn().RemoteAddr().(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return address.IP.IsLoopback()
	}
	return false
}
