package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/pgtest"
)

// record is an event with everything that both decoders must agree on.
type record struct {
	Text, LSN, Time string
	XID             uint32
	Table           string // definition
}

// records reads a slot from its beginning to now.
func records(t *testing.T, p *prepared, config stream.Config) []record {
	t.Helper()
	var list []record
	follow(t, config).until(p.conn, func(e stream.Event) {
		if e.Kind == stream.Position {
			return
		}
		r := record{Text: render(e), XID: e.XID}
		if e.Kind == stream.Begin || e.Kind == stream.Commit {
			r.LSN, r.Time = e.LSN.String(), e.CommitTime.String()
		}
		if e.Relation != nil {
			r.Table = fmt.Sprintf("%d %c", e.Relation.OID, e.Relation.Identity)
			for _, c := range e.Relation.Columns {
				r.Table += fmt.Sprintf(" %s %v %d %d", c.Name, c.Key, c.TypeOID, c.TypeMod)
			}
		}
		list = append(list, r)
	})
	return list
}

// sameRecords compares two slots' reading of one history. The one known difference is Begin.LSN: test_decoding does
// not tell the start of the commit record, and its last byte stands for it.
func sameRecords(t *testing.T, pgoutput, testDecoding []record) {
	t.Helper()
	var expected []record
	for i, r := range pgoutput {
		if r.Text == "begin" {
			for _, later := range pgoutput[i:] {
				if later.Text == "commit" {
					r.LSN = later.LSN + " - 1"
					break
				}
			}
		}
		expected = append(expected, r)
	}
	var found []record
	for i, r := range testDecoding {
		if r.Text == "begin" {
			for _, later := range testDecoding[i:] {
				if later.Text == "commit" {
					if end := parseLSN(t, later.LSN); parseLSN(t, r.LSN) == end-1 {
						r.LSN = later.LSN + " - 1"
					}
					break
				}
			}
		}
		found = append(found, r)
	}
	if diff := cmp.Diff(expected, found); diff != "" {
		t.Errorf("pgoutput (-) and test_decoding (+) differ: %s", diff)
	}
	if len(found) < 3 {
		t.Errorf("only %d events", len(found))
	}
}

const oddTypes = `
CREATE SCHEMA "Odd ]:Schema";
CREATE TYPE "Odd ]:Schema"."en[]um" AS ENUM ('a', '', 'it''s', 'x"y');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN flag AS boolean;
CREATE TABLE types (
	id bigint PRIMARY KEY, b boolean, f flag, ba boolean[], i2 smallint, i4 int, ia int[], o oid, r real, d double precision,
	n numeric(20,5), n2 numeric, m money, t text, v varchar(30), va varchar(10)[], c char(5), "ch" "char", na name, by bytea,
	bi bit(5), vb bit varying, bia bit(3)[], ts timestamp(3), tz timestamp with time zone, tza timestamp with time zone[], da date,
	ti time, tt time with time zone, iv interval day to second, u uuid, j json, jb jsonb, x xml, en "Odd ]:Schema"."en[]um",
	ena "Odd ]:Schema"."en[]um"[], p pair, pa pair[], ra int4range, ip inet, ma macaddr8, po point, bx box[], tv tsvector,
	rc regclass, lsn pg_lsn);
CREATE TABLE "Odd ]:Schema"."ta.b""le: DELETE:" ("select" int, "a b" text, "x""y[text]:" text, PRIMARY KEY ("x""y[text]:", "select"));
CREATE TABLE no_columns ();
CREATE TABLE dropped (a int, b int, c int PRIMARY KEY, d text);
CREATE TABLE including (a int, b int, c text, PRIMARY KEY (c, a) INCLUDE (b));
ALTER TABLE dropped DROP a, DROP b;
ALTER TABLE dropped ADD e int DEFAULT 5`

var oddTypeChanges = []string{
	`INSERT INTO types SELECT id FROM generate_series(1, 3) AS id`,
	`UPDATE types SET b = true, f = true, ba = '{t,f,NULL}', i2 = -32768, i4 = 2147483647, ia = '[3:4]={1,NULL}', o = 4294967295,
	 r = 'NaN', d = '-Infinity', n = -1.5, n2 = 'NaN', m = -5.5, t = e'unchanged-toast-datum', v = 'null', va = '{"a b",NULL,"NULL"}',
	 c = 'x', "ch" = 'x', na = 'true', by = '\x00ff27', bi = B'01010', vb = B'', bia = '{101,NULL}', ts = '0044-03-15 BC', tz = 'infinity',
	 tza = '{2020-01-01 00:00:00+05}', da = '5874897-12-31', ti = '24:00', tt = '23:59:60-15:59', iv = '-1 day 02:00:00', u = '00000000-0000-0000-0000-000000000000',
	 j = '{"a" :1,"a":2}', jb = '{"b":1e400}', x = '<a b="''"/>', en = 'it''s', ena = '{a,"",it''s,"x\"y"}', p = '(1,"a ""b")', pa = '{"(1,x)",NULL}',
	 ra = '[1,)', ip = '::1/128', ma = '08:00:2b:01:02:03:04:05', po = '(-0,NaN)', bx = '{(1,1),(0,0);(2,2),(0,0)}', tv = 'a:1A ''b c'':2',
	 rc = 'types', lsn = '0/0' WHERE id = 1`,
	`UPDATE types SET b = false, f = false, r = '1e-45', d = 5e-324, n2 = 'Infinity', en = '', t = e'a''b\\\nc\t[text]:''x'' new-tuple: old-key: (no-tuple-data)',
	 v = '', "ch" = '', na = 'unchanged-toast-datum' WHERE id = 2`,
	`UPDATE types SET r = -0.0, d = '-0', n = 1e14, t = '''', v = '''''', x = '' WHERE id = 3`,
	`UPDATE types SET id = -id`, `DELETE FROM types`,
	`INSERT INTO "Odd ]:Schema"."ta.b""le: DELETE:" VALUES (1, 'a', 'b'), (2, NULL, e'it''s\nx')`,
	`UPDATE "Odd ]:Schema"."ta.b""le: DELETE:" SET "a b" = 'c'`, `UPDATE "Odd ]:Schema"."ta.b""le: DELETE:" SET "x""y[text]:" = '' WHERE "select" = 1`,
	`DELETE FROM "Odd ]:Schema"."ta.b""le: DELETE:"`,
	`INSERT INTO no_columns DEFAULT VALUES`,
	`INSERT INTO including VALUES (1, 2, 'x')`, `UPDATE including SET c = 'y'`, `DELETE FROM including`,
	`INSERT INTO dropped VALUES (1, 'x'), (2, NULL)`, `DELETE FROM dropped WHERE c = 1`,
	`BEGIN; SELECT pg_logical_emit_message(true, 'p', e'COMMIT 1\nBEGIN'); INSERT INTO dropped VALUES (7, ''); SELECT pg_logical_emit_message(false, 'p', ''); COMMIT`,
	`CREATE TABLE other (a int); INSERT INTO other VALUES (1)`,
	`BEGIN; INSERT INTO dropped VALUES (8, 'x'); PREPARE TRANSACTION 'odd '' gid'`,
	`INSERT INTO dropped VALUES (9, 'between')`,
	`COMMIT PREPARED 'odd '' gid'`,
	// A large one, which pgoutput streams and test_decoding does not.
	`BEGIN; INSERT INTO dropped SELECT i, repeat('x', 100) FROM generate_series(1000, 4000) AS i; SAVEPOINT a;
	 UPDATE dropped SET d = 'y' WHERE c > 3000; ROLLBACK TO a; UPDATE dropped SET c = -c WHERE c % 3 = 0; COMMIT`,
}

// The two decoders share only the queue, so that they check each other.
func TestPlugins_SayTheSame(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"logical_decoding_work_mem": "64kB"}})
	db := server.NewDatabase(t, pgtest.DatabaseOptions{})
	db.Exec(t, everyChangeTables, oddTypes)
	tables := append([]string{"types", "no_columns", "dropped", "including"}, everyChangeTableNames...)
	p := prepare(t, db, stream.Pgoutput, tables...)
	db.Exec(t, `ALTER PUBLICATION `+p.name+` ADD TABLE "Odd ]:Schema"."ta.b""le: DELETE:"`)
	// pgoutput sees a publication as it was at each change: start after this one.
	q := prepare(t, db, stream.TestDecoding)
	config := q.config()
	config.Tables = func(_, name string) bool { return name != "other" }
	db.Exec(t, everyChange...)
	db.Exec(t, oddTypeChanges...)
	sameRecords(t, records(t, p, p.config()), records(t, q, config))
}

// TestTestDecoding_RefusesOtherEncodings proves that bytes are never taken for text of another encoding.
func TestTestDecoding_RefusesOtherEncodings(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, pgtest.Options{}).NewDatabase(t, pgtest.DatabaseOptions{Name: "latin", Encoding: "LATIN1", Locale: "C"})
	p := prepare(t, db, stream.TestDecoding)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := stream.New(p.config()).Run(ctx); !errors.Is(err, stream.ErrEncoding) || !strings.Contains(err.Error(), "LATIN1") {
		t.Errorf("the reader ended with %v", err)
	}
}

func TestTestDecoding_DropsTablesThatAreNotChosen(t *testing.T) {
	t.Parallel()
	db := pgtest.NewPair(t).Source
	db.Exec(t, everyChangeTables)
	p := prepare(t, db, stream.TestDecoding)
	config := p.config()
	config.Tables = func(schema, name string) bool { return schema == "public" && name == "truncated" }
	db.Exec(t, everyChange...)
	want := []string{
		"begin", "insert public.truncated new(id=1)", "truncate public.truncated cascade=false restart=false",
		"truncate public.truncated cascade=true restart=true", "commit",
	}
	if diff := cmp.Diff(want, follow(t, config).lines(p.conn)); diff != "" {
		t.Error(diff)
	}
}

// Protocol versions, options and catalogues differ between the majors; what comes out does not.
func TestPlugins_EveryMajor(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 13, 17, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			options := pgtest.Options{Major: major, Settings: map[string]string{}}
			if major >= 13 {
				options.Settings["logical_decoding_work_mem"] = "64kB"
			}
			db := pgtest.Start(t, options).NewDatabase(t, pgtest.DatabaseOptions{})
			db.Exec(t, everyChangeTables, `CREATE TABLE dropped (id int PRIMARY KEY, x text)`)
			tables := append([]string{"dropped"}, everyChangeTableNames...)
			p := prepare(t, db, stream.Pgoutput, tables...)
			q := prepare(t, db, stream.TestDecoding)
			changes := everyChange
			if major < 11 { // TRUNCATE is not decoded
				changes = slices.DeleteFunc(slices.Clone(changes), func(sql string) bool { return strings.Contains(sql, "TRUNCATE") })
			}
			db.Exec(t, changes...)
			db.Exec(t, `BEGIN; INSERT INTO dropped SELECT i, repeat('x', 100) FROM generate_series(1, 2000) AS i; SAVEPOINT a;
				UPDATE dropped SET x = 'y' WHERE id > 1000; ROLLBACK TO a; UPDATE dropped SET id = -id WHERE id % 3 = 0; COMMIT`)
			sameRecords(t, records(t, p, p.config()), records(t, q, q.config()))

			must(t, stream.VerifyPublication(t.Context(), p.conn, p.name, publicTables(tables)))
			info := inspect(t, p)
			if !info.Exists || info.Plugin != stream.Pgoutput || info.Lost() || info.ConfirmedFlush == 0 || (info.WALStatus != "") != (major >= 13) {
				t.Errorf("slot %+v", info)
			}
			snapshot, err := stream.CreateSlot(t.Context(), db.Endpoint(), p.name+"_failover", stream.Pgoutput, stream.SlotOptions{Failover: true})
			must(t, err)
			must(t, snapshot.Close(t.Context()))
			failover, err := stream.InspectSlot(t.Context(), p.conn, snapshot.Slot)
			if err != nil || failover.Failover != (major >= 17) {
				t.Errorf("slot %+v, %v", failover, err)
			}
			must(t, stream.DropSlot(t.Context(), p.conn, snapshot.Slot))
			first, err := stream.SourcePosition(t.Context(), p.conn)
			must(t, err)
			second, err := stream.Heartbeat(t.Context(), p.conn)
			must(t, err)
			identity, err := stream.Identify(t.Context(), db.Endpoint())
			if err != nil || first == 0 || second <= first || identity.Position < second || identity.Timeline != 1 || identity.SystemID == "" {
				t.Errorf("positions %s, %s, identity %+v, %v", first, second, identity, err)
			}
		})
	}
}
