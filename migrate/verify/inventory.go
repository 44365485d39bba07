package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-db/slipway/migrate/schema"
)

// inventory reads the properties of every object in a fixed number of set-based queries under one snapshot.
func (s *side) inventory(ctx context.Context, d *Definitions) (inventory, error) {
	session := &session{side: s}
	defer session.close()
	var found inventory
	err := attempt(ctx, func() error {
		found = inventory{}
		if _, err := session.query(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
			return err
		}
		for _, q := range s.inventoryQueries() {
			if err := session.stream(ctx, q.sql, func(r row) error { found.take(r, d); return nil }); err != nil {
				session.close() // the transaction ends with the session
				return fmt.Errorf("read %s: %w", q.what, err)
			}
		}
		_, err := session.query(ctx, "COMMIT")
		return err
	})
	return found, err
}

// take puts one row of an inventory query into the inventory: schema and name that the object is chosen by (NULL for
// objects outside schemas), kind, object, property, value.
func (v inventory) take(r row, d *Definitions) {
	if r[0] != nil && slices.Contains(d.IgnoreSchemas, r.text(0)) ||
		r.text(2) == "schema" && slices.Contains(d.IgnoreSchemas, r.text(3)) {
		return
	}
	if d.Chosen != nil && (r[0] == nil || !d.Chosen(schema.Name{Schema: r.text(0), Name: r.text(1)})) {
		return
	}
	o := object{kind: r.text(2), name: r.text(3)}
	if v[o] == nil {
		v[o] = map[string]string{}
	}
	property := r.text(4)
	if property == "owner" && !d.Owners || property == "privileges" && !d.Privileges {
		return
	}
	if r[5] != nil {
		v[o][property] = r.text(5)
	}
}

type inventoryQuery struct{ what, sql string }

func (s *side) inventoryQueries() []inventoryQuery {
	queries := []inventoryQuery{
		{"schemas", s.schemasSQL()},
		{"relations", s.relationsSQL()},
		{"columns", s.columnsSQL()},
		{"constraints", constraintsSQL},
		{"indexes", indexesSQL},
		{"triggers", s.triggersSQL()},
		{"rules", rulesSQL},
		{"functions", s.functionsSQL()},
		{"types", s.typesSQL()},
		{"extensions", extensionsSQL},
		{"event triggers", eventTriggersSQL},
		{"other objects", s.othersSQL()},
	}
	if s.version >= 90500 {
		queries = append(queries, inventoryQuery{"policies", s.policiesSQL()})
	}
	if s.version.AtLeast(10) {
		queries = append(queries,
			inventoryQuery{"sequences", sequencesSQL}, inventoryQuery{"statistics", statisticsSQL})
	}
	return queries
}

// since is an expression for servers from the given version number on, and another for older ones.
func (s *side) since(version int, expression, otherwise string) string {
	if int(s.version) >= version {
		return expression
	}
	return otherwise
}

// userSchema restricts to schemas of users, noMember leaves out what CREATE EXTENSION makes.
const userSchema = `n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'`

func noMember(catalog, oid string) string {
	return `NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_catalog.` + catalog +
		`'::pg_catalog.regclass AND x.objid = ` + oid + ` AND x.deptype = 'e')`
}

// properties turns name and expression pairs into one row each.
func properties(pairs ...string) string {
	values := []string{}
	for pair := range slices.Chunk(pairs, 2) {
		values = append(values, fmt.Sprintf("('%s', (%s)::pg_catalog.text)", pair[0], pair[1]))
	}
	return " CROSS JOIN LATERAL (VALUES " + strings.Join(values, ", ") + ") AS p(property, value) "
}

// privileges prints who was granted what, beyond the owner, whose own rights follow from owning. The privilege
// MAINTAIN of PostgreSQL 17 is left out: older servers cannot have it.
func privileges(acl, defaults, owner string) string {
	return `SELECT pg_catalog.string_agg(g.grantee || ':' || g.privilege, ',' ORDER BY g.grantee, g.privilege)
		FROM (SELECT CASE WHEN e.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(e.grantee)) END
			COLLATE "C" AS grantee,
			e.privilege_type || CASE WHEN e.is_grantable THEN '*' ELSE '' END AS privilege
		  FROM pg_catalog.aclexplode(COALESCE(` + acl + `, pg_catalog.acldefault(` + defaults + `, ` + owner + `))) e
		 WHERE e.grantee <> ` + owner + ` AND e.privilege_type <> 'MAINTAIN') g`
}

func (s *side) schemasSQL() string {
	return `SELECT NULL, NULL, 'schema', pg_catalog.quote_ident(n.nspname), p.property, p.value FROM pg_catalog.pg_namespace n` +
		properties(
			"owner", "pg_catalog.pg_get_userbyid(n.nspowner)",
			"comment", "pg_catalog.obj_description(n.oid, 'pg_namespace')",
			"privileges", privileges("n.nspacl", "'n'", "n.nspowner"),
		) + `WHERE ` + userSchema + ` AND ` + noMember("pg_namespace", "n.oid")
}

func (s *side) relationsSQL() string {
	kind := `CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'f' THEN 'foreign table' WHEN 'v' THEN 'view'
		WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'composite type' END`
	return `SELECT n.nspname, c.relname, ` + kind + `, pg_catalog.format('%I.%I', n.nspname, c.relname), p.property, p.value
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace` +
		properties(
			"owner", "pg_catalog.pg_get_userbyid(c.relowner)",
			"comment", "pg_catalog.obj_description(c.oid, 'pg_class')",
			"privileges", privileges("c.relacl", "CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\"", "c.relowner"),
			"persistence", "c.relpersistence",
			"options", "SELECT pg_catalog.string_agg(o, ',' ORDER BY o COLLATE \"C\") FROM pg_catalog.unnest(c.reloptions) o",
			"replica identity", "CASE WHEN c.relkind IN ('r', 'p') THEN c.relreplident END",
			"partitioned", s.since(100000, "c.relkind = 'p'", "false"),
			"partition key", s.since(100000, "CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END", "NULL"),
			"partition bound", s.since(100000, "pg_catalog.pg_get_expr(c.relpartbound, c.oid)", "NULL"),
			"row security", s.since(90500, "c.relrowsecurity::pg_catalog.text || ',' || c.relforcerowsecurity::pg_catalog.text",
				"'false,false'"),
			"parents", `SELECT pg_catalog.string_agg(h.inhparent::pg_catalog.regclass::pg_catalog.text, ',' ORDER BY h.inhseqno)
				FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid`,
			"definition", "CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid) END",
		) + `WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S', 'c') AND c.relpersistence <> 't' AND ` + userSchema +
		` AND ` + noMember("pg_class", "c.oid")
}

func (s *side) columnsSQL() string {
	return `SELECT n.nspname, c.relname, 'column', pg_catalog.format('%I.%I.%I', n.nspname, c.relname, a.attname), p.property, p.value
		FROM pg_catalog.pg_attribute a
		JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
		LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation AND l.collname <> 'default' AND l.oid <> t.typcollation
		LEFT JOIN pg_catalog.pg_namespace ln ON ln.oid = l.collnamespace` +
		properties(
			"type", "pg_catalog.format_type(a.atttypid, a.atttypmod)",
			"not null", "a.attnotnull",
			"default", "pg_catalog.pg_get_expr(d.adbin, d.adrelid)",
			"generated", s.since(120000, "NULLIF(a.attgenerated::pg_catalog.text, '')", "NULL"),
			"identity", s.since(100000, "NULLIF(a.attidentity::pg_catalog.text, '')", "NULL"),
			"collation", "pg_catalog.quote_ident(ln.nspname) || '.' || pg_catalog.quote_ident(l.collname)",
			"comment", "pg_catalog.col_description(a.attrelid, a.attnum)",
			"privileges", privileges("a.attacl", "'c'", "c.relowner"),
		) + `WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f', 'v', 'm', 'c')
		AND c.relpersistence <> 't' AND ` + userSchema + ` AND ` + noMember("pg_class", "c.oid")
}

// constraintsSQL leaves out those of NOT NULL, which PostgreSQL 18 began to list: the columns have them.
var constraintsSQL = `SELECT n.nspname, c.relname, CASE k.contype WHEN 'f' THEN 'foreign key' ELSE 'constraint' END,
	pg_catalog.format('%I on %I.%I', k.conname, n.nspname, c.relname), p.property, p.value
	FROM pg_catalog.pg_constraint k
	JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace` +
	properties(
		"definition", "pg_catalog.pg_get_constraintdef(k.oid)",
		"comment", "pg_catalog.obj_description(k.oid, 'pg_constraint')",
	) + `WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND ` + userSchema + ` AND ` + noMember("pg_class", "c.oid")

var indexesSQL = `SELECT n.nspname, c.relname, 'index', pg_catalog.format('%I.%I', n.nspname, x.relname), p.property, p.value
	FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
	JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace` +
	properties(
		"definition", "pg_catalog.pg_get_indexdef(i.indexrelid)",
		"valid", "i.indisvalid",
		"replica identity", "i.indisreplident",
		"clustered", "i.indisclustered",
		"comment", "pg_catalog.obj_description(x.oid, 'pg_class')",
	) + `WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND ` + userSchema +
	` AND ` + noMember("pg_class", "c.oid")

// triggersSQL leaves out the copies that partitions have of their parent's triggers.
func (s *side) triggersSQL() string {
	return `SELECT n.nspname, c.relname, 'trigger', pg_catalog.format('%I on %I.%I', g.tgname, n.nspname, c.relname), p.property, p.value
		FROM pg_catalog.pg_trigger g
		JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace` +
		properties(
			"definition", "pg_catalog.pg_get_triggerdef(g.oid)",
			"enabled", "g.tgenabled",
			"comment", "pg_catalog.obj_description(g.oid, 'pg_trigger')",
		) + `WHERE NOT g.tgisinternal AND ` + s.since(130000, "g.tgparentid = 0", "true") + ` AND ` + userSchema +
		` AND ` + noMember("pg_class", "c.oid")
}

var rulesSQL = `SELECT n.nspname, c.relname, 'rule', pg_catalog.format('%I on %I.%I', w.rulename, n.nspname, c.relname), p.property, p.value
	FROM pg_catalog.pg_rewrite w
	JOIN pg_catalog.pg_class c ON c.oid = w.ev_class JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace` +
	properties(
		"definition", "pg_catalog.pg_get_ruledef(w.oid)",
		"enabled", "w.ev_enabled",
		"comment", "pg_catalog.obj_description(w.oid, 'pg_rewrite')",
	) + `WHERE w.rulename <> '_RETURN' AND ` + userSchema + ` AND ` + noMember("pg_class", "c.oid")

func (s *side) policiesSQL() string {
	return `SELECT n.nspname, c.relname, 'policy', pg_catalog.format('%I on %I.%I', y.polname, n.nspname, c.relname), p.property, p.value
		FROM pg_catalog.pg_policy y
		JOIN pg_catalog.pg_class c ON c.oid = y.polrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace` +
		properties(
			"command", "y.polcmd",
			"permissive", s.since(100000, "y.polpermissive", "true"),
			"roles", `SELECT pg_catalog.string_agg(name, ',' ORDER BY name) FROM (SELECT CASE WHEN r = 0 THEN 'PUBLIC'
				ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(r)) END COLLATE "C" AS name FROM pg_catalog.unnest(y.polroles) r) g`,
			"using", "pg_catalog.pg_get_expr(y.polqual, y.polrelid)",
			"with check", "pg_catalog.pg_get_expr(y.polwithcheck, y.polrelid)",
			"comment", "pg_catalog.obj_description(y.oid, 'pg_policy')",
		) + `WHERE ` + userSchema + ` AND ` + noMember("pg_class", "c.oid")
}

func (s *side) functionsSQL() string {
	kind := s.since(110000, "f.prokind", "CASE WHEN f.proisagg THEN 'a' WHEN f.proiswindow THEN 'w' ELSE 'f' END")
	return `SELECT n.nspname, f.proname, 'function',
		pg_catalog.format('%I.%I(%s)', n.nspname, f.proname, pg_catalog.pg_get_function_identity_arguments(f.oid)), p.property, p.value
		FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
		JOIN pg_catalog.pg_language l ON l.oid = f.prolang
		LEFT JOIN pg_catalog.pg_aggregate g ON g.aggfnoid = f.oid` +
		properties(
			"owner", "pg_catalog.pg_get_userbyid(f.proowner)",
			"comment", "pg_catalog.obj_description(f.oid, 'pg_proc')",
			"privileges", privileges("f.proacl", "'f'", "f.proowner"),
			"kind", kind,
			"language", "l.lanname",
			"arguments", "pg_catalog.pg_get_function_arguments(f.oid)",
			"result", "pg_catalog.pg_get_function_result(f.oid)",
			"source", "CASE WHEN g.aggfnoid IS NULL THEN f.prosrc END",
			"library", "f.probin",
			"body", s.since(140000, "pg_catalog.pg_get_function_sqlbody(f.oid)", "NULL"),
			"attributes", "pg_catalog.concat_ws(',', f.provolatile, f.proisstrict, f.prosecdef, f.proleakproof, f.proretset, f.procost, f.prorows)",
			"parallel", s.since(90600, "f.proparallel", "'u'"),
			"settings", "pg_catalog.array_to_string(f.proconfig, ',')",
			"aggregate", `CASE WHEN g.aggfnoid IS NOT NULL THEN pg_catalog.concat_ws(',', g.aggkind, g.aggtransfn, g.aggfinalfn,
				pg_catalog.format_type(g.aggtranstype, NULL), g.agginitval, g.aggmtransfn, g.aggmfinalfn, g.aggminitval) END`,
		) + `WHERE ` + userSchema + ` AND ` + noMember("pg_proc", "f.oid") + `
		AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
			AND x.objid = f.oid AND x.deptype = 'i')`
}

// typesSQL leaves out arrays, the row types of relations and multiranges, which come with another object.
func (s *side) typesSQL() string {
	return `SELECT n.nspname, t.typname, CASE t.typtype WHEN 'd' THEN 'domain' WHEN 'e' THEN 'enum' WHEN 'r' THEN 'range' ELSE 'type' END,
		pg_catalog.format('%I.%I', n.nspname, t.typname), p.property, p.value
		FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
		LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid` +
		properties(
			"owner", "pg_catalog.pg_get_userbyid(t.typowner)",
			"comment", "pg_catalog.obj_description(t.oid, 'pg_type')",
			"privileges", privileges("t.typacl", "'T'", "t.typowner"),
			"labels", `SELECT pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder)
				FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid`,
			"base", "CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END",
			"not null", "CASE WHEN t.typtype = 'd' THEN t.typnotnull END",
			"default", "t.typdefault",
			"checks", `SELECT pg_catalog.string_agg(k.conname || ' ' || pg_catalog.pg_get_constraintdef(k.oid), ';' ORDER BY k.conname::pg_catalog.text COLLATE "C")
				FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'`,
			"subtype", "pg_catalog.format_type(r.rngsubtype, NULL)",
		) + `WHERE t.typtype IN ('d', 'e', 'r', 'b') AND NOT (t.typtype = 'b' AND t.typelem <> 0 AND t.typlen = -1) AND ` + userSchema +
		` AND ` + noMember("pg_type", "t.oid")
}

var extensionsSQL = `SELECT NULL, NULL, 'extension', pg_catalog.quote_ident(e.extname), p.property, p.value
	FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace` +
	properties("version", "e.extversion", "schema", "n.nspname")

// eventTriggersSQL and othersSQL leave out what a migration itself makes: its names begin with slipway.
var eventTriggersSQL = `SELECT NULL, NULL, 'event trigger', pg_catalog.quote_ident(e.evtname), p.property, p.value
	FROM pg_catalog.pg_event_trigger e` +
	properties(
		"event", "e.evtevent",
		"function", "e.evtfoid::pg_catalog.regprocedure",
		"enabled", "e.evtenabled",
		"tags", "pg_catalog.array_to_string(e.evttags, ',')",
		"owner", "pg_catalog.pg_get_userbyid(e.evtowner)",
	) + `WHERE e.evtname !~ '^slipway' AND ` + noMember("pg_event_trigger", "e.oid")

// othersSQL covers the rarer kinds by their identity and comment.
func (s *side) othersSQL() string {
	catalogs := []string{
		"pg_operator", "pg_opclass", "pg_opfamily", "pg_cast", "pg_collation", "pg_conversion", "pg_ts_config", "pg_ts_dict",
		"pg_ts_parser", "pg_ts_template", "pg_foreign_server", "pg_foreign_data_wrapper", "pg_language",
	}
	if s.version.AtLeast(10) {
		catalogs = append(catalogs, "pg_publication")
	}
	if s.version >= 90500 {
		catalogs = append(catalogs, "pg_transform")
	}
	parts := make([]string, len(catalogs))
	for i, c := range catalogs {
		parts[i] = `SELECT o.oid, 'pg_catalog.` + c + `'::pg_catalog.regclass AS class, pg_catalog.obj_description(o.oid, '` + c +
			`') AS comment FROM pg_catalog.` + c + ` o WHERE o.oid >= 16384 AND ` + noMember(c, "o.oid") +
			// What comes with another object, such as the casts of a range to its multirange.
			` AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend y WHERE y.classid = 'pg_catalog.` + c +
			`'::pg_catalog.regclass AND y.objid = o.oid AND y.deptype = 'i')`
	}
	return `SELECT i.schema, i.name, i.type, i.identity, 'comment', o.comment FROM (` + strings.Join(parts, " UNION ALL ") + `) AS o
		CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.class, o.oid, 0) AS i
		WHERE i.identity !~ '^slipway'`
}

// sequencesSQL has the parameters of sequences, and the columns that own them.
var sequencesSQL = `SELECT n.nspname, c.relname, 'sequence', pg_catalog.format('%I.%I', n.nspname, c.relname), p.property, p.value
	FROM pg_catalog.pg_sequence q JOIN pg_catalog.pg_class c ON c.oid = q.seqrelid
	JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace` +
	properties(
		"type", "pg_catalog.format_type(q.seqtypid, NULL)",
		"parameters", "pg_catalog.concat_ws(',', q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache, q.seqcycle)",
		"owned by", `SELECT pg_catalog.format('%s.%I', d.refobjid::pg_catalog.regclass, a.attname) FROM pg_catalog.pg_depend d
			JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
			WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
			AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i') LIMIT 1`,
	) + `WHERE c.relpersistence <> 't' AND ` + userSchema + ` AND ` + noMember("pg_class", "c.oid")

var statisticsSQL = `SELECT n.nspname, e.stxname, 'statistics', pg_catalog.format('%I.%I', n.nspname, e.stxname), p.property, p.value
	FROM pg_catalog.pg_statistic_ext e JOIN pg_catalog.pg_namespace n ON n.oid = e.stxnamespace` +
	properties(
		"definition", "pg_catalog.pg_get_statisticsobjdef(e.oid)",
		"owner", "pg_catalog.pg_get_userbyid(e.stxowner)",
		"comment", "pg_catalog.obj_description(e.oid, 'pg_statistic_ext')",
	) + `WHERE ` + userSchema + ` AND ` + noMember("pg_statistic_ext", "e.oid")
