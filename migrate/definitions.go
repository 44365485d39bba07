package migrate

import (
	"fmt"
	"strings"

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

// DriftError says that the source's structure is not what it was when the migration began.
type DriftError struct {
	Objects []string
}

// Error lists what changed and what can be done.
func (e *DriftError) Error() string {
	return fmt.Sprintf("the structure of the source changed since the migration began, and DDL is not followed: %s. "+
		"The migration goes on following the rest. Undo the change on the source, or run again with --allow-drift to complete without it",
		strings.Join(e.Objects, "; "))
}
