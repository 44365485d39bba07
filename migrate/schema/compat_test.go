package schema_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/pgtest"
)

func capabilities(t *testing.T, d *pgtest.Database) *schema.Capabilities {
	t.Helper()
	c, err := schema.ReadCapabilities(context.Background(), connect(t, d))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func lacking(t *testing.T, source, target *pgtest.Database) []string {
	t.Helper()
	lacks := []string{}
	for _, l := range load(t, source, schema.Selection{}).Lacking(capabilities(t, target)) {
		lacks = append(lacks, l.Kind+" "+l.Name+": "+l.Reason)
	}
	return lacks
}

func TestLacking_NothingOnAnEqualServer(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, everyKind, `CREATE EXTENSION bloom; CREATE INDEX ON app.orders USING bloom (customer)`)
	equal(t, "lacking", lacking(t, pair.Source, pair.Target), []string{})
	c := capabilities(t, pair.Target)
	if x := c.Extensions["citext"]; x.Default == "" || x.Installed != "" || !slices.Contains(x.Versions, x.Default) {
		t.Errorf("citext: %+v", x)
	}
	if x := c.Extensions["plpgsql"]; x.Installed == "" {
		t.Errorf("plpgsql: %+v", x)
	}
}

func TestLacking_OnAnOlderServer(t *testing.T) {
	t.Parallel()
	source, target := startPair(t, [2]int{17, 10})
	db := source.NewDatabase(t, pgtest.DatabaseOptions{})
	db.Exec(t, `SET allow_in_place_tablespaces = on`, `CREATE TABLESPACE fast LOCATION ''`, `
		CREATE DOMAIN route AS jsonpath;
		CREATE TYPE pair AS (a xid8);
		CREATE TABLE app (paths route[], spans int4multirange, p pair, t text COLLATE pg_c_utf8) TABLESPACE fast;
		CREATE COLLATION elsewhere (provider = libc, locale = 'C');
		CREATE TABLE fine (id int, name text COLLATE "C", other text COLLATE elsewhere)`)
	equal(t, "lacking", lacking(t, db, target.Maintenance()), []string{
		"type pg_catalog.int4multirange: PostgreSQL 10 does not have it; used by public.app.spans",
		"type pg_catalog.jsonpath: PostgreSQL 10 does not have it; used by public.app.paths",
		"type pg_catalog.xid8: PostgreSQL 10 does not have it; used by public.app.p",
		"tablespace fast: not on the target",
		"collation pg_catalog.pg_c_utf8: builtin locales exist from PostgreSQL 17",
	})
}

// TestCatalog_EveryVersion runs every query on the versions that are there; a column that a version lacks fails it.
func TestCatalog_EveryVersion(t *testing.T) {
	t.Parallel()
	for _, majors := range [][2]int{{10, 13}, {17, 18}} {
		pair := pgtest.NewPairOf(t, majors[0], majors[1])
		for _, d := range []*pgtest.Database{pair.Source, pair.Target} {
			t.Run(fmt.Sprint(d.Server.Major()), func(t *testing.T) {
				d.Exec(t, `
					CREATE SCHEMA app; CREATE SCHEMA other;
					CREATE TYPE other.mood AS ENUM ('a');
					CREATE FUNCTION other.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
					CREATE AGGREGATE app.total(int) (sfunc = int4pl, stype = int);
					CREATE TABLE app.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m other.mood, n serial);
					CREATE TRIGGER tr AFTER INSERT ON app.t FOR EACH ROW EXECUTE PROCEDURE other.f();
					CREATE TABLE app.p (id int) PARTITION BY RANGE (id);
					CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (1) TO (2);
					CREATE MATERIALIZED VIEW app.m AS SELECT id FROM app.t;
					CREATE STATISTICS app.s ON id, n FROM app.t;
					CREATE POLICY pol ON app.t USING (true)`)
				c := load(t, d, schema.Selection{})
				equal(t, "tables", tableNames(c.Tables), []string{"app.p", "app.p1", "app.t"})
				equal(t, "identity", table(t, c, "app.t").IdentityColumns, []string{"id"})
				equal(t, "aggregate", string(c.Functions[0].Kind), "a")
				equal(t, "sequences", len(c.Sequences), 2)
				equal(t, "missing", missing(t, d, schema.Selection{Exclude: patterns(t, "other.*")}), []string{
					"table app.t -> function other.f() via trigger tr",
					"table app.t -> type other.mood via column m",
				})
				if values := sequenceValues(t, d); len(values) != 2 || values[0].IsCalled {
					t.Errorf("sequence values: %+v", values)
				}
				equal(t, "lacking", lacking(t, d, d), []string{})
				// also where a control file keeps the server from listing what it could install
				if capabilities(t, d).Extensions["plpgsql"].Installed == "" {
					t.Error("an installed extension is not known")
				}
				readRoles(t, d, false)
				listDatabases(t, d.Server)
			})
		}
	}
}

// TestLoad_ExtensionConfiguration: rows that a user put into a table of an extension move, the table does not.
func TestLoad_ExtensionConfiguration(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `
		CREATE EXTENSION citext;
		CREATE TABLE settings (id serial PRIMARY KEY, v text); CREATE TABLE inner_table (id int);
		ALTER EXTENSION citext ADD TABLE settings; ALTER EXTENSION citext ADD TABLE inner_table;
		ALTER EXTENSION citext ADD SEQUENCE settings_id_seq;
		-- what pg_extension_config_dump does in the script of an extension
		UPDATE pg_extension SET extconfig = ARRAY['settings'::regclass::oid, 'settings_id_seq'::regclass::oid],
			extcondition = ARRAY['WHERE id > 100', ''] WHERE extname = 'citext'`)
	c := load(t, pair.Source, schema.Selection{})
	if len(c.Tables) != 0 || len(c.Relations) != 0 || len(c.ConfigTables) != 1 || len(c.Sequences) != 1 {
		t.Fatalf("tables %v, relations %v, configuration %v, sequences %v", c.Tables, c.Relations, c.ConfigTables, c.Sequences)
	}
	config := c.ConfigTables[0]
	equal(t, "configuration", []string{config.String(), config.Extension, config.Condition, config.Columns[1].Name},
		[]string{"public.settings", "citext", "WHERE id > 100", "v"})
	equal(t, "sequence", c.Sequences[0].Extension, "citext")
	equal(t, "excluded", len(load(t, pair.Source, schema.Selection{Exclude: patterns(t, "settings*")}).ConfigTables), 0)
}
