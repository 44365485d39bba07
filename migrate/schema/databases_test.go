package schema_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/pgtest"
)

func listDatabases(t *testing.T, s *pgtest.Server) []schema.Database {
	t.Helper()
	databases, err := schema.ListDatabases(context.Background(), connect(t, s.Maintenance()))
	if err != nil {
		t.Fatal(err)
	}
	return databases
}

func TestDatabases_MoveAndRunAgain(t *testing.T) {
	t.Parallel()
	for _, majors := range majorPairs(t) {
		t.Run(fmt.Sprintf("%d-%d", majors[0], majors[1]), func(t *testing.T) {
			source, target := startPair(t, majors)
			const roles = "CREATE ROLE owner; CREATE ROLE guest"
			target.Maintenance().Exec(t, roles)
			source.Maintenance().Exec(t, roles, `CREATE DATABASE plain`, `CREATE DATABASE template_like IS_TEMPLATE true`,
				`CREATE DATABASE closed ALLOW_CONNECTIONS false`,
				`CREATE DATABASE "odd ""name"" %d" OWNER owner TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' CONNECTION LIMIT 11`, `
				COMMENT ON DATABASE "odd ""name"" %d" IS 'it''s 100%';
				ALTER DATABASE "odd ""name"" %d" SET search_path TO "$user", app;
				ALTER DATABASE "odd ""name"" %d" SET default_transaction_read_only TO on;
				REVOKE ALL ON DATABASE "odd ""name"" %d" FROM PUBLIC;
				GRANT CONNECT ON DATABASE "odd ""name"" %d" TO guest WITH GRANT OPTION;
				REVOKE TEMPORARY ON DATABASE "odd ""name"" %d" FROM owner`)
			databases := listDatabases(t, source)
			equal(t, "names", []string{databases[0].Name, databases[len(databases)-1].Name}, []string{`odd "name" %d`, "plain"})
			to := load(t, target.Maintenance(), schema.Selection{}).Version
			for range 2 {
				for _, d := range databases {
					script := schema.DatabaseStatements(d, schema.DatabaseOptions{Target: to})
					execute(t, target.Maintenance(), slices.Concat(script.Create, script.Settings, script.Last))
					equal(t, "notes", script.Notes, nil)
				}
			}
			equal(t, "databases", listDatabases(t, target), databases)
		})
	}
}

func TestDatabases_Locales(t *testing.T) {
	t.Parallel()
	source, target := startPair(t, [2]int{17, 17})
	source.Maintenance().Exec(t,
		`CREATE DATABASE built TEMPLATE template0 LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'`,
		`CREATE DATABASE icu TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-AT' ICU_RULES '&a < g'`)
	databases := listDatabases(t, source)
	for _, d := range databases {
		execute(t, target.Maintenance(), schema.DatabaseStatements(d, schema.DatabaseOptions{Target: 170000}).Create)
	}
	equal(t, "databases", listDatabases(t, target), databases)
	old := pgtest.Start(t, pgtest.Options{Major: 13})
	for _, d := range databases {
		script := schema.DatabaseStatements(d, schema.DatabaseOptions{Target: 130000, NewName: d.Name + " new"})
		execute(t, old.Maintenance(), script.Create)
		if len(script.Notes) != 1 || !strings.Contains(script.Notes[0], "which the target does not know") {
			t.Errorf("%s: the other locale is not reported: %q", d.Name, script.Notes)
		}
	}
	fallbacks := map[string]string{}
	for _, d := range listDatabases(t, old) {
		fallbacks[d.Name] = d.Collate
	}
	equal(t, "fallbacks", fallbacks, map[string]string{"built new": "C", "icu new": "C.UTF-8"})
}

func TestDatabases_WithoutOwnersAndPrivileges(t *testing.T) {
	t.Parallel()
	d := schema.Database{
		Name: "shop", Owner: "gone", Locale: schema.Locale{Encoding: "UTF8", LocaleProvider: 'c', Collate: "C", CType: "C"},
		ConnectionLimit: -1, Revokes: []schema.Privilege{{Privilege: "CONNECT"}, {Role: "gone", Privilege: "TEMPORARY"}},
		Grants: []schema.Privilege{{Role: "rds_superuser", Privilege: "CONNECT"}},
	}
	script := schema.DatabaseStatements(d, schema.DatabaseOptions{Target: 150000, NoOwner: true})
	if strings.Contains(script.Create[0].SQL, "OWNER") || len(script.Last) != 1 || len(script.Notes) != 1 {
		t.Errorf("script: %+v", script)
	}
	script = schema.DatabaseStatements(d, schema.DatabaseOptions{Target: 150000, NoPrivileges: true})
	if !strings.Contains(script.Create[0].SQL, `OWNER "gone"`) || len(script.Last) != 0 {
		t.Errorf("script: %+v", script)
	}
}
