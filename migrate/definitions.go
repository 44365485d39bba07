package migrate

import (
	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/migrate/verify"
)

// definitions says what of the structure is compared. While a migration is under way the target lacks what is
// created last.
func definitions(config *Config, catalog *schema.Catalog, job *state.Job) *verify.Definitions {
	d := &verify.Definitions{
		IgnoreSchemas: []string{state.Schema}, Owners: !config.NoOwner, Privileges: !config.NoPrivileges,
	}
	if !config.Selection.All() {
		d.Chosen = func(n schema.Name) bool { return catalog.Relations[n] || config.Selection.Match(n) }
	}
	if job != nil {
		d.Pending = map[string]bool{
			"trigger": true, "rule": true, "policy": true, "event trigger": true, "foreign key": true, "publication": true,
		}
		d.Privileges = false // granted at the end
	}
	return d
}
