package schema

import (
	"cmp"
	"context"
	"fmt"
)

func nameOrder(a, b Name) int {
	return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
}

// readFunctions leaves out the constructors of range types, which come with the type.
func (l *loader) readFunctions(ctx context.Context) error {
	kind := when(l.version.AtLeast(11), "p.prokind",
		`(CASE WHEN p.proisagg THEN 'a' WHEN p.proiswindow THEN 'w' ELSE 'f' END)::pg_catalog."char"`)
	var f Function
	var builtIn bool
	languages := map[string]bool{}
	err := l.each(ctx, fmt.Sprintf(`
		SELECT p.oid, n.nspname, p.proname, pg_catalog.pg_get_userbyid(p.proowner), %s,
			COALESCE(pg_catalog.pg_get_function_identity_arguments(p.oid), ''), g.lanname, g.oid < %d
		FROM pg_catalog.pg_proc p
		JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
		JOIN pg_catalog.pg_language g ON g.oid = p.prolang
		WHERE `+userSchema+` AND `+notMember+`
			AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend i
				WHERE i.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND i.objid = p.oid
					AND i.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND i.deptype = 'i')
		ORDER BY n.nspname, p.proname, 6`, kind, firstUnpinned, "pg_proc", "p.oid"), nil,
		[]any{&f.OID, &f.Schema, &f.Name.Name, &f.Owner, &f.Kind, &f.IdentityArgs, &f.Language, &builtIn},
		func() {
			if !l.match(f.Name) {
				return
			}
			l.c.Functions = append(l.c.Functions, f)
			l.add("pg_proc", f.Object)
			if !builtIn {
				languages[f.Language] = true
			}
		})
	l.c.Languages = sortedNames(languages)
	return err
}

func (l *loader) readTriggers(ctx context.Context) error {
	var t Trigger
	var table uint32
	return l.each(ctx, fmt.Sprintf(`
		SELECT t.tgrelid, t.tgname, t.tgenabled, fn.nspname, p.proname
		FROM pg_catalog.pg_trigger t
		JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
		JOIN pg_catalog.pg_namespace fn ON fn.oid = p.pronamespace
		WHERE NOT t.tgisinternal %s
		ORDER BY n.nspname, c.relname, t.tgname`, when(l.version.AtLeast(13), "AND t.tgparentid = 0", "")), nil,
		[]any{&table, &t.Name, &t.Enabled, &t.Function.Schema, &t.Function.Name},
		func() {
			if l.c.chosen.has("pg_class", table) {
				t.Table = l.byOID[table].Name
				l.c.Triggers = append(l.c.Triggers, t)
			}
		})
}

// readUserTypes leaves out what comes with something else: row types, arrays, multiranges.
func (l *loader) readUserTypes(ctx context.Context) error {
	var t Type
	return l.each(ctx, fmt.Sprintf(`
		SELECT t.oid, n.nspname, t.typname, pg_catalog.pg_get_userbyid(t.typowner), t.typtype
		FROM pg_catalog.pg_type t
		JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
		LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
		LEFT JOIN pg_catalog.pg_type element ON element.oid = t.typelem AND element.typarray = t.oid
		WHERE t.typtype IN ('b', 'c', 'd', 'e', 'r', 'p') AND (c.oid IS NULL OR c.relkind = 'c')
			AND element.oid IS NULL AND `+userSchema+` AND `+notMember+`
		ORDER BY n.nspname, t.typname`, "pg_type", "t.oid"), nil,
		[]any{&t.OID, &t.Schema, &t.Name.Name, &t.Owner, &t.Kind},
		func() {
			if l.match(t.Name) {
				l.c.Types = append(l.c.Types, t)
				l.add("pg_type", t.Object)
			}
		})
}

// rareKinds are the catalogs of the objects in Catalog.Others: what CREATE calls them and the columns for name, schema
// and owner.
var rareKinds = []struct{ class, kind, name, schema, owner string }{
	{"pg_operator", "operator", "oprname", "oprnamespace", "oprowner"},
	{"pg_opclass", "operator class", "opcname", "opcnamespace", "opcowner"},
	{"pg_opfamily", "operator family", "opfname", "opfnamespace", "opfowner"},
	{"pg_collation", "collation", "collname", "collnamespace", "collowner"},
	{"pg_conversion", "conversion", "conname", "connamespace", "conowner"},
	{"pg_ts_config", "text search configuration", "cfgname", "cfgnamespace", "cfgowner"},
	{"pg_ts_dict", "text search dictionary", "dictname", "dictnamespace", "dictowner"},
	{"pg_ts_parser", "text search parser", "prsname", "prsnamespace", ""},
	{"pg_ts_template", "text search template", "tmplname", "tmplnamespace", ""},
}

func (l *loader) readOthers(ctx context.Context) error {
	sql := ""
	for i, k := range rareKinds {
		sql += when(i > 0, "\nUNION ALL ", "") + fmt.Sprintf(
			`SELECT o.oid, '%s', '%s', n.nspname, o.%s, %s
			FROM pg_catalog.%s o JOIN pg_catalog.pg_namespace n ON n.oid = o.%s WHERE %s AND `+notMember,
			k.class, k.kind, k.name, when(k.owner != "", "pg_catalog.pg_get_userbyid(o."+k.owner+")", "''"),
			k.class, k.schema, userSchema, k.class, "o.oid")
	}
	var o Other
	var class string
	return l.each(ctx, sql+"\nORDER BY 4, 5, 2, 1", nil,
		[]any{&o.OID, &class, &o.Kind, &o.Schema, &o.Name.Name, &o.Owner},
		func() {
			if l.match(o.Name) {
				l.c.Others = append(l.c.Others, o)
				l.add(class, o.Object)
			}
		})
}

// readExtensions lists every extension of the database, chosen or not: whether one is kept depends on what uses it.
func (l *loader) readExtensions(ctx context.Context) error {
	var x Extension
	return l.each(ctx, `
		SELECT x.extname, x.extversion, n.nspname, pg_catalog.pg_get_userbyid(x.extowner), x.extrelocatable
		FROM pg_catalog.pg_extension x JOIN pg_catalog.pg_namespace n ON n.oid = x.extnamespace
		ORDER BY x.extname`, nil,
		[]any{&x.Name, &x.Version, &x.Schema, &x.Owner, &x.Relocatable},
		func() { l.c.Extensions = append(l.c.Extensions, x) })
}

func (l *loader) readCreatedMethods(ctx context.Context) error {
	l.c.createdMethods = map[string]bool{}
	var name string
	return l.each(ctx, `SELECT m.amname FROM pg_catalog.pg_am m WHERE m.oid >= $1`, []any{uint32(firstUser)},
		[]any{&name}, func() { l.c.createdMethods[name] = true })
}

// readSchemas comes after everything that lives in schemas. An empty schema is chosen when nothing is included by name
// and no pattern excludes all that it could hold.
func (l *loader) readSchemas(ctx context.Context) error {
	var s Schema
	return l.each(ctx, fmt.Sprintf(`
		SELECT n.oid, n.nspname, pg_catalog.pg_get_userbyid(n.nspowner)
		FROM pg_catalog.pg_namespace n
		WHERE `+userSchema+` AND `+notMember+`
		ORDER BY n.nspname`, "pg_namespace", "n.oid"), nil,
		[]any{&s.OID, &s.Name, &s.Owner},
		func() {
			if l.schemas[s.Name] || len(l.sel.Include) == 0 && !l.excludesSchema(s.Name) {
				l.c.Schemas = append(l.c.Schemas, s)
				l.c.chosen.add("pg_namespace", s.OID)
				l.owners[s.Owner] = true
			}
		})
}

func (l *loader) excludesSchema(schema string) bool {
	for _, p := range l.sel.Exclude {
		if p.MatchesWholeSchema(schema) {
			return true
		}
	}
	return false
}

func (l *loader) readCollations(ctx context.Context) error {
	oids := make([]uint32, 0, len(l.collations))
	for oid := range l.collations {
		oids = append(oids, oid)
	}
	for _, o := range l.c.Others {
		if o.Kind == "collation" {
			oids = append(oids, o.OID)
		}
	}
	var err error
	l.c.Collations, err = readCollations(ctx, l.conn, l.version, oids)
	return err
}

// readGrantees finds the roles that privileges and policies name; the server keeps them in pg_shdepend.
func (l *loader) readGrantees(ctx context.Context) error {
	var class, role string
	var oid uint32
	grantees := map[string]bool{}
	policies := l.version >= 90500
	err := l.each(ctx, fmt.Sprintf(`
		SELECT DISTINCT k.relname, %s, r.rolname
		FROM pg_catalog.pg_shdepend d
		JOIN pg_catalog.pg_class k ON k.oid = d.classid
		JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
		%s
		WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND d.deptype IN ('a', 'r')
			AND d.dbid = (SELECT b.oid FROM pg_catalog.pg_database b WHERE b.datname = pg_catalog.current_database())`,
		when(policies, "COALESCE(p.polrelid, d.objid)", "d.objid"),
		when(policies, "LEFT JOIN pg_catalog.pg_policy p ON k.relname = 'pg_policy' AND p.oid = d.objid", "")),
		nil, []any{&class, &oid, &role}, func() {
			if class == "pg_policy" {
				class = "pg_class"
			}
			if l.c.chosen.has(class, oid) || class == "pg_default_acl" || class == "pg_largeobject" {
				grantees[role] = true
			}
		})
	l.c.Grantees = sortedNames(grantees)
	return err
}
