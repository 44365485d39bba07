package pgtest_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

const patience = 30 * time.Second

func proxied(t *testing.T) (*pgtest.Proxy, *pgtest.Database) {
	t.Helper()
	d := pgtest.NewPair(t).Source
	return pgtest.NewProxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(d.Server.Port()))), d
}

func through(t *testing.T, p *pgtest.Proxy, d *pgtest.Database, name string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.URIVia(p.Addr())+"&application_name="+name)
	if err != nil {
		t.Fatalf("connect through the proxy: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the test may have cut it
	return conn
}

func one(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `SELECT 1`)
	return err
}

func TestProxy_CutResetsOpenConnectionsOnly(t *testing.T) {
	t.Parallel()
	p, d := proxied(t)
	conn := through(t, p, d, "first")
	if err := one(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	if err := one(t.Context(), conn); !postgres.ConnectionLost(err) {
		t.Errorf("after the cut: %v", err)
	}
	if err := one(t.Context(), through(t, p, d, "second")); err != nil {
		t.Errorf("a new connection after the cut: %v", err)
	}
}

func TestProxy_StallHoldsAndResumeDelivers(t *testing.T) {
	t.Parallel()
	p, d := proxied(t)
	conn := through(t, p, d, "stalled")
	p.Stall()
	answered := make(chan error, 1)
	go func() { answered <- one(context.Background(), conn) }()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := pgx.Connect(ctx, d.URIVia(p.Addr())); err == nil {
		t.Error("a new connection went through a black hole")
	}
	select {
	case err := <-answered:
		t.Fatalf("an answer came through a black hole (error %v)", err)
	default:
	}
	p.Resume()
	if err := <-answered; err != nil {
		t.Errorf("after Resume: %v", err)
	}
}

func TestProxy_RefuseAndAcceptOnTheSameAddress(t *testing.T) {
	t.Parallel()
	p, d := proxied(t)
	open := through(t, p, d, "open")
	p.Refuse()
	if _, err := pgx.Connect(t.Context(), d.URIVia(p.Addr())); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("while refusing: %v", err)
	}
	if err := one(t.Context(), open); err != nil {
		t.Errorf("the open connection while refusing: %v", err)
	}
	if err := p.Accept(); err != nil {
		t.Fatal(err)
	}
	if err := one(t.Context(), through(t, p, d, "after")); err != nil {
		t.Errorf("after Accept: %v", err)
	}
}

func TestProxy_CutAfterCountsOneDirection(t *testing.T) {
	t.Parallel()
	p, d := proxied(t)
	conn := through(t, p, d, "counted")
	const limit = 100_000
	cut := p.CutAfter(limit, pgtest.ToClient)
	received := 0
	rows, err := conn.Query(t.Context(), `SELECT repeat('x', 1000) FROM generate_series(1, 1000)`)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		received += len(rows.RawValues()[0])
	}
	if err := rows.Err(); !postgres.ConnectionLost(err) {
		t.Errorf("the result was not cut: %v", err)
	}
	if received == 0 || received > limit {
		t.Errorf("%d bytes arrived with a limit of %d", received, limit)
	}
	select {
	case <-cut:
	case <-time.After(patience):
		t.Error("the cut was not reported")
	}
	if err := one(t.Context(), through(t, p, d, "after")); err != nil {
		t.Errorf("a connection after the cut: %v", err)
	}
}

func TestProxy_OnlyConcernsTheChosen(t *testing.T) {
	t.Parallel()
	p, d := proxied(t)
	victim, bystander := through(t, p, d, "victim"), through(t, p, d, "bystander")
	p.Only(func(startup map[string]string) bool { return startup["application_name"] == "victim" })
	if n := p.Connections(); n != 1 {
		t.Errorf("%d connections are concerned instead of 1", n)
	}
	p.Stall()
	if err := one(t.Context(), bystander); err != nil {
		t.Errorf("the bystander during the stall: %v", err)
	}
	p.Cut()
	if err := one(t.Context(), victim); !postgres.ConnectionLost(err) {
		t.Errorf("the victim after the cut: %v", err)
	}
	if err := one(t.Context(), bystander); err != nil {
		t.Errorf("the bystander after the cut: %v", err)
	}
}

// A connection whose server has died ends as it would without a proxy.
func TestProxy_ServerGone(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	p := pgtest.NewProxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port())))
	conn := through(t, p, server.Maintenance(), "orphan")
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := one(t.Context(), conn); !postgres.ConnectionLost(err) {
		t.Errorf("the open connection: %v", err)
	}
	if _, err := pgx.Connect(t.Context(), server.Maintenance().URIVia(p.Addr())); !postgres.ConnectionLost(err) {
		t.Errorf("a new connection: %v", err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := one(t.Context(), through(t, p, server.Maintenance(), "again")); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}
