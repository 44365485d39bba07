package stream_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience bounds every wait of these tests; it is only ever spent by one that fails.
const patience = 60 * time.Second

// connect opens a session as the engine does.
func connect(t testing.TB, db *pgtest.Database) *pgx.Conn {
	t.Helper()
	conn, err := db.Endpoint().Connect(t.Context(), postgres.Session{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

var slotCount atomic.Int64

// prepared is a source with a slot, and with a publication of the given tables.
type prepared struct {
	db       *pgtest.Database
	conn     *pgx.Conn
	name     string // of slot and publication
	plugin   stream.Plugin
	snapshot *stream.Snapshot
}

// prepare makes slot and publication; both are dropped at the end of the test. Tables are in schema public.
func prepare(t testing.TB, db *pgtest.Database, plugin stream.Plugin, tables ...string) *prepared {
	t.Helper()
	p := &prepared{db: db, conn: connect(t, db), plugin: plugin, name: fmt.Sprintf("stream_test_%d", slotCount.Add(1))}
	ctx := context.WithoutCancel(t.Context())
	if err := stream.CreatePublication(ctx, p.conn, p.name, publicTables(tables)); err != nil {
		t.Fatal(err)
	}
	snapshot, err := stream.CreateSlot(ctx, db.Endpoint(), p.name, plugin, stream.SlotOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.snapshot = snapshot
	t.Cleanup(func() {
		if err := snapshot.Close(ctx); err != nil {
			t.Error(err)
		}
		conn, err := db.Endpoint().Connect(ctx, postgres.Session{Name: "test"})
		if err != nil {
			return // the server is gone, and with it all there was
		}
		defer conn.Close(ctx)
		if err := stream.DropSlot(ctx, conn, p.name); err != nil {
			t.Error(err)
		}
		if err := stream.DropPublication(ctx, conn, p.name); err != nil {
			t.Error(err)
		}
	})
	return p
}

func publicTables(names []string) []schema.Name {
	var tables []schema.Name
	for _, name := range names {
		tables = append(tables, schema.Name{Schema: "public", Name: name})
	}
	return tables
}

func (p *prepared) config() stream.Config {
	return stream.Config{
		Endpoint: p.db.Endpoint(), Slot: p.name, Publications: []string{p.name}, Plugin: p.plugin,
		Start: p.snapshot.ConsistentPoint,
	}
}

// running is a reader whose Run runs.
type running struct {
	*stream.Reader
	t    testing.TB
	stop func() error // ends Run and returns its error
}

func follow(t testing.TB, config stream.Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	r := stream.New(config)
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var err error
	stopped := false
	stop := func() error {
		cancel()
		if !stopped {
			err, stopped = <-done, true
		}
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return &running{Reader: r, t: t, stop: stop}
}

// next gives the next events.
func (r *running) next() []stream.Event {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), patience)
	defer cancel()
	events, err := r.Next(ctx)
	if err != nil {
		r.t.Fatalf("next events: %v", err)
	}
	return events
}

// until reads events up to the source's position of now, and gives them to each. The end is at the boundary of a
// transaction.
func (r *running) until(conn *pgx.Conn, each func(stream.Event)) {
	r.t.Helper()
	end, err := stream.Heartbeat(context.WithoutCancel(r.t.Context()), conn)
	if err != nil {
		r.t.Fatal(err)
	}
	for reached := postgres.LSN(0); reached < end; {
		for _, e := range r.next() {
			if each != nil {
				each(e)
			}
			if e.Kind == stream.Commit || e.Kind == stream.Position {
				reached = e.LSN
			}
		}
	}
}

// lines reads up to now and gives everything but positions as text.
func (r *running) lines(conn *pgx.Conn) []string {
	r.t.Helper()
	var lines []string
	r.until(conn, func(e stream.Event) {
		if e.Kind != stream.Position {
			lines = append(lines, render(e))
		}
	})
	return lines
}

// render prints an event without what differs from run to run.
func render(e stream.Event) string {
	switch e.Kind {
	case stream.Begin:
		return "begin"
	case stream.Commit:
		return "commit"
	case stream.Position:
		return "position"
	case stream.Truncate:
		var names []string
		for _, r := range e.Relations {
			names = append(names, r.Schema+"."+r.Name)
		}
		return fmt.Sprintf("truncate %s cascade=%v restart=%v", strings.Join(names, ","), e.Cascade, e.RestartIdentity)
	}
	line := map[stream.EventKind]string{stream.Insert: "insert", stream.Update: "update", stream.Delete: "delete"}[e.Kind]
	line += " " + e.Relation.Schema + "." + e.Relation.Name
	if e.Old != nil && e.OldIsKey {
		line += " key" + renderTuple(e.Relation, e.Old)
	} else if e.Old != nil {
		line += " old" + renderTuple(e.Relation, e.Old)
	}
	if e.New != nil {
		line += " new" + renderTuple(e.Relation, e.New)
	}
	return line
}

func renderTuple(r *stream.Relation, t *stream.Tuple) string {
	var parts []string
	for i, v := range t.Values {
		switch v.Kind {
		case stream.Null:
			parts = append(parts, r.Columns[i].Name+"=null")
		case stream.Unchanged:
			parts = append(parts, r.Columns[i].Name+"=unchanged")
		case stream.Text:
			parts = append(parts, r.Columns[i].Name+"="+string(v.Data))
		case stream.Absent:
		}
	}
	return "(" + strings.Join(parts, " ") + ")"
}

func parseLSN(t testing.TB, text string) postgres.LSN {
	t.Helper()
	lsn, err := postgres.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}
