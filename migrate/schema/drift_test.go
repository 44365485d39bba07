package schema_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-db/slipway/migrate/schema"
)

func TestDrift(t *testing.T) {
	table := func(name string, kind schema.Kind) *schema.Table {
		return &schema.Table{Name: schema.Name{Schema: "app", Name: name}, Kind: kind}
	}
	now := &schema.Catalog{
		Tables:       []*schema.Table{table("kept", schema.Ordinary), table("fresh", schema.Ordinary), table("parent", schema.Partitioned)},
		ConfigTables: []schema.ConfigTable{{Table: table("config", schema.Ordinary)}},
	}
	copied := map[schema.Name]bool{
		{Schema: "app", Name: "kept"}: true, {Schema: "app", Name: "gone"}: true, {Schema: "app", Name: "config"}: true,
	}
	want := []string{
		"table app.fresh appeared on the source after its structure was copied",
		"table app.gone was dropped or renamed on the source after its structure was copied",
	}
	if diff := cmp.Diff(want, schema.Drift(copied, now)); diff != "" {
		t.Errorf("want - got +:\n%s", diff)
	}
}
