package precheck

import (
	"context"
	"fmt"
	"strings"

	"github.com/slipway-db/slipway/postgres"
)

// parameter is a setting whose difference changes what applications see.
type parameter struct {
	name   string
	impact string
	// ours tells that our sessions set it themselves, so that the migration is not concerned.
	ours bool
}

var conflicting = []parameter{
	{"TimeZone", "times without zone are read and shown in another zone: wrong times", true},
	{"lc_monetary", "amounts of type money are read and shown with another currency: wrong figures", true},
	{"lc_numeric", "numbers are formatted by to_char and read by to_number differently: wrong numbers", true},
	{"array_nulls", "the word NULL in array input becomes a string or a null: elements lost or rows refused", true},
	{"server_encoding", "characters that one encoding lacks are refused or garbled", false},
	{"DateStyle", "dates are read and shown in another order: load errors or swapped day and month", true},
	{"extra_float_digits", "floating point numbers are shown with another precision", true},
	{"gin_fuzzy_search_limit", "searches through GIN indexes return different result sets", true},
	{"xmlbinary", "binary values in the results of XML functions differ", true},
	{"constraint_exclusion", "queries on inheritance children and UNION ALL are planned differently, with inconsistent results where constraints do not hold", false},
}

// parameterConflict compares the ten settings as a session of an application would find them. It never blocks.
func (d *database) parameterConflict(ctx context.Context, f *finding) error {
	source, err := readSettings(ctx, d.sourceDB)
	if err != nil {
		return err
	}
	target := d.target.settings
	if d.targetDB != nil {
		if target, err = readSettings(ctx, d.targetDB); err != nil {
			return err
		}
	}
	for _, p := range conflicting {
		name := strings.ToLower(p.name)
		from, to := source[name].Value, target[name].Value
		if strings.EqualFold(from, to) || p.name == "server_encoding" && d.targetDB == nil {
			continue // a database that is still to be created gets the source's encoding
		}
		f.objects = append(f.objects, fmt.Sprintf("%s: %s on the source, %s on the target", p.name, from, to))
		reason := p.name + ": " + p.impact
		if p.ours {
			reason += " (for applications; the migration sets it itself)"
		}
		f.warn(reason, d.parameterFix(p.name, from))
	}
	return nil
}

func (d *database) parameterFix(name, value string) string {
	database, literal := postgres.QuoteIdent(d.names.Target), strings.TrimSpace(postgres.QuoteLiteral(value))
	if name == "server_encoding" {
		return fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 ENCODING %s; -- on the target, in place of the empty one; it cannot be changed later",
			database, literal)
	}
	return fmt.Sprintf("ALTER DATABASE %s SET %s = %s; -- on the target", database, name, literal)
}
