package verify_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/verify"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

const liveTables = `
	CREATE TABLE ranged (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0, v text);
	CREATE TABLE hashed (k text PRIMARY KEY, n bigint NOT NULL DEFAULT 0);
	CREATE TABLE keyless (n bigint, v text);
	ALTER TABLE keyless REPLICA IDENTITY FULL;`

const liveRows = `
	INSERT INTO ranged SELECT i, 0, 'v' || i FROM generate_series(1, 1000) i;
	INSERT INTO hashed SELECT 'key ' || i, 0 FROM generate_series(1, 500) i;
	INSERT INTO keyless SELECT i % 20, 'x' FROM generate_series(1, 200) i;`

// subscribe makes the target follow the source by native replication, and gives what it has applied.
func subscribe(t *testing.T, pair *pgtest.Pair) func(context.Context) (postgres.LSN, bool, error) {
	t.Helper()
	pair.Source.Exec(t, liveTables+liveRows, `CREATE PUBLICATION everything FOR ALL TABLES`)
	pair.Target.Exec(t, liveTables)
	name := "follow_" + pair.Target.Name
	pair.Target.Exec(t, fmt.Sprintf(`CREATE SUBSCRIPTION %s CONNECTION %s PUBLICATION everything`,
		postgres.QuoteIdent(name), postgres.QuoteLiteral(pair.Source.URI())))
	t.Cleanup(func() {
		pair.Target.Exec(t, `DROP SUBSCRIPTION `+postgres.QuoteIdent(name))
		pair.Source.Exec(t, `DROP PUBLICATION everything`)
	})
	pgtest.Eventually(t, time.Minute, "the initial copy ends", func() bool {
		return pair.Target.Int(t, `SELECT count(*) FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
			WHERE s.subname = $1 AND r.srsubstate <> 'r'`, name) == 0
	})
	conn := pair.Target.Connect(t)
	return func(ctx context.Context) (postgres.LSN, bool, error) {
		var lsn postgres.LSN
		// latest_end_lsn comes with a keep-alive, which the one apply worker reads after it applied all before it.
		err := conn.QueryRow(ctx, `SELECT greatest(s.latest_end_lsn, o.remote_lsn)::text FROM pg_stat_subscription s
			LEFT JOIN pg_replication_origin_status o ON o.external_id = 'pg_' || s.subid
			WHERE s.subname = $1 AND s.relid IS NULL`, name).Scan(&lsn)
		return lsn, lsn > 0, err
	}
}

// write changes all tables until the context ends: many rows now and then, a few all the time.
func write(t *testing.T, d *pgtest.Database) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var writers sync.WaitGroup
	for w := range 2 {
		conn := d.Connect(t)
		writers.Go(func() { writeUntil(ctx, t, conn, w) })
	}
	return sync.OnceFunc(func() { cancel(); writers.Wait() })
}

func writeUntil(ctx context.Context, t *testing.T, conn *pgx.Conn, writer int) {
	random := rand.New(rand.NewPCG(uint64(writer), 1))
	// Paced, so that the one apply worker keeps up.
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		<-pace.C
		statements := []string{
			fmt.Sprintf(`UPDATE ranged SET n = n + 1 WHERE id = %d`, 10+writer), // a row that never rests
			fmt.Sprintf(`UPDATE ranged SET n = n + 1, v = v || 'x' WHERE id = %d`, 100+random.IntN(800)),
			fmt.Sprintf(`INSERT INTO ranged VALUES (%d, 0, 'new')`, 100_000+writer*1_000_000+n),
			fmt.Sprintf(`UPDATE hashed SET n = n + 1 WHERE k = 'key %d'`, 50+random.IntN(100)),
			fmt.Sprintf(`INSERT INTO keyless VALUES (%d, 'w')`, 1000+n),
			fmt.Sprintf(`DELETE FROM keyless WHERE n = %d`, 1000+n-30),
		}
		for _, sql := range statements {
			if _, err := conn.Exec(context.Background(), sql); err != nil {
				t.Errorf("write: %v", err)
				return
			}
		}
	}
}

func TestRun_LiveRaisesNoFalseAlarm(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	applied := subscribe(t, pair)
	stop := write(t, pair.Source)
	defer stop()
	for _, mode := range []verify.Mode{verify.Full, verify.Rows} {
		c := config(t, pair)
		c.Mode, c.Applied = mode, applied
		report := run(t, c)
		wantResult(t, report, verify.Same)
		if !report.Live {
			t.Error("not reported as live")
		}
	}
}

func TestRun_LiveFindsPlantedFaults(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	applied := subscribe(t, pair)
	stop := write(t, pair.Source)
	defer stop()
	pair.Target.Exec(t, `
		UPDATE ranged SET v = v || '!' WHERE id IN (1, 2);
		DELETE FROM ranged WHERE id = 3;
		INSERT INTO ranged VALUES (-1, 0, 'extra');
		UPDATE hashed SET n = 77 WHERE k = 'key 1';
		DELETE FROM hashed WHERE k = 'key 2';
		DELETE FROM keyless WHERE ctid = (SELECT ctid FROM keyless WHERE n = 3 LIMIT 1);
		INSERT INTO keyless VALUES (4, 'x'), (4, 'x')`)
	c := config(t, pair)
	c.Applied = applied
	report := run(t, c)
	wantResult(t, report, verify.Different)
	type counts struct{ Missing, Extra, Different, Unsettled int64 }
	got := map[string]counts{}
	for _, table := range report.Tables {
		got[table.Name.Name] = counts{table.Missing, table.Extra, table.Different, table.Unsettled}
	}
	want := map[string]counts{"ranged": {1, 1, 2, 0}, "hashed": {1, 0, 1, 0}, "keyless": {1, 2, 0, 0}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%+v", diff, report.Tables)
	}
}

// A lost row is found by its count too, although the counts never stand still.
func TestRun_LiveRowsModeFindsLostRow(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	applied := subscribe(t, pair)
	stop := write(t, pair.Source)
	defer stop()
	pair.Target.Exec(t, `DELETE FROM ranged WHERE id = 3`)
	c := config(t, pair)
	c.Mode, c.Applied = verify.Rows, applied
	wantResult(t, run(t, c), verify.Different)
}

// When nothing is applied any more, a difference cannot be told from a change on its way.
func TestRun_LiveWithoutProgressIsAnError(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	onBoth(t, pair, liveTables+liveRows)
	pair.Source.Exec(t, `UPDATE ranged SET n = 1 WHERE id = 1`)
	c := config(t, pair)
	c.ApplyTimeout = 200 * time.Millisecond
	c.Applied = func(context.Context) (postgres.LSN, bool, error) { return 0, false, nil }
	report := run(t, c)
	wantResult(t, report, verify.Failed)
	for _, table := range report.Tables {
		if want := table.Name.Name == "ranged"; (table.Result == verify.Failed) != want {
			t.Errorf("%+v", table)
		}
	}
}
