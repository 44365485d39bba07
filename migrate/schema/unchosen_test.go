package schema_test

import (
	"context"
	"testing"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// TestDump_LeavesUnchosenTablesUnlocked dumps as a user who may read nothing but the chosen table.
func TestDump_LeavesUnchosenTablesUnlocked(t *testing.T) {
	ctx := context.Background()
	d := pgtest.NewPair(t).Source
	d.Exec(t, `CREATE TABLE wanted (i int)`, `CREATE TABLE "secret ""*"" table" (i int)`, `CREATE SCHEMA hr`, `CREATE TABLE hr.pay (i int)`,
		`DROP ROLE IF EXISTS unchosen_reader`, `CREATE ROLE unchosen_reader LOGIN`, `GRANT SELECT ON wanted TO unchosen_reader`)
	t.Cleanup(func() { d.Exec(t, `DROP OWNED BY unchosen_reader`, `DROP ROLE unchosen_reader`) })
	pattern, err := schema.ParsePattern("public.wanted")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := d.Endpoint().Connect(ctx, postgres.Session{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	catalog, err := schema.Load(ctx, conn, schema.Selection{Include: []schema.Pattern{pattern}})
	if err != nil {
		t.Fatal(err)
	}
	unchosen, err := catalog.Unchosen(ctx, conn)
	if err != nil || len(unchosen) != 2 {
		t.Fatalf("unchosen %v, %v", unchosen, err)
	}
	tool, err := postgres.ClientTool(ctx, pgtest.Roots(), "pg_dump", d.Server.Major())
	if err != nil {
		t.Fatal(err)
	}
	reader, err := postgres.ParseEndpoint(d.URI() + "&user=unchosen_reader")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schema.Dump(ctx, schema.DumpOptions{Tool: tool.Path, Source: reader}); err == nil {
		t.Error("the user may lock every table: the test proves nothing")
	}
	if _, err := schema.Dump(ctx, schema.DumpOptions{Tool: tool.Path, Source: reader, Exclude: unchosen}); err != nil {
		t.Error(err)
	}
}
