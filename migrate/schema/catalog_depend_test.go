package schema_test

import (
	"context"
	"testing"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/pgtest"
)

func missing(t *testing.T, d *pgtest.Database, sel schema.Selection) []string {
	t.Helper()
	conn := connect(t, d)
	c, err := schema.Load(context.Background(), conn, sel)
	if err != nil {
		t.Fatal(err)
	}
	dependencies, err := c.MissingDependencies(context.Background(), conn)
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{}
	for _, d := range dependencies {
		texts = append(texts, d.Kind+" "+d.Object+" -> "+d.OnKind+" "+d.On+" via "+d.Via)
	}
	return texts
}

func TestMissingDependencies_OneOfEach(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, everyKind, `
		CREATE SCHEMA other;
		CREATE FUNCTION other.check_it(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
		CREATE FUNCTION other.key(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
		CREATE SEQUENCE other.numbers;
		CREATE DOMAIN other.checked AS int CHECK (other.check_it(VALUE));
		CREATE TYPE other.colour AS ENUM ('red');
		CREATE TABLE other.base (id int PRIMARY KEY);
		CREATE TABLE app.uses (
			id int DEFAULT nextval('other.numbers'), "odd ""col" other.colour, many other.colour[], base other.base,
			CONSTRAINT checked CHECK (other.check_it(id)), parent int CONSTRAINT "fk %s" REFERENCES other.base);
		CREATE INDEX uses_key ON app.uses (other.key(id));
		CREATE TABLE app.heir () INHERITS (other.base);
		CREATE VIEW app.uses_view AS SELECT b.id, other.key(b.id) FROM other.base b;
		CREATE DOMAIN app.narrow AS other.checked;
		CREATE FUNCTION app.paint(other.colour) RETURNS other.base LANGUAGE sql AS 'SELECT NULL::other.base';
		CREATE FUNCTION other.fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TRIGGER fire BEFORE INSERT ON app.uses FOR EACH ROW EXECUTE FUNCTION other.fire();
		CREATE POLICY only_some ON app.uses USING (other.check_it(id));
		CREATE RULE gone AS ON DELETE TO app.uses_view DO INSTEAD DELETE FROM other.base;
		CREATE VIEW app.catalogs AS SELECT * FROM information_schema.tables;
		CREATE TABLE app.with_extension (c citext, h hstore)`)
	equal(t, "all", missing(t, pair.Source, schema.Selection{}), []string{})
	equal(t, "without other", missing(t, pair.Source, schema.Selection{Exclude: patterns(t, "other.*")}), []string{
		"table app.heir -> table other.base via parent",
		"type app.narrow -> type other.checked via definition",
		"function app.paint(other.colour) -> table other.base via definition",
		"function app.paint(other.colour) -> type other.colour via definition",
		"table app.uses -> table other.base via column base",
		`table app.uses -> table other.base via constraint "fk %s"`,
		"table app.uses -> function other.check_it(integer) via constraint checked",
		"table app.uses -> function other.check_it(integer) via policy only_some",
		`table app.uses -> type other.colour via column "odd ""col"`,
		"table app.uses -> type other.colour via column many",
		"table app.uses -> function other.fire() via trigger fire",
		"table app.uses -> function other.key(integer) via index uses_key",
		"table app.uses -> sequence other.numbers via default of column id",
		"view app.uses_view -> table other.base via definition",
		"view app.uses_view -> table other.base via rule gone",
		"view app.uses_view -> function other.key(integer) via definition",
	})
}

func TestMissingDependencies_Selections(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, everyKind)
	for _, test := range []struct {
		name             string
		include, exclude []string
		want             []string
	}{
		{"leaf without parent", []string{"app.events_2024_h1"}, nil, []string{
			"table app.events_2024_h1 -> table app.events_2024 via parent",
		}},
		{"parent brings all", []string{"app.events"}, nil, []string{}},
		{"matview over view", []string{"app.m_z"}, nil, []string{
			"materialized view app.m_z -> view app.a_second via definition",
		}},
		{"owned sequence is enough for itself", []string{"app.customers_id_seq"}, nil, []string{}},
		{"default of a left-out sequence", nil, []string{"*_seq"}, []string{
			"table app.customers -> sequence app.customers_id_seq via default of column id",
		}},
		{"foreign server goes along", []string{"app.far"}, nil, []string{}},
		{"operator", []string{"app.@+"}, nil, []string{
			"operator app.@+(integer,integer) -> function app.add(integer,integer) via definition",
		}},
		{"foreign key and trigger", []string{"app.orders"}, nil, []string{
			"table app.orders -> table app.customers via constraint orders_customer_fkey",
			"table app.orders -> function app.touch() via trigger touch",
		}},
		{"types and collation of columns", []string{"app.customers"}, nil, []string{
			"table app.customers -> type app.deep via column size",
			"table app.customers -> collation app.german via column name",
			"table app.customers -> type app.mood via column feeling",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := missing(t, pair.Source, schema.Selection{
				Include: patterns(t, test.include...), Exclude: patterns(t, test.exclude...),
			})
			equal(t, "missing", got, test.want)
		})
	}
}
