package verify_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/verify"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// proxied puts a fault proxy in front of the target.
func proxied(t *testing.T, pair *pgtest.Pair) (*pgtest.Proxy, verify.Connector) {
	t.Helper()
	proxy := pgtest.NewProxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(pair.Target.Server.Port())))
	return proxy, func(ctx context.Context, name string) (*pgx.Conn, error) {
		endpoint, err := postgres.ParseEndpoint(pair.Target.URIVia(proxy.Addr()))
		if err != nil {
			return nil, err
		}
		return endpoint.Connect(ctx, postgres.Session{Name: name})
	}
}

func TestRun_CutConnectionIsRetried(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	onBoth(t, pair, everyKind)
	pair.Target.Exec(t, `UPDATE by_int SET v = 'wrong' WHERE id = 1000`)
	proxy, connect := proxied(t, pair)
	c := config(t, pair)
	c.Target = connect
	cuts := 0
	c.Progress = func(p verify.Progress) {
		if p.Chunks%5 == 0 && cuts < 3 {
			cuts++
			proxy.Cut()
		}
	}
	report := run(t, c)
	wantResult(t, report, verify.Different)
	if cuts < 3 {
		t.Errorf("only %d cuts", cuts)
	}
	for _, table := range report.Tables {
		if table.Name.Name == "by_int" && table.Different != 1 || table.Missing+table.Extra > 0 {
			t.Errorf("%+v", table)
		}
	}
}

func TestRun_LostTargetIsAnError(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	onBoth(t, pair, everyKind)
	proxy, connect := proxied(t, pair)
	c := config(t, pair)
	c.Target = connect
	var gone atomic.Bool
	c.Progress = func(p verify.Progress) {
		if p.Chunks == 3 && gone.CompareAndSwap(false, true) {
			proxy.Refuse()
			proxy.Cut()
		}
	}
	report := run(t, c)
	wantResult(t, report, verify.Failed)
	if !slices.ContainsFunc(report.Tables, func(r verify.TableReport) bool { return r.Result == verify.Failed && r.Err != "" }) {
		t.Errorf("no table has an error: %+v", report.Tables)
	}
}

func TestRun_StoppedIsAnError(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	onBoth(t, pair, everyKind)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := config(t, pair)
	c.Progress = func(verify.Progress) { cancel() }
	report, err := verify.Run(ctx, c)
	if !errors.Is(err, context.Canceled) || report.Result != verify.Failed {
		t.Errorf("%v, %+v", err, report)
	}
}

func TestRun_WhatCannotBeComparedIsNeverSame(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	onBoth(t, pair, `CREATE TABLE t (id int PRIMARY KEY, v text)`)
	table := func(name string) []verify.TablePair {
		n := schema.Name{Schema: "public", Name: name}
		return []verify.TablePair{{Source: &schema.Table{Name: n, Kind: schema.Ordinary}, Target: n}}
	}
	tests := []struct {
		name, source, target string
		tables               []verify.TablePair
		want                 verify.Result
	}{
		{"no table", "", "", nil, verify.Failed},
		{
			"only partitioned parents", `CREATE TABLE parent (a int) PARTITION BY LIST (a)`,
			`CREATE TABLE parent (a int) PARTITION BY LIST (a)`, table("parent"), verify.Failed,
		},
		{"missing on the target", `CREATE TABLE lone (a int)`, "", table("lone"), verify.Different},
		{"missing on the source", "", `CREATE TABLE stray (a int)`, table("stray"), verify.Different},
		{"missing column", `CREATE TABLE col (a int, b int)`, `CREATE TABLE col (a int)`, table("col"), verify.Different},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.source != "" {
				pair.Source.Exec(t, tt.source)
			}
			if tt.target != "" {
				pair.Target.Exec(t, tt.target)
			}
			c := verify.Config{Source: connector(pair.Source), Target: connector(pair.Target), Tables: tt.tables}
			wantResult(t, run(t, c), tt.want)
		})
	}
}

// A role that may not read a table, or may read only some of its rows, gets an error.
func TestRun_MissingRightsAreErrors(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	role := "reader_" + pair.Source.Name
	onBoth(t, pair, `CREATE TABLE closed (id int PRIMARY KEY); CREATE TABLE filtered (id int PRIMARY KEY);
		ALTER TABLE filtered ENABLE ROW LEVEL SECURITY; CREATE POLICY none ON filtered USING (false); GRANT SELECT ON filtered TO PUBLIC`)
	pair.Source.Exec(t, `CREATE ROLE `+postgres.QuoteIdent(role)+` LOGIN`)
	t.Cleanup(func() { pair.Source.Exec(t, `DROP ROLE `+postgres.QuoteIdent(role)) })
	c := config(t, pair)
	c.Source = func(ctx context.Context, name string) (*pgx.Conn, error) {
		conn, err := pair.Source.Endpoint().Connect(ctx, postgres.Session{Name: name})
		if err != nil {
			return nil, err
		}
		_, err = conn.Exec(ctx, `SET SESSION AUTHORIZATION `+postgres.QuoteIdent(role))
		return conn, err
	}
	report := run(t, c)
	wantResult(t, report, verify.Failed)
	for _, table := range report.Tables {
		if table.Result != verify.Failed {
			t.Errorf("%+v", table)
		}
	}
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	connect := func(context.Context, string) (*pgx.Conn, error) { return nil, errors.New("not reached") }
	bad := map[string]verify.Config{
		"no connectors":      {},
		"unknown mode":       {Source: connect, Target: connect, Mode: "fast"},
		"no sample rate":     {Source: connect, Target: connect, Mode: verify.Sample},
		"too many threads":   {Source: connect, Target: connect, Threads: 9},
		"nothing to compare": {Source: connect, Target: connect, Mode: verify.Structure},
	}
	for name, c := range bad {
		if err := c.Validate(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
