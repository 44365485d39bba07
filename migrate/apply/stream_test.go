package apply_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-db/slipway/migrate/apply"
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// The tables of the random load: every way to identify a row, unique values besides the key, values that are toasted,
// an identity column that UPDATE may not set, partitions, and names that need quotes.
const loadDDL = `
	CREATE TABLE plain (id int PRIMARY KEY, v text, n numeric, big text);
	ALTER TABLE plain ALTER big SET STORAGE EXTERNAL;
	CREATE TABLE wander (id int PRIMARY KEY, code int UNIQUE);
	CREATE TABLE "full" (a int, v text, j json); ALTER TABLE "full" REPLICA IDENTITY FULL;
	CREATE TABLE "Full ""Key""" (id int PRIMARY KEY, v text, big text); ALTER TABLE "Full ""Key""" REPLICA IDENTITY FULL;
	CREATE TABLE pair (y int, v float8, x int, PRIMARY KEY (x, y));
	CREATE TABLE always (id int PRIMARY KEY, s int GENERATED ALWAYS AS IDENTITY, v text, g int GENERATED ALWAYS AS (id + 1) STORED);
	CREATE TABLE parts (id int, r int, v text, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
	CREATE TABLE parts_0 PARTITION OF parts FOR VALUES IN (0); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
	CREATE TABLE many (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)`

var loadTables = []string{"plain", "wander", "full", `Full "Key"`, "pair", "always", "parts_0", "parts_1", "many"}

// loadStatements are chosen at random; $ stands for a small random key and ? for another.
var loadStatements = []string{
	`INSERT INTO plain VALUES ($, 'v$', 1.0, repeat('$', 3000)) ON CONFLICT DO NOTHING`,
	`INSERT INTO plain VALUES ($, 'v$', 1.0, repeat('$', 3000)) ON CONFLICT (id) DO UPDATE SET v = 'again', n = 2.50`,
	`UPDATE plain SET v = v || '$' WHERE id = $`,
	`UPDATE plain SET big = big || '$' WHERE id = $`,
	`UPDATE plain SET n = n + 1 WHERE id < $`,
	`UPDATE plain SET id = ? WHERE id = $ AND NOT EXISTS (SELECT FROM plain WHERE id = ?)`,
	`DELETE FROM plain WHERE id = $`,
	`DELETE FROM plain WHERE id > 30`,
	`INSERT INTO wander VALUES ($, ?) ON CONFLICT DO NOTHING`,
	`UPDATE wander SET code = NULL WHERE id = $`,
	`UPDATE wander SET code = ? WHERE id = $ AND NOT EXISTS (SELECT FROM wander WHERE code = ?)`,
	`DELETE FROM wander WHERE code = $`,
	`INSERT INTO "full" SELECT $ % 5, 'x', '{"a": 1}' FROM generate_series(1, 2)`,
	`UPDATE "full" SET a = ? % 5 WHERE ctid = (SELECT min(ctid) FROM "full" WHERE a = $ % 5)`,
	`UPDATE "full" SET v = NULL, j = '{"a":1}' WHERE a = 3`,
	`DELETE FROM "full" WHERE ctid = (SELECT max(ctid) FROM "full" WHERE a = $ % 5)`,
	`INSERT INTO "Full ""Key""" VALUES ($, '', repeat('z$', 5000)) ON CONFLICT DO NOTHING`,
	`UPDATE "Full ""Key""" SET v = v || 'u' WHERE id IN ($, ?)`,
	`UPDATE "Full ""Key""" SET id = ? WHERE id = $ AND NOT EXISTS (SELECT FROM "Full ""Key""" WHERE id = ?)`,
	`DELETE FROM "Full ""Key""" WHERE id = $`,
	`INSERT INTO pair VALUES ($, 'NaN', ?), (?, '-0', $ + 100) ON CONFLICT DO NOTHING`,
	`UPDATE pair SET v = v + $ WHERE x = ?`,
	`DELETE FROM pair WHERE y = $`,
	`INSERT INTO always (id, v) VALUES ($, 'a') ON CONFLICT DO NOTHING`,
	`UPDATE always SET v = v || '$' WHERE id = $`,
	`UPDATE always SET s = DEFAULT WHERE id = $`,
	`UPDATE always SET id = ? WHERE id = $ AND NOT EXISTS (SELECT FROM always WHERE id = ?)`,
	`DELETE FROM always WHERE id = $`,
	`INSERT INTO parts VALUES ($, ? % 2, 'p') ON CONFLICT DO NOTHING`,
	`UPDATE parts SET r = 1 - r WHERE id = $ AND NOT EXISTS (SELECT FROM parts p WHERE p.id = $ AND p.r = 1 - parts.r)`,
	`DELETE FROM parts WHERE id = $`,
	`INSERT INTO many (v) SELECT g::text FROM generate_series(1, 50) g`,
	`DELETE FROM many WHERE id % 40 = $`,
	`SAVEPOINT s`, `ROLLBACK TO s`,
}

// load runs random transactions on the source.
func load(ctx context.Context, conn *pgx.Conn, random *rand.Rand, transactions int) error {
	for i := range transactions {
		statements := []string{"SAVEPOINT s"}
		for range 1 + random.IntN(8) {
			statement := loadStatements[random.IntN(len(loadStatements))]
			statement = strings.ReplaceAll(statement, "$", fmt.Sprint(random.IntN(40)))
			statements = append(statements, strings.ReplaceAll(statement, "?", fmt.Sprint(random.IntN(40))))
		}
		if random.IntN(60) == 0 {
			truncate := []string{`plain`, `"full", wander`, `parts RESTART IDENTITY`, `parts_1`, `many`}
			statements = append(statements, "TRUNCATE "+truncate[random.IntN(len(truncate))])
		}
		end := "COMMIT"
		if random.IntN(20) == 0 {
			end = "ROLLBACK"
		}
		sql := "BEGIN; " + strings.Join(statements, "; ") + "; " + end
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return fmt.Errorf("transaction %d: %w\n%s", i, err, sql)
		}
	}
	return nil
}

// contents is every row of the load's tables by text, which any difference shows in.
func contents(t *testing.T, d *pgtest.Database) []string {
	t.Helper()
	queries := make([]string, len(loadTables))
	for i, name := range loadTables {
		queries[i] = fmt.Sprintf(`SELECT %s AS t, r::text AS v FROM ONLY %s r`, postgres.QuoteLiteral(name), postgres.QuoteIdent(name))
	}
	return d.Strings(t, `SELECT t || ': ' || left(v, 200) || md5(v) FROM (`+strings.Join(queries, " UNION ALL ")+`) x ORDER BY t COLLATE "C", v COLLATE "C"`)
}

// newStream makes the tables on both sides, and a slot and a publication on the source that go with the test.
func newStream(t *testing.T, ddl string, tables []string) (pair *pgtest.Pair, reader stream.Config) {
	t.Helper()
	pair = pgtest.NewPair(t)
	pair.Source.Exec(t, ddl)
	setUp(t, pair.Target, ddl)
	ctx := context.Background()
	control := pair.Source.Connect(t)
	names := make([]schema.Name, len(tables))
	for i, name := range tables {
		names[i] = schema.Name{Schema: "public", Name: name}
	}
	if err := stream.CreatePublication(ctx, control, "load", names); err != nil {
		t.Fatal(err)
	}
	slot := pair.Source.Name
	snapshot, err := stream.CreateSlot(ctx, pair.Source.Endpoint(), slot, stream.Pgoutput, stream.SlotOptions{})
	if err != nil {
		t.Fatal(err)
	}
	snapshot.Close(ctx)
	t.Cleanup(func() {
		if err := stream.DropSlot(ctx, control, slot); err != nil {
			t.Error(err)
		}
	})
	return pair, stream.Config{Endpoint: pair.Source.Endpoint(), Slot: slot, Publications: []string{"load"}, Plugin: stream.Pgoutput}
}

// follow runs one reader and one Applier until stop, which may change while it runs, or an error.
func follow(ctx context.Context, read stream.Config, write apply.Config, ready func(*apply.Applier)) error {
	reader := stream.New(read)
	write.Source = reader
	applier := apply.New(write)
	ready(applier)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := reader.Run(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		return nil
	})
	group.Go(func() error {
		defer cancel()
		return applier.Run(ctx)
	})
	return group.Wait()
}

func sourcePosition(t *testing.T, conn *pgx.Conn) postgres.LSN {
	t.Helper()
	lsn, err := stream.Heartbeat(context.Background(), conn)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// TestStream_RandomLoad applies the same random load with batches of 1, 7 and 1000 transactions, and with pieces, and
// compares all rows.
func TestStream_RandomLoad(t *testing.T) {
	pair, read := newStream(t, loadDDL, loadTables)
	control := pair.Source.Connect(t)
	type follower struct {
		name    string
		target  *pgtest.Database
		slot    string
		changes func(*apply.Config)
	}
	followers := []follower{{"1", pair.Target, read.Slot, func(c *apply.Config) { c.BatchTransactions = 1 }}}
	sizes := map[string]func(*apply.Config){
		"7":      func(c *apply.Config) { c.BatchTransactions = 7 },
		"1000":   func(c *apply.Config) { c.BatchTransactions = 1000 },
		"pieces": func(c *apply.Config) { c.BatchBytes = 3000 },
	}
	for name, change := range sizes {
		target := pgtest.NewPair(t).Target
		setUp(t, target, loadDDL)
		slot := read.Slot + "_" + name
		if _, err := control.Exec(context.Background(), `SELECT pg_copy_logical_replication_slot($1, $2)`, read.Slot, slot); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := stream.DropSlot(context.Background(), control, slot); err != nil {
				t.Error(err)
			}
		})
		followers = append(followers, follower{name, target, slot, change})
	}
	if err := load(context.Background(), control, rand.New(rand.NewPCG(1, 2)), 1500); err != nil {
		t.Fatal(err)
	}
	stop := sourcePosition(t, control)
	expected := contents(t, pair.Source)
	for _, f := range followers {
		c := config(t, f.target, nil, loadTables...)
		f.changes(&c)
		read.Slot = f.slot
		var applier *apply.Applier
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		err := follow(ctx, read, c, func(a *apply.Applier) { a.StopAt(stop); applier = a })
		if err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		if diff := cmp.Diff(expected, contents(t, f.target)); diff != "" {
			t.Errorf("%s: source and target differ (-source +target):\n%s", f.name, diff)
		}
		t.Logf("%s: %+v", f.name, applier.Stats())
	}
}

// TestStream_KilledAgainAndAgain ends the target's backend at random moments while the source writes. Each new Applier
// starts from the recorded position, whatever became of the last commit, and nothing is lost or doubled: the tables
// without a key would show it.
func TestStream_KilledAgainAndAgain(t *testing.T) {
	pair, read := newStream(t, loadDDL, loadTables)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	source, killer := pair.Source.Connect(t), pair.Target.Connect(t)
	random := rand.New(rand.NewPCG(3, 4))
	loaded := make(chan error, 1)
	go func() { loaded <- load(ctx, source, rand.New(rand.NewPCG(5, 6)), 3000) }()
	next := func() apply.Config {
		c := config(t, pair.Target, nil, loadTables...)
		c.BatchTransactions = 1 + random.IntN(50)
		c.Start = recorded(t, pair.Target)
		read.Start = c.Start
		return c
	}
	for i := range 25 {
		killed := make(chan error, 1)
		wait := random.Float64() / 4
		err := follow(ctx, read, next(), func(*apply.Applier) { go func() { killed <- kill(ctx, killer, wait) }() })
		if !postgres.Retryable(err) {
			t.Fatalf("kill %d: %v", i, err)
		}
		if err := <-killed; err != nil {
			t.Fatal(err)
		}
	}
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	stop := sourcePosition(t, source)
	if err := follow(ctx, read, next(), func(a *apply.Applier) { a.StopAt(stop) }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(contents(t, pair.Source), contents(t, pair.Target)); diff != "" {
		t.Errorf("source and target differ (-source +target):\n%s", diff)
	}
}

// kill ends the session that applies after some seconds, or as soon as there is one.
func kill(ctx context.Context, conn *pgx.Conn, seconds float64) error {
	if _, err := conn.Exec(ctx, `SELECT pg_sleep($1)`, seconds); err != nil {
		return err
	}
	for {
		tag, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid), pg_sleep(0.001) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'slipway/apply'`)
		if err != nil || tag.RowsAffected() > 0 {
			return err
		}
	}
}

// TestStream_CutAnywhere cuts the connection to the target after a random number of bytes of its answers, so also
// between a COMMIT and the word that it was done. Nothing but the recorded position tells what became of it.
func TestStream_CutAnywhere(t *testing.T) {
	pair, read := newStream(t, loadDDL, loadTables)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	source := pair.Source.Connect(t)
	random := rand.New(rand.NewPCG(7, 8))
	proxy := pgtest.NewProxy(t, fmt.Sprintf("127.0.0.1:%d", pair.Target.Server.Port()))
	endpoint, err := postgres.ParseEndpoint(pair.Target.URIVia(proxy.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	next := func() apply.Config {
		c := config(t, pair.Target, nil, loadTables...)
		c.Connect = func(ctx context.Context) (*pgx.Conn, error) {
			return endpoint.Connect(ctx, postgres.Session{Name: "apply"})
		}
		c.BatchTransactions = 1 + random.IntN(10)
		c.Start = recorded(t, pair.Target)
		read.Start = c.Start
		return c
	}
	if err := load(ctx, source, rand.New(rand.NewPCG(9, 10)), 400); err != nil {
		t.Fatal(err)
	}
	stop := sourcePosition(t, source)
	cuts := 0
	for finished := false; !finished; {
		c := next()
		connect := c.Connect
		c.Connect = func(ctx context.Context) (*pgx.Conn, error) {
			conn, err := connect(ctx)
			proxy.CutAfter(int64(4000+random.IntN(6000)), pgtest.ToClient)
			return conn, err
		}
		err := follow(ctx, read, c, func(a *apply.Applier) { a.StopAt(stop) })
		if finished = err == nil; finished {
			break
		}
		if !postgres.Retryable(err) {
			t.Fatalf("cut %d: %v", cuts, err)
		}
		cuts++
	}
	if cuts < 5 {
		t.Errorf("only %d connections were cut", cuts)
	}
	if diff := cmp.Diff(contents(t, pair.Source), contents(t, pair.Target)); diff != "" {
		t.Errorf("source and target differ (-source +target):\n%s", diff)
	}
}
