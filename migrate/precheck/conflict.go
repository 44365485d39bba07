package precheck

import (
	"context"
	"fmt"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// word is what DROP calls a relation of that kind.
func word(kind string) string {
	switch kind {
	case "v":
		return "VIEW"
	case "m":
		return "MATERIALIZED VIEW"
	case "S":
		return "SEQUENCE"
	case "i", "I":
		return "INDEX"
	case "f":
		return "FOREIGN TABLE"
	case "c":
		return "TYPE"
	default:
		return "TABLE"
	}
}

// conflicts names objects of the target that have the name of a chosen one.
func (d *database) conflicts(ctx context.Context, f *finding) error {
	f.looked = plural(len(d.catalog.Relations), "relation") + ", types, functions, triggers and indexes by name"
	if d.targetDB == nil {
		f.note("the target database is not there yet")
		return nil
	}
	if d.names.JobID != "" {
		f.note("what is there was made by this migration, which goes on")
		return nil
	}
	for _, step := range []func(context.Context, *finding) error{
		d.relationConflicts, d.typeConflicts, d.functionConflicts, d.indexConflicts, d.triggerConflicts,
	} {
		if err := step(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

type sameName struct{ Schema, Name, Kind string }

// relationConflicts: tables, views, sequences, indexes and composite types share one name space.
func (d *database) relationConflicts(ctx context.Context, f *finding) error {
	schemas, names := []string{}, []string{}
	for name := range d.catalog.Relations {
		schemas, names = append(schemas, name.Schema), append(names, name.Name)
	}
	same, err := rowsOf[sameName](ctx, d.targetDB, `SELECT n.nspname::text, c.relname::text, c.relkind::text
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN unnest($1::text[], $2::text[]) AS w(s, r) ON n.nspname = w.s AND c.relname = w.r ORDER BY 1, 2`, schemas, names)
	for _, s := range same {
		f.objects = append(f.objects, fmt.Sprintf("%s.%s (%s)", s.Schema, s.Name, word(s.Kind)))
		f.fail("tables, views, sequences or types of the same name are on the target",
			fmt.Sprintf("DROP %s %s; -- on the target, when nobody needs it", word(s.Kind), postgres.QuoteQualified(s.Schema, s.Name)),
			excludeOption(s.Schema, s.Name))
	}
	return err
}

func (d *database) typeConflicts(ctx context.Context, f *finding) error {
	schemas, names := []string{}, []string{}
	for _, t := range d.catalog.Types {
		schemas, names = append(schemas, t.Schema), append(names, t.Name.Name)
	}
	for _, t := range d.catalog.Tables { // each has a type of its name
		schemas, names = append(schemas, t.Schema), append(names, t.Name.Name)
	}
	// Row types of relations are named with their relations already.
	same, err := rowsOf[sameName](ctx, d.targetDB, `SELECT DISTINCT n.nspname::text, t.typname::text, t.typtype::text
		FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
		JOIN unnest($1::text[], $2::text[]) AS w(s, r) ON n.nspname = w.s AND t.typname = w.r
		WHERE t.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c') ORDER BY 1, 2`, schemas, names)
	for _, s := range same {
		f.objects = append(f.objects, fmt.Sprintf("%s.%s (TYPE)", s.Schema, s.Name))
		f.fail("tables, views, sequences or types of the same name are on the target",
			fmt.Sprintf("DROP TYPE %s; -- on the target, when nobody needs it", postgres.QuoteQualified(s.Schema, s.Name)),
			excludeOption(s.Schema, s.Name))
	}
	return err
}

// signature tells functions apart as PostgreSQL does: by name and types of the input arguments.
type signature struct{ Schema, Name, Args string }

func (d *database) functionConflicts(ctx context.Context, f *finding) error {
	oids := []uint32{}
	for _, p := range d.catalog.Functions {
		oids = append(oids, p.OID)
	}
	wanted, err := rowsOf[signature](ctx, d.sourceDB, `SELECT n.nspname::text, p.proname::text, oidvectortypes(p.proargtypes)
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = ANY($1::oid[])`, oids)
	if err != nil {
		return err
	}
	schemas, names, args := []string{}, []string{}, []string{}
	for _, w := range wanted {
		schemas, names, args = append(schemas, w.Schema), append(names, w.Name), append(args, w.Args)
	}
	same, err := rowsOf[signature](ctx, d.targetDB, `SELECT n.nspname::text, p.proname::text, oidvectortypes(p.proargtypes)
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		JOIN unnest($1::text[], $2::text[], $3::text[]) AS w(s, f, a)
			ON n.nspname = w.s AND p.proname = w.f AND oidvectortypes(p.proargtypes) = w.a ORDER BY 1, 2, 3`, schemas, names, args)
	drop := "ROUTINE"
	if !d.target.version.AtLeast(11) {
		drop = "FUNCTION"
	}
	for _, s := range same {
		f.objects = append(f.objects, fmt.Sprintf("%s.%s(%s) (FUNCTION)", s.Schema, s.Name, s.Args))
		f.warn("functions of the same name and arguments are on the target, and creating them fails",
			fmt.Sprintf("DROP %s %s(%s); -- on the target, when nobody needs it", drop, postgres.QuoteQualified(s.Schema, s.Name), s.Args))
	}
	return err
}

func (d *database) indexConflicts(ctx context.Context, f *finding) error {
	schemas, names := []string{}, []string{}
	for _, i := range d.catalog.Indexes {
		schemas, names = append(schemas, i.Schema), append(names, i.Name.Name)
	}
	same, err := rowsOf[sameName](ctx, d.targetDB, `SELECT n.nspname::text, c.relname::text, c.relkind::text
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN unnest($1::text[], $2::text[]) AS w(s, r) ON n.nspname = w.s AND c.relname = w.r ORDER BY 1, 2`, schemas, names)
	for _, s := range same {
		f.objects = append(f.objects, fmt.Sprintf("%s.%s (%s)", s.Schema, s.Name, word(s.Kind)))
		f.warn("the names of indexes are taken on the target, and creating them fails",
			fmt.Sprintf("DROP %s %s; -- on the target, when nobody needs it", word(s.Kind), postgres.QuoteQualified(s.Schema, s.Name)))
	}
	return err
}

func (d *database) triggerConflicts(ctx context.Context, f *finding) error {
	schemas, tables, names := []string{}, []string{}, []string{}
	for _, t := range d.catalog.Triggers {
		schemas, tables, names = append(schemas, t.Table.Schema), append(tables, t.Table.Name), append(names, t.Name)
	}
	same, err := rowsOf[signature](ctx, d.targetDB, `SELECT n.nspname::text, c.relname::text, t.tgname::text
		FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN unnest($1::text[], $2::text[], $3::text[]) AS w(s, r, g) ON n.nspname = w.s AND c.relname = w.r AND t.tgname = w.g
		ORDER BY 1, 2, 3`, schemas, tables, names)
	for _, s := range same {
		f.objects = append(f.objects, fmt.Sprintf("%s on %s.%s (TRIGGER)", s.Args, s.Schema, s.Name))
		f.warn("triggers of the same name are on the target's tables",
			fmt.Sprintf("DROP TRIGGER %s ON %s; -- on the target, when nobody needs it", postgres.QuoteIdent(s.Args), postgres.QuoteQualified(s.Schema, s.Name)))
	}
	return err
}

// empty wants a target database without relations of users when the whole source database moves: what is already
// there would be mistaken for what has been moved.
func (d *database) empty(ctx context.Context, f *finding) error {
	f.looked = "relations in the target database"
	if d.targetDB == nil {
		f.note("the target database is not there yet")
		return nil
	}
	if d.names.JobID != "" {
		f.note("what is there was made by this migration, which goes on")
		return nil
	}
	if !d.Selection.All() {
		f.note("chosen objects move beside what is there")
		return nil
	}
	there, err := rowsOf[sameName](ctx, d.targetDB, `SELECT n.nspname::text, c.relname::text, c.relkind::text
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND c.relpersistence <> 't'
			AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'slipway')
			AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype IN ('e', 'i', 'a'))
		ORDER BY 1, 2`)
	for _, s := range there {
		f.objects = append(f.objects, schema.Name{Schema: s.Schema, Name: s.Name}.String())
		f.fail(fmt.Sprintf("the whole database moves, but the target database %s is not empty", d.names.Target),
			fmt.Sprintf("--database %s:%s # with a name that is free", shellQuote(d.names.Source), shellQuote(d.names.Target+"_new")),
			fmt.Sprintf("DROP %s %s; -- on the target, when nobody needs it", word(s.Kind), postgres.QuoteQualified(s.Schema, s.Name)))
	}
	return err
}

// eventTriggers of the target would run their functions at our DDL.
func (d *database) eventTriggers(ctx context.Context, f *finding) error {
	if d.targetDB == nil {
		f.note("the target database is not there yet")
		return nil
	}
	if d.names.JobID != "" {
		f.note("what is there may have been made by this migration, which goes on")
		return nil
	}
	names, err := texts(ctx, d.targetDB, `SELECT evtname::text FROM pg_event_trigger
		WHERE evtenabled <> 'D' AND evtevent <> 'login' ORDER BY 1`)
	for _, name := range names {
		f.objects = append(f.objects, "event trigger "+name)
		f.warn("event triggers of the target run when the migration creates objects, and may refuse or change them",
			fmt.Sprintf("ALTER EVENT TRIGGER %s DISABLE; -- on the target, until the migration has completed", postgres.QuoteIdent(name)))
	}
	return err
}

// leftBehind names what is not carried, or carried as a definition only.
func (d *database) leftBehind(ctx context.Context, f *finding) error {
	f.looked = "subscriptions, foreign tables and triggers for replicas"
	if d.source.version.AtLeast(10) {
		// These columns are readable by everybody; the connection strings are not.
		subscriptions, err := texts(ctx, d.sourceDB, `SELECT s.subname::text FROM pg_subscription s
			JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database() ORDER BY 1`)
		if err != nil {
			return err
		}
		for _, name := range subscriptions {
			f.objects = append(f.objects, "subscription "+name)
			f.warn("subscriptions of the source do not move: what they receive after completion is missing on the target",
				fmt.Sprintf("ALTER SUBSCRIPTION %s DISABLE; -- on the source at completion, then create it on the target", postgres.QuoteIdent(name)))
		}
	}
	for _, t := range d.catalog.ForeignTables {
		f.objects = append(f.objects, fmt.Sprintf("foreign table %s (server %s)", t.Name, t.Server))
		f.note("foreign tables move as definitions: the target must reach their servers itself")
	}
	for _, t := range d.catalog.Triggers {
		if t.Enabled == 'A' || t.Enabled == 'R' {
			f.objects = append(f.objects, fmt.Sprintf("trigger %s on %s", t.Name, t.Table))
			f.note("ENABLE ALWAYS and ENABLE REPLICA triggers are created like all others, after the data")
		}
	}
	return nil
}

// regColumns name objects in their values, which are stored as OIDs and must exist on the target when rows arrive.
func (d *database) regColumns(ctx context.Context, f *finding) error {
	type column struct{ Schema, Table, Column, Type string }
	columns, err := rowsOf[column](ctx, d.sourceDB, `
		SELECT n.nspname::text, c.relname::text, a.attname::text, t.typname::text
		FROM pg_attribute a
		JOIN pg_class c ON c.oid = a.attrelid
		JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_type t ON t.oid = a.atttypid
		WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
			AND t.typnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'pg_catalog') AND t.typname ~ '^_?reg'
		ORDER BY 1, 2, a.attnum`, d.tableOIDs())
	for _, c := range columns {
		f.objects = append(f.objects, fmt.Sprintf("%s.%s.%s (%s)", c.Schema, c.Table, c.Column, c.Type))
		f.warn("values name objects of the database: a row that names one which the target lacks is refused",
			fmt.Sprintf("SELECT DISTINCT %s FROM %s; -- on the source: each must exist on the target", postgres.QuoteIdent(c.Column),
				postgres.QuoteQualified(c.Schema, c.Table)))
	}
	return err
}
