package precheck_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/slipway-db/slipway/migrate/precheck"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// TestConnection_TellsFaultsApart plants one fault per layer, on each side.
func TestConnection_TellsFaultsApart(t *testing.T) {
	pair := pgtest.NewPair(t)
	locked := pgtest.Start(t, pgtest.Options{Auth: "scram-sha-256"})
	locked.Maintenance().Exec(t, `CREATE ROLE closed LOGIN PASSWORD 'x'`, `CREATE DATABASE private`,
		`REVOKE CONNECT ON DATABASE private FROM PUBLIC`)
	address := strings.TrimPrefix(locked.URI(""), "postgres://postgres@")
	address, _, _ = strings.Cut(address, "/")
	_, plain, _ := strings.Cut(pair.Source.URI(), "@")
	plain, _, _ = strings.Cut(plain, "/")
	for name, c := range map[string]struct {
		uri, database, id string
		says              []string
	}{
		"unreachable": {"postgres://postgres@127.0.0.1:1/", "postgres", "connection", []string{"unreachable", "listen_addresses"}},
		"tls":         {"postgres://postgres@" + plain + "/?sslmode=require", "postgres", "connection", []string{"TLS", "ssl = on"}},
		"password":    {"postgres://postgres:secret%20word@" + address + "/?sslmode=disable", "postgres", "connection", []string{"login refused", `\password "postgres"`}},
		"connect": {
			"postgres://closed:x@" + address + "/?sslmode=disable", "private", "database",
			[]string{`GRANT CONNECT ON DATABASE "private" TO "closed";`},
		},
		"missing": {"postgres://postgres@" + plain + "/?sslmode=disable", `no "such"`, "database", []string{"does not exist"}},
	} {
		endpoint, err := postgres.ParseEndpoint(c.uri)
		if err != nil {
			t.Fatal(err)
		}
		for _, side := range []string{"source", "target"} {
			config := configure(pair.Source, pair.Target)
			if side == "source" {
				config.Source, config.Databases[0].Source = endpoint, c.database
			} else {
				config.Target, config.Databases[0].Target = endpoint, c.database
			}
			report := check(t, config)
			t.Run(name+"/"+side, func(t *testing.T) { expect(t, report, side+"-"+c.id, precheck.Failed, c.says...) })
			for _, item := range report.Items {
				if strings.Contains(fmt.Sprintf("%+v", item), "secret") {
					t.Errorf("%s: the password is in the report: %+v", name, item)
				}
			}
		}
	}
}

// TestConnection_LimitReached proves that a used-up limit is told apart from a refused login.
func TestConnection_LimitReached(t *testing.T) {
	pair := pgtest.NewPair(t)
	role := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_connections": "20"}})
	d := role.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	d.Exec(t, `CREATE ROLE one LOGIN CONNECTION LIMIT 0`, `CREATE ROLE few LOGIN REPLICATION CONNECTION LIMIT 5`)
	config := configure(d, pair.Target)
	config.Source = as(t, d, "one")
	expect(t, check(t, config), "source-connection", precheck.Failed, "no free connection", `ALTER ROLE "one" CONNECTION LIMIT -1;`)

	config.Source = as(t, d, "few")
	expect(t, check(t, config), "connections", precheck.Warning, `ALTER ROLE few CONNECTION LIMIT -1;`, "--jobs 1")
	config.Jobs = 30
	config.Source = d.Endpoint()
	expect(t, check(t, config), "connections", precheck.Warning, "max_connections")
	config.Jobs = 1
	expect(t, check(t, config), "connections", precheck.Passed)
	for range 18 {
		d.Connect(t)
	}
	expect(t, check(t, config), "connections", precheck.Failed, "max_connections")
}

// TestConnection_PoolerIsNoticed puts something in between that hands out process ids of its own, as poolers do.
func TestConnection_PoolerIsNoticed(t *testing.T) {
	pair := pgtest.NewPair(t)
	_, server, _ := strings.Cut(pair.Source.URI(), "@")
	server, _, _ = strings.Cut(server, "/")
	endpoint, err := postgres.ParseEndpoint("postgres://postgres@" + pooler(t, server) + "/?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	config := configure(pair.Source, pair.Target)
	expect(t, check(t, config), "direct-connection", precheck.Passed)
	config.Source = endpoint
	expect(t, check(t, config), "direct-connection", precheck.Failed, "pooler", "--source postgres://")
}

// pooler forwards sessions and changes only the key data that the server sends at their start.
func pooler(t *testing.T, server string) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = listener.Close(); <-done })
	go func() {
		defer close(done)
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			if err := pool(client, server); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Errorf("pooler: %v", err)
			}
		}
	}()
	return listener.Addr().String()
}

// pool serves one session at a time in each direction; it ends with the session.
func pool(client net.Conn, server string) error {
	upstream, err := net.Dial("tcp", server)
	if err != nil {
		return err
	}
	go func() {
		defer client.Close()
		defer upstream.Close()
		frontend := pgproto3.NewFrontend(upstream, upstream)
		backend := pgproto3.NewBackend(client, client)
		for {
			message, err := frontend.Receive()
			if err != nil {
				return
			}
			if key, ok := message.(*pgproto3.BackendKeyData); ok {
				key.ProcessID += 1_000_000
			}
			backend.Send(message)
			if backend.Flush() != nil {
				return
			}
		}
	}()
	go func() {
		defer client.Close()
		defer upstream.Close()
		buffer := make([]byte, 32<<10)
		for {
			n, err := client.Read(buffer)
			if err != nil {
				return
			}
			if _, err := upstream.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	return nil
}

func TestSameDatabase(t *testing.T) {
	pair := pgtest.NewPair(t)
	config := configure(pair.Source, pair.Target)
	expect(t, check(t, config), "distinct-databases", precheck.Passed)
	config.Target, config.Databases[0].Target = pair.Source.Endpoint(), pair.Source.Name
	expect(t, check(t, config), "distinct-databases", precheck.Failed, "the same database")
	config.Databases[0].Target = "postgres" // another database of the same server is fine
	expect(t, check(t, config), "distinct-databases", precheck.Passed)
	config.Databases[0].Target = "template1"
	expect(t, check(t, config), "target-database", precheck.Failed, "template")
}

func TestVersions(t *testing.T) {
	newer, older := pgtest.NewPairOf(t, 15, 10), pgtest.NewPairOf(t, 10, 15)
	down := check(t, configure(newer.Source, newer.Target))
	expect(t, down, "target-version", precheck.Warning, "older (10)")
	up := check(t, configure(older.Source, older.Target))
	expect(t, up, "target-version", precheck.Passed)
	expect(t, up, "source-version", precheck.Passed)
	expect(t, up, "source-minor", precheck.Warning, "no release of 10 mends", "--type full")
	expect(t, up, "output-plugin", precheck.Passed)
}

func TestClientTools(t *testing.T) {
	pair := pgtest.NewPair(t)
	config := configure(pair.Source, pair.Target)
	expect(t, check(t, config), "client-tools", precheck.Passed)
	config.Tool = func(major int) (string, int, error) {
		return "", 0, fmt.Errorf("find tools: %w", &postgres.MissingError{Program: "pg_dump", Major: major, AtLeast: true})
	}
	expect(t, check(t, config), "client-tools", precheck.Failed, "apt-get install postgresql-client-")
	config.Tool = func(major int) (string, int, error) { return "pg_dump", major - 1, nil }
	expect(t, check(t, config), "client-tools", precheck.Failed, "apt-get install postgresql-client-")
}

// TestIncremental_ServerSettings starts one source with every setting against a stream, and one with just enough.
func TestIncremental_ServerSettings(t *testing.T) {
	pair := pgtest.NewPair(t)
	poor := pgtest.Start(t, pgtest.Options{Settings: map[string]string{
		"wal_level": "replica", "max_replication_slots": "1", "max_wal_senders": "1", "max_slot_wal_keep_size": "100MB",
		// With the local commits of the test nothing waits for the standby that is not there.
		"synchronous_standby_names": "*", "synchronous_commit": "local",
	}})
	config := configure(poor.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"}), pair.Target)
	report := check(t, config)
	expect(t, report, "wal-level", precheck.Failed, "ALTER SYSTEM SET wal_level = 'logical';")
	expect(t, report, "source-replication", precheck.Skipped, "wal-level")
	expect(t, report, "replication-slots", precheck.Failed, "ALTER SYSTEM SET max_replication_slots = 2;")
	expect(t, report, "wal-senders", precheck.Failed, "ALTER SYSTEM SET max_wal_senders = 2;")
	expect(t, report, "wal-retention", precheck.Warning, "100 MB", "max_slot_wal_keep_size = -1")
	expect(t, report, "synchronous-standbys", precheck.Warning, "any session", "ALTER SYSTEM SET synchronous_standby_names")
	if report.Result() != precheck.Failed {
		t.Errorf("the report is %s", report.Result())
	}
	config.Type = precheck.Full // none of this matters to a copy
	for _, item := range check(t, config).Items {
		if item.Result == precheck.Failed {
			t.Errorf("%s failed for a copy: %s", item.ID, item.Reason)
		}
	}
}

// TestIncremental_SlotsInUse proves that free slots count and not the limit alone, and that a resumed job's own slot
// is not missing.
func TestIncremental_SlotsInUse(t *testing.T) {
	pair := pgtest.NewPair(t)
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_replication_slots": "3"}})
	d := server.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	config := configure(d, pair.Target)
	d.Exec(t, `SELECT pg_create_physical_replication_slot('physical')`)
	expect(t, check(t, config), "replication-slots", precheck.Passed)
	d.Exec(t, `SELECT pg_create_logical_replication_slot('slipway_0a0b0c0d', 'pgoutput')`)
	report := check(t, config)
	expect(t, report, "replication-slots", precheck.Failed, "max_replication_slots = 4", "SELECT pg_drop_replication_slot('physical');")
	expect(t, report, "other-task", precheck.Warning, "slipway_0a0b0c0d")
	config.Databases[0].JobID = "0a0b0c0d"
	report = check(t, config)
	expect(t, report, "replication-slots", precheck.Passed)
	expect(t, report, "other-task", precheck.Passed)
}

func TestReplicationPrivilege(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `DROP ROLE IF EXISTS no_replication`, `CREATE ROLE no_replication LOGIN`)
	t.Cleanup(func() { pair.Source.Exec(t, `DROP ROLE no_replication`) })
	config := configure(pair.Source, pair.Target)
	config.Source = as(t, pair.Source, "no_replication")
	expect(t, check(t, config), "source-replication", precheck.Failed, `ALTER ROLE "no_replication" REPLICATION;`)
	pair.Source.Exec(t, `ALTER ROLE no_replication REPLICATION`)
	expect(t, check(t, config), "source-replication", precheck.Passed)
}

// TestReplicationPrivilege_HostBased has a pg_hba.conf without the line that a replication session needs.
func TestReplicationPrivilege_HostBased(t *testing.T) {
	pair := pgtest.NewPair(t)
	server := pgtest.Start(t, pgtest.Options{})
	d := server.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	d.Exec(t, `CREATE ROLE walker LOGIN REPLICATION`)
	hba := "local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost postgres walker 127.0.0.1/32 trust\n"
	if err := os.WriteFile(server.DataDir()+"/pg_hba.conf", []byte(hba), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Exec(t, `SELECT pg_reload_conf()`)
	config := configure(d, pair.Target)
	config.Source = as(t, d, "walker")
	pgtest.Eventually(t, 10*time.Second, "the new pg_hba.conf is in force", func() bool {
		return find(t, check(t, config), "source-connection").Result == precheck.Failed
	})
	expect(t, check(t, config), "source-connection", precheck.Failed, "login refused", `host "app" "walker" <this machine's address>/32`)
}

func TestStandby(t *testing.T) {
	pair := pgtest.NewPair(t)
	server := pgtest.Start(t, pgtest.Options{})
	d := server.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	d.Exec(t, ordinarySchema)
	stopped(t, server, func() {
		if err := os.WriteFile(server.DataDir()+"/standby.signal", nil, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	config := configure(d, pair.Target)
	report := check(t, config)
	if server.Major() < 16 {
		expect(t, report, "source-recovery", precheck.Failed, "came with 16", "--source postgres://<the primary>")
	} else {
		expect(t, report, "source-recovery", precheck.Warning, "pg_log_standby_snapshot")
	}
	config.Type = precheck.Full
	report = check(t, config)
	expect(t, report, "source-recovery", precheck.Warning, "max_standby_streaming_delay")
	if report.Result() == precheck.Failed {
		t.Errorf("a copy from a standby is not allowed: %+v", report.Items)
	}
	config = configure(pair.Source, d)
	expect(t, check(t, config), "target-writable", precheck.Failed, "standby")
}

func stopped(t *testing.T, server *pgtest.Server, change func()) {
	t.Helper()
	if err := server.Stop(t.Context(), postgres.Fast); err != nil {
		t.Fatal(err)
	}
	change()
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestTargetWorkers(t *testing.T) {
	pair := pgtest.NewPair(t)
	target := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_worker_processes": "4", "max_logical_replication_workers": "4"}})
	d := target.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"})
	config := configure(pair.Source, d)
	expect(t, check(t, config), "target-workers", precheck.Passed, "ordinary sessions")
	d.Exec(t, `CREATE SUBSCRIPTION own CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false)`)
	expect(t, check(t, config), "target-workers", precheck.Warning, "max_worker_processes = 8")
}

func TestLongTransactions(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `CREATE TABLE t (id integer PRIMARY KEY)`)
	config := configure(pair.Source, pair.Target)
	config.LongTransaction = time.Second
	ctx := t.Context()
	writer, reader := pair.Source.Connect(t), pair.Source.Connect(t)
	for _, statement := range []string{`BEGIN`, `INSERT INTO t VALUES (1)`} {
		if _, err := writer.Exec(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	for _, statement := range []string{`BEGIN ISOLATION LEVEL REPEATABLE READ`, `SELECT count(*) FROM t`} {
		if _, err := reader.Exec(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	pid := func(c interface{ PID() uint32 }) string {
		return fmt.Sprintf("SELECT pg_terminate_backend(%d);", c.PID())
	}
	pgtest.Eventually(t, 20*time.Second, "both transactions are older than a second", func() bool {
		return len(find(t, check(t, config), "long-transactions").Objects) >= 2
	})
	expect(t, check(t, config), "long-transactions", precheck.Warning, "the slot", "only read", pid(writer.PgConn()), pid(reader.PgConn()), "idle in transaction")
	for _, statement := range []string{`PREPARE TRANSACTION 'left''over'`} {
		if _, err := writer.Exec(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { pair.Source.Exec(t, `ROLLBACK PREPARED 'left''over'`) })
	if _, err := reader.Exec(ctx, `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	expect(t, check(t, config), "long-transactions", precheck.Warning, `COMMIT PREPARED 'left''over';`)
}
