package schema_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/pgtest"
)

func entryNames(plan *schema.Plan, stages ...schema.Stage) []string {
	var names []string
	for _, stage := range stages {
		for _, e := range plan.Entries(stage) {
			names = append(names, e.String())
		}
	}
	return names
}

const selectable = `
	CREATE SCHEMA app; CREATE SCHEMA other; CREATE SCHEMA ext;
	CREATE EXTENSION citext SCHEMA ext; CREATE EXTENSION pg_trgm SCHEMA ext;
	CREATE TYPE app.mood AS ENUM ('a');
	CREATE FUNCTION app."f (x)"(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
	CREATE FUNCTION other.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
	CREATE TABLE app.parent (id serial PRIMARY KEY, name ext.citext, n int GENERATED ALWAYS AS IDENTITY);
	CREATE TABLE app."parent x" (id int PRIMARY KEY);
	CREATE TABLE app.child (id int REFERENCES app.parent, other int);
	CREATE TABLE other.far (id int REFERENCES app.parent);
	CREATE INDEX child_other ON app.child (other);
	CREATE INDEX parent_x ON app."parent x" (id);
	CREATE TRIGGER touch BEFORE UPDATE ON app.parent FOR EACH ROW EXECUTE FUNCTION other.touch();
	CREATE RULE quiet AS ON DELETE TO app.parent DO INSTEAD NOTHING;
	CREATE TABLE app.parts (id int) PARTITION BY RANGE (id);
	CREATE TABLE app.part_1 PARTITION OF app.parts FOR VALUES FROM (0) TO (9);
	CREATE TABLE app.part_2 PARTITION OF app.parts FOR VALUES FROM (9) TO (19);
	CREATE INDEX parts_id ON app.parts (id);
	CREATE VIEW app.seen AS SELECT * FROM app.parent;
	COMMENT ON TABLE app.parent IS 'p'; COMMENT ON COLUMN app.parent.id IS 'c'; COMMENT ON TABLE other.far IS 'f';
	COMMENT ON TRIGGER touch ON app.parent IS 't'; COMMENT ON SCHEMA app IS 's'; COMMENT ON EXTENSION citext IS 'e';
	GRANT SELECT ON app.parent TO PUBLIC; GRANT SELECT ON other.far TO PUBLIC; GRANT USAGE ON SCHEMA app TO PUBLIC;
	ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC;
	ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
	CREATE PUBLICATION mine FOR TABLE app.parent, other.far;
	CREATE SERVER s FOREIGN DATA WRAPPER f;`

func selectableSource(t *testing.T) *pgtest.Pair {
	t.Helper()
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `CREATE FOREIGN DATA WRAPPER f`, selectable)
	return pair
}

// TestPlan_Include proves what follows a table that was chosen by name, and what does not.
func TestPlan_Include(t *testing.T) {
	pair := selectableSource(t)
	plan := planFor(t, dump(t, pair.Source), pair.Target, schema.PlanOptions{
		Selection: schema.Selection{Include: patterns(t, "app.parent", `other.far`, `app."f (x)"`, "app.part_1")},
		Relations: map[schema.Name]bool{
			{Schema: "app", Name: "parent"}: true, {Schema: "app", Name: "parent_id_seq"}: true,
			{Schema: "app", Name: "part_1"}: true, {Schema: "other", Name: "far"}: true,
		},
	})
	want := map[schema.Stage][]string{
		schema.StagePreData: {
			"COMMENT COLUMN parent.id in app", "COMMENT EXTENSION citext", "COMMENT SCHEMA app", "COMMENT TABLE far in other",
			"COMMENT TABLE parent in app", "DEFAULT app.parent id", "EXTENSION citext", "FUNCTION app.f (x)(integer)",
			"SCHEMA app", "SCHEMA ext", "SCHEMA other", "SEQUENCE OWNED BY app.parent_id_seq", "SEQUENCE app.parent_id_seq",
			"SEQUENCE app.parent_n_seq", "TABLE app.parent", "TABLE app.part_1", "TABLE other.far",
		},
		schema.StageIndexes:     {"CONSTRAINT app.parent parent_pkey", "INDEX app.part_1_id_idx"},
		schema.StageConstraints: {"FK CONSTRAINT other.far far_id_fkey"},
		schema.StageLate: {
			"ACL SCHEMA app", "ACL TABLE far in other", "ACL TABLE parent in app", "COMMENT TRIGGER touch ON parent in app",
			"DEFAULT ACL DEFAULT PRIVILEGES FOR TABLES in app", "RULE app.parent quiet", "TRIGGER app.parent touch",
		},
		schema.StageFinal: nil,
	}
	for _, stage := range schema.Stages {
		got := entryNames(plan, stage)
		for i := range got {
			got[i] = strings.ReplaceAll(got[i], `"`, "")
		}
		slices.Sort(got)
		if diff := cmp.Diff(want[stage], got); diff != "" {
			t.Errorf("%s: want - got +:\n%s", stage, diff)
		}
	}
	var left []string
	for _, l := range plan.LeftOut {
		left = append(left, l.String())
	}
	if diff := cmp.Diff([]string{"TABLE ATTACH app.part_1: it needs TABLE app.parts, which is not chosen"}, left); diff != "" {
		t.Errorf("left out: want - got +:\n%s", diff)
	}
}

// TestPlan_Exclude proves that a foreign key to a table that stays behind is named, and that the database's own
// objects still come.
func TestPlan_Exclude(t *testing.T) {
	pair := selectableSource(t)
	archive := dump(t, pair.Source)
	relations := map[schema.Name]bool{}
	for _, e := range archive.Entries {
		name := schema.Name{Schema: e.Schema, Name: e.Tag}
		switch e.Desc {
		case "TABLE", "VIEW", "SEQUENCE":
			relations[name] = name.Name != "parent" && name.Name != "parent_id_seq" && e.Schema != "other"
		}
	}
	plan := planFor(t, archive, pair.Target, schema.PlanOptions{
		Selection: schema.Selection{Exclude: patterns(t, "app.parent", "other.*")}, Relations: relations,
	})
	var left []string
	for _, l := range plan.LeftOut {
		left = append(left, l.String())
	}
	wantLeft := []string{"FK CONSTRAINT app.child child_id_fkey: it references TABLE app.parent, which is not chosen"}
	if diff := cmp.Diff(wantLeft, left); diff != "" {
		t.Errorf("left out: want - got +:\n%s", diff)
	}
	names := entryNames(plan, schema.Stages...)
	for _, want := range []string{"TABLE app.child", "EXTENSION pg_trgm", "PUBLICATION mine", "SERVER s", "TABLE app.parent x", "INDEX app.parent_x"} {
		if !slices.Contains(names, want) {
			t.Errorf("plan has no %s", want)
		}
	}
	for _, unwanted := range []string{
		"TABLE app.parent", "SCHEMA other", "FUNCTION other.touch()", "TRIGGER app.parent touch", "RULE app.parent quiet",
		"CONSTRAINT app.parent parent_pkey", `ACL TABLE "parent" in app`, "PUBLICATION TABLE app.mine parent",
	} {
		if slices.Contains(names, unwanted) {
			t.Errorf("plan has %s", unwanted)
		}
	}
}

func TestPlan_Options(t *testing.T) {
	pair := selectableSource(t)
	plan := planFor(t, dump(t, pair.Source), pair.Target, schema.PlanOptions{
		NoPrivileges: true,
		Ignore:       func(e *schema.Entry) bool { return e.Desc == "PUBLICATION" && e.Tag == "mine" },
	})
	for _, name := range entryNames(plan, schema.Stages...) {
		if strings.Contains(name, "ACL") || strings.Contains(name, "PUBLICATION") {
			t.Errorf("plan has %s", name)
		}
	}
}

// TestEntry_Key proves that keys mean the same objects in a later dump, where the numbers mean others.
// TestPlan_UnvalidatedDomain proves that a constraint which rows may violate comes when no more rows do: the table's
// is not looked at again by an update on the source, but the domain's would be by the target.
func TestPlan_UnvalidatedDomain(t *testing.T) {
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, `CREATE DOMAIN loose AS text`, `CREATE TABLE t (id int, v loose)`, `INSERT INTO t VALUES (1, 'x')`,
		`ALTER DOMAIN loose ADD CONSTRAINT long CHECK (length(VALUE) > 3) NOT VALID`, `ALTER TABLE t ADD CONSTRAINT two CHECK (id > 1) NOT VALID`)
	plan := planFor(t, dump(t, pair.Source), pair.Target, schema.PlanOptions{})
	if diff := cmp.Diff([]string{"CHECK CONSTRAINT public.loose long"}, entryNames(plan, schema.StageLate)); diff != "" {
		t.Errorf("late (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"CHECK CONSTRAINT public.t two"}, entryNames(plan, schema.StageConstraints)); diff != "" {
		t.Errorf("constraints (-want +got):\n%s", diff)
	}
}

func TestEntry_Key(t *testing.T) {
	pair := pgtest.NewPair(t)
	makeRoles(t, pair)
	pair.Source.Exec(t, everything(t), `ALTER EVENT TRIGGER no_ddl DISABLE`)
	first := dump(t, pair.Source)
	pair.Source.Exec(t, `CREATE TABLE app.aaa_new (id int PRIMARY KEY); CREATE OPERATOR app.=== (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = int8eq)`)
	second := dump(t, pair.Source)
	later := map[string]*schema.Entry{}
	for _, e := range second.Entries {
		if later[e.Key()] != nil {
			t.Errorf("key %s twice", e.Key())
		}
		later[e.Key()] = e
	}
	for _, e := range first.Entries {
		if l := later[e.Key()]; l == nil || l.SQL != e.SQL {
			t.Errorf("key %s means another thing in a later dump", e.Key())
		}
	}
	if len(second.Entries) < len(first.Entries)+3 {
		t.Errorf("%d entries after %d: the new table and operator are missing", len(second.Entries), len(first.Entries))
	}
}
