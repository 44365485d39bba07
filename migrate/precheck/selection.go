package precheck

import (
	"context"
	"fmt"
	"slices"

	"github.com/slipway-db/slipway/migrate/schema"
)

// load reads the catalog of the source database and says what is chosen there.
func (d *database) load(ctx context.Context, f *finding) error {
	catalog, err := schema.Load(ctx, d.sourceDB, d.Selection)
	if err != nil {
		return err
	}
	d.catalog = catalog
	d.loaded++
	for _, p := range catalog.Unmatched {
		d.unmatched[p.String()]++
	}
	if d.copies() {
		if err := d.measure(ctx); err != nil {
			return err
		}
	}
	if d.movesRoles() {
		if err := d.readRoles(ctx); err != nil {
			return err
		}
	}
	tables, objects := len(d.tableOIDs()), len(catalog.Relations)+len(catalog.Functions)+len(catalog.Types)+len(catalog.Others)
	f.looked = fmt.Sprintf("%s among %s", plural(tables, "table"), plural(objects, "chosen object"))
	named := !d.Selection.All()
	choose := fmt.Sprintf("--include %s", shellQuote("public.*"))
	switch {
	case objects == 0 && named && len(d.Databases) == 1:
		f.fail("the selection is empty: no object of the database is chosen", choose)
	case objects == 0 && named:
		f.warn("no object of this database is chosen", choose)
	case objects == 0:
		f.note("the database is empty")
	case tables == 0 && named && d.copies() && len(d.Databases) == 1:
		f.fail("data shall move, but no table is among the chosen objects", choose, "--type structure")
	}
	return nil
}

// patterns wants every pattern to match an object of at least one database: a name with a slip of the pen would leave
// something behind that somebody believes to be moved.
func (r *runner) patterns(_ context.Context, f *finding) error {
	all := slices.Concat(r.Selection.Include, r.Selection.Exclude)
	f.looked = plural(len(all), "pattern")
	if r.loaded == 0 {
		f.note("no database could be looked at")
		return nil
	}
	for i, p := range all {
		if r.unmatched[p.String()] < r.loaded {
			continue
		}
		option := "--include"
		if i >= len(r.Selection.Include) {
			option = "--exclude"
		}
		f.objects = append(f.objects, p.String())
		f.fail(fmt.Sprintf("%s %s matches nothing", option, p),
			`SELECT schemaname, relname FROM pg_catalog.pg_stat_user_tables; -- on the source, shows the names`)
	}
	return nil
}

// dependencies names chosen objects that need others which are not chosen.
func (d *database) dependencies(ctx context.Context, f *finding) error {
	missing, err := d.catalog.MissingDependencies(ctx, d.sourceDB)
	if err != nil {
		return err
	}
	for _, m := range missing {
		f.objects = append(f.objects, fmt.Sprintf("%s %s needs %s %s (%s)", m.Kind, m.Object, m.OnKind, m.On, m.Via))
		f.fail("objects are chosen without others that they are made of or refer to", "--include "+shellQuote(withoutArguments(m.On)))
	}
	return nil
}

// withoutArguments cuts the arguments off a function's identity. What remains is quoted as in SQL, and patterns read
// double quotes the same way.
func withoutArguments(identity string) string {
	quoted := false
	for i, c := range identity {
		switch {
		case c == '"':
			quoted = !quoted
		case c == '(' && !quoted:
			return identity[:i]
		}
	}
	return identity
}
