package schema

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// Dependency is a chosen object that cannot be created, or not whole, without an object that is not chosen.
type Dependency struct {
	// Kind and Object name the chosen object, Kind in PostgreSQL's words ("view", "table"), Object quoted as in SQL and
	// with the arguments of a function.
	Kind, Object string
	// OnKind and On name what is missing.
	OnKind, On string
	// Via is the part of the object that needs it: `column "c"`, `constraint "c"`, `trigger "t"`; "definition" of a
	// view or of what has no parts; "parent" of a partition or inheritance child.
	Via string
}

// MissingDependencies finds what the server knows chosen objects to depend on and the selection leaves out. Members
// of extensions, foreign servers, languages and schemas are never missing: they go along with what needs them. Bodies
// of functions that are stored as text are not looked into, by the server neither.
func (c *Catalog) MissingDependencies(ctx context.Context, conn *pgx.Conn) ([]Dependency, error) {
	if c.all {
		return nil, nil
	}
	classes, oids := c.chosen.pairs()
	var missing []Dependency
	var d Dependency
	// The parser takes unnest of several arrays, which it resolves in pg_catalog, only by its bare name.
	err := each(ctx, conn, `
		WITH part(class, oid, owner_class, owner, via) AS (`+parts(c.Version)+`),
		chosen(class, oid) AS (
			SELECT ('pg_catalog.' || c.class)::pg_catalog.regclass::pg_catalog.oid, c.oid
			FROM unnest($1::pg_catalog.text[], $2::pg_catalog.oid[]) AS c(class, oid)
		),
		missing AS (
			SELECT DISTINCT p.owner_class, p.owner, r.owner_class AS on_class, r.owner AS on_owner,
				COALESCE('column ' || pg_catalog.quote_ident(a.attname), NULLIF(p.via, ''),
					CASE WHEN d.classid = d.refclassid AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
						THEN 'parent' ELSE 'definition' END) AS via
			FROM chosen
			JOIN part p ON p.owner_class = chosen.class AND p.owner = chosen.oid
			JOIN pg_catalog.pg_depend d ON d.classid = p.class AND d.objid = p.oid AND d.deptype IN ('n', 'a', 'i')
			JOIN part r ON r.class = d.refclassid AND r.oid = d.refobjid
			LEFT JOIN chosen rc ON rc.class = r.owner_class AND rc.oid = r.owner
			LEFT JOIN pg_catalog.pg_attribute a ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
				AND a.attrelid = d.objid AND a.attnum = d.objsubid AND d.objsubid > 0
			WHERE rc.oid IS NULL AND r.owner >= `+strconv.Itoa(firstUser)+` AND (p.owner_class <> r.owner_class OR p.owner <> r.owner)
				-- a sequence can do without the column that owns it
				AND NOT (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = d.classid
					AND d.objsubid = 0 AND d.refobjsubid > 0)
				AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend m
					WHERE m.classid = r.owner_class AND m.objid = r.owner AND m.deptype = 'e')
		)
		SELECT COALESCE(o.type, ''), COALESCE(o.identity, ''), COALESCE(n.type, ''), COALESCE(n.identity, ''), m.via
		FROM missing m,
			LATERAL pg_catalog.pg_identify_object(m.owner_class, m.owner, 0) o,
			LATERAL pg_catalog.pg_identify_object(m.on_class, m.on_owner, 0) n`,
		[]any{classes, oids}, []any{&d.Kind, &d.Object, &d.OnKind, &d.On, &d.Via},
		func() { missing = append(missing, d) })
	if err != nil {
		return nil, fmt.Errorf("read dependencies: %w", err)
	}
	slices.SortFunc(missing, func(a, b Dependency) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.On, b.On),
			cmp.Compare(a.Via, b.Via))
	})
	return missing, nil
}

// partQuery selects (catalog, OID of the part, catalog and OID of its owner, via) from one catalog.
type partQuery struct {
	since           postgres.Version
	class, oid      string
	ownerClass, via string // ownerClass is a catalog or, in parentheses, an expression
	owner, from     string
}

// partQueries map each row that pg_depend may speak of to the object that a person chooses: an index to its table, a
// rule to its view, the row type of a table to the table.
var partQueries = []partQuery{
	{
		class: "pg_class", oid: "c.oid", ownerClass: "pg_class", owner: "c.oid",
		from: "pg_class c WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S')",
	},
	{
		class: "pg_class", oid: "c.oid", ownerClass: "pg_type", owner: "c.reltype",
		from: "pg_class c WHERE c.relkind = 'c'",
	},
	{
		class: "pg_class", oid: "c.oid", ownerClass: "pg_class", owner: "i.indrelid", via: viaNamed("index", "c.relname"),
		from: "pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid",
	},
	{
		class: "pg_rewrite", oid: "r.oid", ownerClass: "pg_class", owner: "r.ev_class",
		via:  "CASE r.rulename WHEN '_RETURN' THEN '' ELSE " + viaNamed("rule", "r.rulename") + " END",
		from: "pg_rewrite r",
	},
	{
		class: "pg_attrdef", oid: "f.oid", ownerClass: "pg_class", owner: "f.adrelid",
		via:  viaNamed("default of column", "a.attname"),
		from: "pg_attrdef f JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum",
	},
	{
		class: "pg_constraint", oid: "k.oid", ownerClass: "pg_class", owner: "k.conrelid",
		via: viaNamed("constraint", "k.conname"), from: "pg_constraint k WHERE k.conrelid <> 0",
	},
	{
		class: "pg_constraint", oid: "k.oid", ownerClass: "pg_type", owner: "k.contypid",
		via: viaNamed("constraint", "k.conname"), from: "pg_constraint k WHERE k.contypid <> 0",
	},
	{
		class: "pg_trigger", oid: "g.oid", ownerClass: "pg_class", owner: "g.tgrelid",
		via: viaNamed("trigger", "g.tgname"), from: "pg_trigger g WHERE NOT g.tgisinternal",
	},
	{
		since: 90500,
		class: "pg_policy", oid: "y.oid", ownerClass: "pg_class", owner: "y.polrelid",
		via: viaNamed("policy", "y.polname"), from: "pg_policy y",
	},
	{
		since: 100000,
		class: "pg_statistic_ext", oid: "s.oid", ownerClass: "pg_class", owner: "s.stxrelid",
		via: viaNamed("statistics", "s.stxname"), from: "pg_statistic_ext s",
	},
	{class: "pg_amop", oid: "m.oid", ownerClass: "pg_opfamily", owner: "m.amopfamily", from: "pg_amop m"},
	{class: "pg_amproc", oid: "m.oid", ownerClass: "pg_opfamily", owner: "m.amprocfamily", from: "pg_amproc m"},
	{class: "pg_proc", oid: "f.oid", ownerClass: "pg_proc", owner: "f.oid", from: "pg_proc f"},
	{
		class: "pg_type", oid: "t.oid", owner: "COALESCE(c.oid, element.oid, t.oid)",
		ownerClass: "(CASE WHEN c.oid IS NULL THEN 'pg_catalog.pg_type' ELSE 'pg_catalog.pg_class' END)",
		from: `pg_type t
			LEFT JOIN pg_catalog.pg_type element ON element.oid = t.typelem AND element.typarray = t.oid
			LEFT JOIN pg_catalog.pg_class c ON c.oid = COALESCE(NULLIF(element.typrelid, 0), t.typrelid)
				AND c.relkind <> 'c'
			WHERE t.typtype <> 'm' AND (element.typtype IS NULL OR element.typtype <> 'm')`,
	},
	{
		since: 140000,
		class: "pg_type", oid: "t.oid", ownerClass: "pg_type", owner: "r.rngtypid",
		from: `pg_range r JOIN pg_catalog.pg_type t
			ON t.oid = r.rngmultitypid OR t.typelem = r.rngmultitypid AND t.typcategory = 'A'`,
	},
}

// viaNamed is SQL for a part with its name.
func viaNamed(what, column string) string {
	return "'" + what + " ' || pg_catalog.quote_ident(" + column + ")"
}

func parts(v postgres.Version) string {
	var selects []string
	for _, q := range partQueries {
		if v >= q.since {
			selects = append(selects, q.sql())
		}
	}
	for _, k := range rareKinds {
		q := partQuery{class: k.class, oid: "o.oid", ownerClass: k.class, owner: "o.oid", from: k.class + " o"}
		selects = append(selects, q.sql())
	}
	return strings.Join(selects, "\nUNION ALL ")
}

func (q partQuery) sql() string {
	ownerClass := q.ownerClass
	if !strings.HasPrefix(ownerClass, "(") {
		ownerClass = "'pg_catalog." + ownerClass + "'"
	}
	via := q.via
	if via == "" {
		via = "''"
	}
	return fmt.Sprintf(`SELECT 'pg_catalog.%s'::pg_catalog.regclass::pg_catalog.oid, %s,
		%s::pg_catalog.regclass::pg_catalog.oid, %s, %s FROM pg_catalog.%s`,
		q.class, q.oid, ownerClass, q.owner, via, q.from)
}
