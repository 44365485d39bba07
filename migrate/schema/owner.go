package schema

import (
	"strings"

	"github.com/slipway-db/slipway/postgres"
)

// statement is the SQL of an entry as it is executed: pg_dump's, with what pg_restore would add.
func (c *chooser) statement(e *Entry) string {
	var b strings.Builder
	b.WriteString(e.settings(c.options.Target))
	b.WriteString(e.definition(c.options.Target))
	if e.Desc == descTable && e.Relkind == Partitioned && e.TableAM != "" {
		b.WriteString("\nALTER TABLE " + e.name().SQL() + " SET ACCESS METHOD " + postgres.QuoteIdent(e.TableAM) + ";")
	}
	if owner := e.ownerStatement(); owner != "" && !c.options.NoOwner {
		b.WriteString("\n" + owner)
	}
	return b.String()
}

// definition lets schemas be there already: every database begins with public, and a target may have been prepared.
func (e *Entry) definition(target postgres.Version) string {
	if rest, ok := strings.CutPrefix(e.SQL, "CREATE SCHEMA "); ok && e.Desc == descSchema {
		return "CREATE SCHEMA IF NOT EXISTS " + rest
	}
	return e.forTarget(target)
}

// heapBuiltIn is the first major version with table access methods; before it every table is what is now called heap.
const heapBuiltIn = 12

// settings are the session's settings that the entry's outcome depends on. Those of storage are always given, because
// the target's own defaults are for new objects and not for these.
func (e *Entry) settings(target postgres.Version) string {
	var b strings.Builder
	if e.storesData() {
		tablespace := "''"
		if e.Tablespace != "" {
			tablespace = postgres.QuoteIdent(e.Tablespace)
		}
		b.WriteString("SET LOCAL default_tablespace = " + tablespace + ";\n")
	}
	if e.TableAM != "" && e.Relkind != Partitioned && (target.AtLeast(heapBuiltIn) || e.TableAM != "heap") {
		b.WriteString("SET LOCAL default_table_access_method = " + postgres.QuoteIdent(e.TableAM) + ";\n")
	}
	if e.Desc == descMatviewData {
		// Its rows are what the owner sees, policies applied; with row security off the refresh is refused instead.
		b.WriteString("SET LOCAL row_security = on;\n")
	}
	return b.String()
}

func (e *Entry) storesData() bool {
	return e.Desc == descTable || e.Desc == descMatview || isIndex(e)
}

// ownerStatement gives the object to its owner; empty when it has none of its own.
func (e *Entry) ownerStatement() string {
	if e.Owner == "" {
		return ""
	}
	var object string
	switch e.rule().owner {
	case inSchema:
		object = e.Desc + " " + e.name().SQL()
	case outOfSchema:
		object = strings.TrimPrefix(e.Desc, "PROCEDURAL ") + " " + postgres.QuoteIdent(e.Tag)
	case asDropped:
		dropped, ok := strings.CutPrefix(e.DropSQL, "DROP ")
		if !ok {
			return ""
		}
		object = strings.TrimRight(dropped, ";\n")
	case noOwner:
		return ""
	}
	return "ALTER " + object + " OWNER TO " + postgres.QuoteIdent(e.Owner) + ";"
}
