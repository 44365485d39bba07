package snapshot_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate/snapshot"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// objects shows all large objects with everything about them.
const objects = `SELECT m.oid || ' ' || md5(lo_get(m.oid)) || ' ' || pg_get_userbyid(lomowner) || ' ' ||
	coalesce(obj_description(m.oid, 'pg_largeobject'), '-') || ' ' ||
	coalesce((SELECT string_agg(x::text, ',' ORDER BY x::text COLLATE "C") FROM unnest(lomacl) x), 'default')
	FROM pg_largeobject_metadata m ORDER BY m.oid`

func align(t *testing.T, pair *pgtest.Pair, config snapshot.LargeObjectConfig) snapshot.LargeObjectReport {
	t.Helper()
	config.Source, config.Target = pair.Source.Endpoint(), pair.Target.Endpoint()
	report, err := snapshot.AlignLargeObjects(background(t), config)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func sameObjects(t *testing.T, pair *pgtest.Pair) {
	t.Helper()
	if diff := cmp.Diff(pair.Source.Strings(t, objects), pair.Target.Strings(t, objects)); diff != "" {
		t.Errorf("(-source +target):\n%s", diff)
	}
}

// roles are of the whole server, which other tests share.
func roles(t *testing.T, pair *pgtest.Pair) {
	t.Helper()
	sql := `DO $$ BEGIN
		IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'Lo "owner"') THEN CREATE ROLE "Lo ""owner"""; END IF;
		IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'lo_reader') THEN CREATE ROLE lo_reader; END IF; END $$`
	pair.Source.Exec(t, sql)
	pair.Target.Exec(t, sql)
}

func TestAlignLargeObjects_CreateChangeRemove(t *testing.T) {
	pair := pgtest.NewPair(t)
	roles(t, pair)
	pair.Source.Exec(t, `SELECT lo_from_bytea(1001, 'small'); SELECT lo_create(1002);
		SELECT lo_from_bytea(4294967295, 'largest oid'); SELECT lo_from_bytea(1004, '\x00ff');
		SELECT lo_from_bytea(1005, convert_to(repeat('0123456789', 1000000), 'UTF8'));
		SELECT lo_create(1006); SELECT lo_put(1006, 30000000, 'after a hole');
		ALTER LARGE OBJECT 1001 OWNER TO "Lo ""owner"""; COMMENT ON LARGE OBJECT 1002 IS E'it''s \\ a comment';
		GRANT SELECT ON LARGE OBJECT 1001 TO lo_reader WITH GRANT OPTION; GRANT UPDATE ON LARGE OBJECT 1004 TO PUBLIC;
		REVOKE UPDATE ON LARGE OBJECT 1005 FROM postgres`)
	pair.Target.Exec(t, `SELECT lo_from_bytea(5, 'extra'); SELECT lo_from_bytea(2000, 'extra')`)

	report := align(t, pair, snapshot.LargeObjectConfig{})
	want := snapshot.LargeObjectReport{Total: 6, Created: 6, Removed: 2, Bytes: 5 + 11 + 2 + 10000000 + 30000012}
	if diff := cmp.Diff(want, report); diff != "" {
		t.Error(diff)
	}
	sameObjects(t, pair)

	if diff := cmp.Diff(snapshot.LargeObjectReport{Total: 6}, align(t, pair, snapshot.LargeObjectConfig{})); diff != "" {
		t.Errorf("nothing changed:\n%s", diff)
	}

	pair.Source.Exec(t, `SELECT lo_put(1005, 9999999, 'X'); SELECT lo_unlink(1002); SELECT lo_from_bytea(1007, 'new');
		SELECT lo_put(1001, 5, '+'); BEGIN; SELECT lo_truncate(lo_open(1006, 131072), 3); COMMIT;
		COMMENT ON LARGE OBJECT 1004 IS 'now'; REVOKE SELECT ON LARGE OBJECT 1001 FROM lo_reader; GRANT UPDATE ON LARGE OBJECT 1001 TO lo_reader;
		ALTER LARGE OBJECT 1004 OWNER TO lo_reader; REVOKE ALL ON LARGE OBJECT 4294967295 FROM postgres`)
	report = align(t, pair, snapshot.LargeObjectConfig{})
	want = snapshot.LargeObjectReport{Total: 6, Created: 1, Changed: 3, Removed: 1, Altered: 3, Bytes: 3 + 10000000 + 6 + 3}
	if diff := cmp.Diff(want, report); diff != "" {
		t.Error(diff)
	}
	sameObjects(t, pair)

	pair.Source.Exec(t, `COMMENT ON LARGE OBJECT 1004 IS NULL; GRANT SELECT ON LARGE OBJECT 1004 TO postgres; ALTER LARGE OBJECT 1004 OWNER TO postgres`)
	align(t, pair, snapshot.LargeObjectConfig{})
	sameObjects(t, pair)
}

func TestAlignLargeObjects_NoOwnerNoPrivilegesKeepExtra(t *testing.T) {
	pair := pgtest.NewPair(t)
	roles(t, pair)
	pair.Source.Exec(t, `SELECT lo_from_bytea(1, 'a'); GRANT SELECT ON LARGE OBJECT 1 TO PUBLIC; ALTER LARGE OBJECT 1 OWNER TO lo_reader`)
	pair.Target.Exec(t, `SELECT lo_from_bytea(2, 'mine')`)
	report := align(t, pair, snapshot.LargeObjectConfig{NoOwner: true, NoPrivileges: true, KeepExtra: true})
	if diff := cmp.Diff(snapshot.LargeObjectReport{Total: 1, Created: 1, Bytes: 1}, report); diff != "" {
		t.Error(diff)
	}
	got := pair.Target.Strings(t, `SELECT oid || ' ' || pg_get_userbyid(lomowner) || ' ' || (lomacl IS NULL) FROM pg_largeobject_metadata ORDER BY oid`)
	if diff := cmp.Diff([]string{"1 postgres true", "2 postgres true"}, got); diff != "" {
		t.Error(diff)
	}
}

// The copy at the start shows the snapshot, whatever happens to the objects afterwards.
func TestAlignLargeObjects_UnderSnapshot(t *testing.T) {
	j := setUp(t, "", `SELECT lo_from_bytea(1, 'old'); SELECT lo_from_bytea(2, 'gone')`)
	want := j.pair.Source.Strings(t, objects)
	j.pair.Source.Exec(t, `SELECT lo_put(1, 0, 'new'); SELECT lo_unlink(2); SELECT lo_from_bytea(3, 'late')`)
	align(t, j.pair, snapshot.LargeObjectConfig{Snapshot: j.config.Snapshot})
	if diff := cmp.Diff(want, j.pair.Target.Strings(t, objects)); diff != "" {
		t.Errorf("(-snapshot +target):\n%s", diff)
	}
	align(t, j.pair, snapshot.LargeObjectConfig{})
	sameObjects(t, j.pair)
}

// Many small objects go in pages, not one by one, and neither they nor a large one take much memory.
func TestAlignLargeObjects_ManyAndLarge(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `SELECT count(lo_from_bytea(g::oid, convert_to('object ' || g, 'UTF8'))) FROM generate_series(10001, 13500) g;
		SELECT lo_create(50000); SELECT count(lo_put(50000, g * 1000000::bigint, convert_to(repeat('x', 1000000), 'UTF8'))) FROM generate_series(0, 99) g`)
	pair.Target.Exec(t, `SELECT count(lo_create(g::oid)) FROM generate_series(20001, 22500) g`)
	statements := `SELECT sum(xact_commit) FROM pg_stat_database WHERE datname = current_database()`
	before := pair.Target.Int(t, statements)
	report := align(t, pair, snapshot.LargeObjectConfig{})
	if report.Created != 3501 || report.Removed != 2500 || report.Total != 3501 {
		t.Errorf("%+v", report)
	}
	sameObjects(t, pair)
	if n := pair.Target.Int(t, statements) - before; n > 50 {
		t.Errorf("%d transactions", n)
	}
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	if memory.Sys > 200<<20 {
		t.Errorf("the process took %d MB", memory.Sys>>20)
	}
}

// Without superuser's rights a missing privilege is an error that names the object, never a silent gap.
func TestAlignLargeObjects_WithoutPrivilege(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'lo_stranger') THEN CREATE ROLE lo_stranger LOGIN; END IF; END $$`,
		`SELECT lo_from_bytea(77, 'secret')`)
	endpoint, err := postgres.ParseEndpoint(strings.Replace(pair.Source.URI(), "postgres@", "lo_stranger@", 1))
	if err != nil {
		t.Fatal(err)
	}
	_, err = snapshot.AlignLargeObjects(background(t), snapshot.LargeObjectConfig{Source: endpoint, Target: pair.Target.Endpoint()})
	if postgres.Code(err) != "42501" || !strings.Contains(err.Error(), "77") {
		t.Errorf("error: %v", err)
	}
}
