package pgtest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// Pair is a source and a target for one migration, on two servers.
type Pair struct {
	Source, Target *Database
}

// Database is one database of a server. Its methods are for the test's own goroutine: they end the test on an error.
type Database struct {
	Server *Server
	Name   string
}

// DatabaseOptions of a new database; the zero value is a UTF8 database named after the test.
type DatabaseOptions struct {
	// Name is taken as it is; empty means a name made from the test's.
	Name string
	// Encoding and Locale, e.g. "LATIN1" and "C"; empty means the server's.
	Encoding, Locale string
}

// NewPair makes fresh databases on the shared servers of the default majors. When the test ends they are dropped,
// and replication slots that the test left on them fail it.
func NewPair(t testing.TB) *Pair {
	t.Helper()
	source, target := DefaultMajors(t)
	return NewPairOf(t, source, target)
}

// NewPairOf is NewPair with servers of the given majors.
func NewPairOf(t testing.TB, sourceMajor, targetMajor int) *Pair {
	t.Helper()
	return &Pair{
		Source: sharedServerOf(t, "source", sourceMajor).newShared(t, "source"),
		Target: sharedServerOf(t, "target", targetMajor).newShared(t, "target"),
	}
}

func (s *Server) newShared(t testing.TB, role string) *Database {
	t.Helper()
	d := s.NewDatabase(t, DatabaseOptions{Name: freshName(t, role)})
	t.Cleanup(func() { d.drop(t) })
	return d
}

var databaseCount atomic.Int64

func freshName(t testing.TB, role string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '_'
		}
	}, t.Name())
	return fmt.Sprintf("%.40s_%d_%s", name, databaseCount.Add(1), role)
}

// NewDatabase makes a database, which lives as long as its server.
func (s *Server) NewDatabase(t testing.TB, options DatabaseOptions) *Database {
	t.Helper()
	if options.Name == "" {
		options.Name = freshName(t, "db")
	}
	sql := "CREATE DATABASE " + postgres.QuoteIdent(options.Name) + " TEMPLATE template0"
	if options.Encoding != "" {
		sql += " ENCODING " + postgres.QuoteLiteral(options.Encoding)
	}
	if options.Locale != "" {
		locale := postgres.QuoteLiteral(options.Locale)
		sql += " LC_COLLATE " + locale + " LC_CTYPE " + locale
	}
	s.Maintenance().Exec(t, sql)
	return &Database{Server: s, Name: options.Name}
}

// Maintenance is the server's database "postgres".
func (s *Server) Maintenance() *Database { return &Database{Server: s, Name: "postgres"} }

// URI reaches the database as superuser.
func (d *Database) URI() string {
	return d.URIVia(net.JoinHostPort("127.0.0.1", strconv.Itoa(d.Server.Port())))
}

// URIVia reaches the database through another address, such as a Proxy's.
func (d *Database) URIVia(address string) string {
	user := url.User("postgres")
	if d.Server.password != "" {
		user = url.UserPassword("postgres", d.Server.password)
	}
	u := url.URL{Scheme: "postgres", User: user, Host: address, Path: "/" + d.Name, RawQuery: "sslmode=disable"}
	return u.String()
}

// Endpoint reaches the database as superuser.
func (d *Database) Endpoint() postgres.Endpoint {
	endpoint, err := postgres.ParseEndpoint(d.URI())
	if err != nil {
		panic(fmt.Sprintf("pgtest: URI of database %q: %v", d.Name, err)) // we made the URI ourselves
	}
	return endpoint
}

// Connect opens a plain session, as any client would. It is closed when the test ends.
func (d *Database) Connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn := d.connect(t)
	t.Cleanup(func() { closeConn(conn) })
	return conn
}

func (d *Database) connect(t testing.TB) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	config, err := pgx.ParseConfig(d.URI())
	if err != nil {
		t.Fatalf("URI of database %q: %v", d.Name, err)
	}
	// Text results without a prepared statement: values are compared as PostgreSQL prints them.
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	config.RuntimeParams["client_encoding"] = "UTF8" // which that protocol requires, and the next
	config.RuntimeParams["standard_conforming_strings"] = "on"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatalf("connect to database %q: %v", d.Name, err)
	}
	return conn
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = conn.Close(ctx) // its server may have been killed
}

// Exec runs SQL in a session of its own; each string may hold several statements.
func (d *Database) Exec(t testing.TB, sql ...string) {
	t.Helper()
	conn := d.connect(t)
	defer closeConn(conn)
	for _, s := range sql {
		if _, err := conn.PgConn().Exec(context.Background(), s).ReadAll(); err != nil {
			t.Fatalf("database %q: %v %s\n%s", d.Name, err, postgres.Detail(err), s)
		}
	}
}

// Strings runs one query and returns a string per row, as psql -At prints it: columns joined by "|"; NULL is \N.
func (d *Database) Strings(t testing.TB, sql string, args ...any) []string {
	t.Helper()
	conn := d.connect(t)
	defer closeConn(conn)
	rows, err := conn.Query(context.Background(), sql, args...)
	if err != nil {
		t.Fatalf("database %q: %v\n%s", d.Name, err, sql)
	}
	defer rows.Close()
	var result []string
	for rows.Next() {
		var columns []string
		for _, value := range rows.RawValues() {
			if value == nil {
				value = []byte(`\N`)
			}
			columns = append(columns, string(value))
		}
		result = append(result, strings.Join(columns, "|"))
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("database %q: %v\n%s", d.Name, err, sql)
	}
	return result
}

// Int runs a query that returns one integer.
func (d *Database) Int(t testing.TB, sql string, args ...any) int64 {
	t.Helper()
	rows := d.Strings(t, sql, args...)
	if len(rows) != 1 {
		t.Fatalf("database %q: %d rows instead of one\n%s", d.Name, len(rows), sql)
	}
	n, err := strconv.ParseInt(rows[0], 10, 64)
	if err != nil {
		t.Fatalf("database %q: %q is not an integer\n%s", d.Name, rows[0], sql)
	}
	return n
}
