package postgres_test

import (
	"context"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

func endpoint(t *testing.T, uri string) postgres.Endpoint {
	t.Helper()
	e, err := postgres.ParseEndpoint(uri)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestConnect_FaultsAreToldApart connects wrongly in every way.
func TestConnect_FaultsAreToldApart(t *testing.T) {
	server := pgtest.Start(t, pgtest.Options{Auth: "scram-sha-256", Settings: map[string]string{"max_connections": "5", "superuser_reserved_connections": "3", "max_wal_senders": "0", "wal_level": "replica"}})
	d := server.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	d.Exec(t, `CREATE ROLE few LOGIN PASSWORD 'x' CONNECTION LIMIT 0`)
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port()))
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unreachable := closed.Addr().String()
	closed.Close()
	for _, test := range []struct {
		name, uri string
		want      postgres.Fault
	}{
		{"refused", "postgres://u:TOPSECRET@" + unreachable + "/app", postgres.FaultUnreachable},
		{"no such host", "postgres://u:TOPSECRET@nowhere.invalid/app", postgres.FaultUnreachable},
		{"no such socket", "host=/nonexistent user=u password=TOPSECRET dbname=app", postgres.FaultUnreachable},
		{"wrong password", "postgres://postgres:TOPSECRET@" + address + "/app?sslmode=disable", postgres.FaultLogin},
		{"no such database", strings.Replace(d.URI(), "/app", "/missing", 1), postgres.FaultDatabase},
		{"no TLS", strings.Replace(d.URI(), "sslmode=disable", "sslmode=require", 1), postgres.FaultTLS},
		{"connection limit", "postgres://few:x@" + address + "/app?sslmode=disable", postgres.FaultLimit},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			conn, err := endpoint(t, test.uri).Connect(ctx, postgres.Session{Name: "test"})
			if err == nil {
				conn.Close(ctx)
				t.Fatal("connected")
			}
			if got := postgres.ConnectFault(err); got != test.want {
				t.Errorf("fault %q, want %q: %v", got, test.want, err)
			}
			if strings.Contains(err.Error(), "TOPSECRET") || strings.Contains(err.Error(), pgtest.Password) {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

// TestConnect_PinsSettings gives the database and the role settings that would change values or end our sessions.
func TestConnect_PinsSettings(t *testing.T) {
	d := pgtest.NewPair(t).Source
	name := postgres.QuoteIdent(d.Name)
	alter := d.Server.Maintenance()
	for _, setting := range []string{
		"extra_float_digits = -10", "datestyle = 'German'", "intervalstyle = 'iso_8601'", "timezone = 'Asia/Tokyo'", "bytea_output = 'escape'",
		"statement_timeout = '1ms'", "idle_in_transaction_session_timeout = '1ms'", "lock_timeout = '1ms'", "search_path = 'nowhere'",
		"default_transaction_read_only = on", "default_transaction_isolation = 'serializable'", "standard_conforming_strings = off",
		"row_security = on", "array_nulls = off", "xmloption = document", "client_encoding = 'LATIN1'",
	} {
		alter.Exec(t, "ALTER DATABASE "+name+" SET "+setting)
	}
	ctx := context.Background()
	conn, err := d.Endpoint().Connect(ctx, postgres.Session{Name: "test", Settings: map[string]string{"work_mem": "7MB"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var got string
	err = conn.QueryRow(ctx, `SELECT concat_ws('|', 0.1::float8 + 0.2::float8, date '2021-10-01', interval '1 day', timestamptz '2021-10-01 00:00Z',
		'\x00ff'::bytea, ARRAY[NULL::int]::text, current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'),
		current_setting('lock_timeout'), current_setting('search_path'), current_setting('transaction_read_only'),
		current_setting('transaction_isolation'), current_setting('row_security'), current_setting('client_encoding'),
		current_setting('work_mem'), current_setting('application_name'))`).Scan(&got)
	if err != nil {
		t.Fatal(err)
	}
	want := `0.30000000000000004|2021-10-01|1 day|2021-10-01 00:00:00+00|\x00ff|{NULL}|0|0|0|pg_catalog|off|read committed|off|UTF8|7MB|slipway/test`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestQuote_ReadsTheSameUnderAnySetting(t *testing.T) {
	conn := pgtest.NewPair(t).Source.Connect(t).PgConn()
	ctx := context.Background()
	for _, setting := range []string{"on", "off"} {
		if _, err := conn.Exec(ctx, "SET standard_conforming_strings = "+setting+"; SET escape_string_warning = off").ReadAll(); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"x", "it's", `back\slash`, `\'; DROP TABLE x; --`, "new\nline", "ünïcödé", `''`, `$1 %s`, `"quoted"`} {
			results, err := conn.Exec(ctx, "SELECT "+postgres.QuoteLiteral(text)+"::text AS "+postgres.QuoteIdent(text)).ReadAll()
			if err != nil {
				t.Errorf("standard_conforming_strings=%s: %q: %v", setting, text, err)
				continue
			}
			if value, name := string(results[0].Rows[0][0]), results[0].FieldDescriptions[0].Name; value != text || name != text {
				t.Errorf("standard_conforming_strings=%s: %q reads as value %q and name %q", setting, text, value, name)
			}
		}
	}
}

// TestConnect_BytesWithoutEncoding proves that a database without an encoding takes and gives bytes as they are.
func TestConnect_BytesWithoutEncoding(t *testing.T) {
	server := pgtest.Start(t, pgtest.Options{})
	d := server.NewDatabase(t, pgtest.DatabaseOptions{Name: "bytes", Encoding: "SQL_ASCII", Locale: "C"})
	conn, err := endpoint(t, d.URI()).Connect(t.Context(), postgres.Session{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, want := range []string{"\xe9", "\xc3\xa9", "plain"} {
		var got string
		if err := conn.QueryRow(t.Context(), `SELECT $1::pg_catalog.text`, want).Scan(&got); err != nil || got != want {
			t.Errorf("%q came back as %q: %v", want, got, err)
		}
	}
	replication, err := endpoint(t, d.URI()).ConnectReplication(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer replication.Close(context.Background())
	if encoding := replication.ParameterStatus("client_encoding"); encoding != "SQL_ASCII" {
		t.Errorf("the walsender would check its output against %s", encoding)
	}
}
