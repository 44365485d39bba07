package stream_test

import (
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/pgtest"
)

// everyChange has all kinds of changes and identities, and what each must come out as.
const everyChangeTables = `
CREATE TABLE plain (id int PRIMARY KEY, a text, b text);
CREATE TABLE wide (id int PRIMARY KEY, small text, big text);
ALTER TABLE wide ALTER big SET STORAGE EXTERNAL;
CREATE TABLE full_id (a int, b text, big text);
ALTER TABLE full_id REPLICA IDENTITY FULL;
ALTER TABLE full_id ALTER big SET STORAGE EXTERNAL;
CREATE TABLE by_index (x text, y int NOT NULL, z text NOT NULL);
CREATE UNIQUE INDEX by_index_zy ON by_index (z, y);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_zy;
CREATE TABLE nothing (a int);
ALTER TABLE nothing REPLICA IDENTITY NOTHING;
CREATE TABLE truncated (id serial PRIMARY KEY);
CREATE TABLE "odd ""table"", x: INSERT:" (id int PRIMARY KEY, "co[l]: 'um""n" text)`

var everyChange = []string{
	`INSERT INTO plain VALUES (1, 'x', NULL), (2, '', 'null')`,
	`UPDATE plain SET a = 'y' WHERE id = 1`,
	`UPDATE plain SET id = 3 WHERE id = 2`,
	`DELETE FROM plain WHERE id = 3`,
	`INSERT INTO wide VALUES (1, 's', repeat('v', 9000))`,
	`UPDATE wide SET small = 't'`,
	`UPDATE wide SET id = 2`,
	`INSERT INTO full_id VALUES (NULL, 'b', NULL), (1, NULL, repeat('w', 9000))`,
	`UPDATE full_id SET b = 'c' WHERE a IS NULL`,
	`UPDATE full_id SET b = 'd' WHERE a = 1`,
	`DELETE FROM full_id WHERE a IS NULL`,
	`INSERT INTO by_index VALUES ('x', 1, 'z')`,
	`UPDATE by_index SET x = NULL`,
	`UPDATE by_index SET y = 2`,
	`DELETE FROM by_index`,
	`INSERT INTO nothing VALUES (1), (NULL)`,
	`BEGIN; INSERT INTO truncated DEFAULT VALUES; TRUNCATE truncated; TRUNCATE truncated, plain RESTART IDENTITY CASCADE;
	 SAVEPOINT a; INSERT INTO plain VALUES (8, 'gone', ''); ROLLBACK TO a; INSERT INTO plain VALUES (9, 'stays', ''); COMMIT`,
	`BEGIN; INSERT INTO plain VALUES (10, 'never', ''); ROLLBACK`,
	`INSERT INTO "odd ""table"", x: INSERT:" VALUES (1, e'it''s\nnew-tuple: a[text]:''x'' \\')`,
}

var everyChangeTableNames = []string{
	"plain", "wide", "full_id", "by_index", "nothing", "truncated", `odd "table", x: INSERT:`,
}

// everyChangeEvents are the events of everyChange, long values shortened by shorten.
var everyChangeEvents = []string{
	"begin", "insert public.plain new(id=1 a=x b=null)", "insert public.plain new(id=2 a= b=null)", "commit",
	"begin", "update public.plain new(id=1 a=y b=null)", "commit",
	"begin", "update public.plain key(id=2) new(id=3 a= b=null)", "commit",
	"begin", "delete public.plain key(id=3)", "commit",
	"begin", "insert public.wide new(id=1 small=s big=vvv…)", "commit",
	"begin", "update public.wide new(id=1 small=t big=unchanged)", "commit",
	"begin", "update public.wide key(id=1) new(id=2 small=t big=unchanged)", "commit",
	"begin", "insert public.full_id new(a=null b=b big=null)", "insert public.full_id new(a=1 b=null big=www…)", "commit",
	"begin", "update public.full_id old(a=null b=b big=null) new(a=null b=c big=null)", "commit",
	"begin", "update public.full_id old(a=1 b=null big=www…) new(a=1 b=d big=unchanged)", "commit",
	"begin", "delete public.full_id old(a=null b=c big=null)", "commit",
	"begin", "insert public.by_index new(x=x y=1 z=z)", "commit",
	"begin", "update public.by_index new(x=null y=1 z=z)", "commit",
	"begin", "update public.by_index key(y=1 z=z) new(x=null y=2 z=z)", "commit",
	"begin", "delete public.by_index key(y=2 z=z)", "commit",
	"begin", "insert public.nothing new(a=1)", "insert public.nothing new(a=null)", "commit",
	"begin", "insert public.truncated new(id=1)", "truncate public.truncated cascade=false restart=false",
	"truncate public.truncated,public.plain cascade=true restart=true", "insert public.plain new(id=9 a=stays b=)", "commit",
	"begin", "insert public.odd \"table\", x: INSERT: new(id=1 co[l]: 'um\"n=it's\nnew-tuple: a[text]:'x' \\)", "commit",
}

// shorten cuts runs of one letter.
func shorten(lines []string) []string {
	long := regexp.MustCompile(`v{4,}|w{4,}`)
	for i := range lines {
		lines[i] = long.ReplaceAllStringFunc(lines[i], func(run string) string { return run[:3] + "…" })
	}
	return lines
}

func TestReader_EveryKindOfChange(t *testing.T) {
	t.Parallel()
	for _, plugin := range []stream.Plugin{stream.Pgoutput, stream.TestDecoding} {
		t.Run(string(plugin), func(t *testing.T) {
			t.Parallel()
			db := pgtest.NewPair(t).Source
			db.Exec(t, everyChangeTables)
			p := prepare(t, db, plugin, everyChangeTableNames...)
			db.Exec(t, everyChange...)
			r := follow(t, p.config())
			if diff := cmp.Diff(everyChangeEvents, shorten(r.lines(p.conn))); diff != "" {
				t.Error(diff)
			}
		})
	}
}
