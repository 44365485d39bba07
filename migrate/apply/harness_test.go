package apply_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/apply"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// script is a source made by hand: it delivers what the test gives it and then waits.
type script struct {
	chunks chan []stream.Event

	mu        sync.Mutex
	confirmed []postgres.LSN
}

func newScript() *script { return &script{chunks: make(chan []stream.Event, 10000)} }

func (s *script) Next(ctx context.Context) ([]stream.Event, error) {
	select {
	case events := <-s.chunks:
		return events, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *script) Confirm(lsn postgres.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.confirmed = append(s.confirmed, lsn)
}

func (s *script) lastConfirmed() postgres.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.confirmed) == 0 {
		return 0
	}
	return s.confirmed[len(s.confirmed)-1]
}

// recorder keeps the position in a table of the target, under an epoch as a real one does.
type recorder struct{ epoch int }

func (r recorder) Record(lsn postgres.LSN, _ time.Time) (string, []any) {
	return `UPDATE slipway.progress SET lsn = $1::text::pg_lsn, writes = writes + 1 WHERE epoch = $2`, []any{lsn.String(), r.epoch}
}

// setUp creates the tables of a test and the record of the position on the target.
func setUp(t *testing.T, d *pgtest.Database, sql ...string) {
	t.Helper()
	d.Exec(t, `CREATE SCHEMA slipway;
		CREATE TABLE slipway.progress (lsn pg_lsn NOT NULL, epoch int NOT NULL, writes bigint NOT NULL);
		INSERT INTO slipway.progress VALUES ('0/0', 1, 0)`)
	d.Exec(t, sql...)
}

func recorded(t *testing.T, d *pgtest.Database) postgres.LSN {
	t.Helper()
	lsn, err := postgres.ParseLSN(d.Strings(t, `SELECT lsn::text FROM slipway.progress`)[0])
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// history writes events by hand, in the way of pgoutput.
type history struct {
	t         testing.TB
	target    *pgtest.Database
	relations map[string]*stream.Relation
	events    []stream.Event
	lsn       postgres.LSN
	start     int // of the open transaction in events
}

func newHistory(t testing.TB, target *pgtest.Database) *history {
	return &history{t: t, target: target, relations: map[string]*stream.Relation{}, lsn: 0x1000}
}

// relation describes public.name as the source would: here both sides have the same structure.
func (h *history) relation(name string) *stream.Relation {
	h.t.Helper()
	if r := h.relations[name]; r != nil {
		return r
	}
	r := describe(h.t, h.target, name)
	h.relations[name] = r
	return r
}

// describe reads a relation from a database as pgoutput would send it.
func describe(t testing.TB, d *pgtest.Database, name string) *stream.Relation {
	t.Helper()
	conn := d.Connect(t)
	r := &stream.Relation{Schema: "public", Name: name}
	var identity string
	err := conn.QueryRow(context.Background(), `SELECT c.oid, c.relreplident::text FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public' AND c.relname = $1`, name).Scan(&r.OID, &identity)
	if err != nil {
		t.Fatalf("describe %s: %v", name, err)
	}
	r.Identity = identity[0]
	rows, err := conn.Query(context.Background(), `SELECT a.attname, a.atttypid, a.atttypmod,
			CASE $2 WHEN 'f' THEN true WHEN 'n' THEN false ELSE coalesce(a.attnum = ANY (i.indkey::int2[]), false) END
		FROM pg_attribute a
		LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND CASE $2 WHEN 'i' THEN i.indisreplident ELSE i.indisprimary AND i.indimmediate END
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum`, r.OID, identity)
	if err != nil {
		t.Fatal(err)
	}
	r.Columns, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (stream.RelationColumn, error) {
		var c stream.RelationColumn
		err := row.Scan(&c.Name, &c.TypeOID, &c.TypeMod, &c.Key)
		return c, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Values in rows: a string is text, nil is null.
type unchanged struct{}

type absent struct{}

func tuple(values ...any) *stream.Tuple {
	tuple := &stream.Tuple{}
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			tuple.Values = append(tuple.Values, stream.Value{Kind: stream.Null})
		case unchanged:
			tuple.Values = append(tuple.Values, stream.Value{Kind: stream.Unchanged})
		case absent:
			tuple.Values = append(tuple.Values, stream.Value{})
		case string:
			tuple.Values = append(tuple.Values, stream.Value{Kind: stream.Text, Data: []byte(v)})
		}
	}
	return tuple
}

func row(values ...any) []any { return values }

func (h *history) begin() *history {
	h.lsn += 0x10
	h.start = len(h.events)
	h.events = append(h.events, stream.Event{Kind: stream.Begin})
	return h
}

func (h *history) commit() *history {
	h.events[h.start].LSN = h.lsn
	h.lsn += 0x10
	h.events = append(h.events, stream.Event{Kind: stream.Commit, LSN: h.lsn, CommitTime: time.Now()})
	return h
}

func (h *history) add(e stream.Event) *history {
	for _, tuple := range []*stream.Tuple{e.New, e.Old} {
		if tuple != nil {
			for _, v := range tuple.Values {
				e.Size += len(v.Data) + 16
			}
		}
	}
	h.events = append(h.events, e)
	return h
}

func (h *history) insert(table string, values ...any) *history {
	return h.add(stream.Event{Kind: stream.Insert, Relation: h.relation(table), New: tuple(values...)})
}

// update with the old row or key, nil when none was sent.
func (h *history) update(table string, old []any, values ...any) *history {
	e := stream.Event{Kind: stream.Update, Relation: h.relation(table), New: tuple(values...)}
	if old != nil {
		e.Old, e.OldIsKey = tuple(old...), h.relation(table).Identity != 'f'
	}
	return h.add(e)
}

func (h *history) delete(table string, old ...any) *history {
	return h.add(stream.Event{
		Kind: stream.Delete, Relation: h.relation(table), Old: tuple(old...), OldIsKey: h.relation(table).Identity != 'f',
	})
}

func (h *history) truncate(restart bool, tables ...string) *history {
	e := stream.Event{Kind: stream.Truncate, RestartIdentity: restart}
	for _, name := range tables {
		e.Relations = append(e.Relations, h.relation(name))
	}
	return h.add(e)
}

func (h *history) position() *history {
	h.lsn += 0x10
	return h.add(stream.Event{Kind: stream.Position, LSN: h.lsn})
}

// config applies to tables of the schema public of the target.
func config(t testing.TB, target *pgtest.Database, source apply.Source, tables ...string) apply.Config {
	chosen := map[schema.Name]apply.Table{}
	for _, name := range tables {
		chosen[schema.Name{Schema: "public", Name: name}] = apply.Table{Target: schema.Name{Schema: "public", Name: name}}
	}
	return apply.Config{
		Connect: func(ctx context.Context) (*pgx.Conn, error) {
			return target.Endpoint().Connect(ctx, postgres.Session{Name: "apply"})
		},
		Tables: chosen, Recorder: recorder{epoch: 1}, Source: source, ReplicaRole: true,
		SetFrom: 1, // sets, however small the history
	}
}

// apply runs the whole history in one go.
func (h *history) apply(t testing.TB, tables ...string) error {
	t.Helper()
	_, err := h.applyWith(t, func(*apply.Config) {}, tables...)
	return err
}

func (h *history) applyWith(t testing.TB, change func(*apply.Config), tables ...string) (apply.Stats, error) {
	t.Helper()
	source := newScript()
	source.chunks <- h.events
	c := config(t, h.target, source, tables...)
	change(&c)
	a := apply.New(c)
	a.StopAt(h.lsn)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := a.Run(ctx)
	return a.Stats(), err
}
