package precheck

import (
	"context"
	"fmt"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// replicaIdentity names tables whose updates and deletes cannot be followed. Once such a table is published, the
// applications' own updates and deletes on the source fail, so that this is known before.
func (d *database) replicaIdentity(ctx context.Context, f *finding) error {
	candidates, err := d.identityCandidates(ctx)
	if err != nil {
		return err
	}
	checked := 0
	for _, t := range d.catalog.Tables {
		if t.Kind != schema.Ordinary || t.Unlogged {
			continue
		}
		checked++
		if t.Followable() {
			continue
		}
		f.objects = append(f.objects, t.String())
		f.fail("tables without usable replica identity: published, their updates and deletes would fail on the source "+
			"(REPLICA IDENTITY FULL writes every old row to the WAL, and the target searches rows by all columns)",
			identityFix(t, candidates[t.OID]))
	}
	f.looked = "replica identity of " + plural(checked, "table")
	return nil
}

func identityFix(t *schema.Table, c candidate) string {
	switch {
	case c.Primary:
		return fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY DEFAULT;", t.SQL())
	case c.Index != "":
		return fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY USING INDEX %s;", t.SQL(), postgres.QuoteIdent(c.Index))
	default:
		return fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL;", t.SQL())
	}
}

// candidate is an index that could be a table's replica identity.
type candidate struct {
	Table   uint32
	Index   string
	Primary bool
}

// identityCandidates finds for each table the index with the fewest columns that could be its replica identity: unique,
// valid, immediate, not partial, without expressions, on columns that are not null. The primary key wins.
func (d *database) identityCandidates(ctx context.Context) (map[uint32]candidate, error) {
	keys := "i.indnkeyatts"
	if !d.source.version.AtLeast(11) {
		keys = "i.indnatts"
	}
	found, err := rowsOf[candidate](ctx, d.sourceDB, `
		SELECT DISTINCT ON (i.indrelid) i.indrelid, c.relname::text, i.indisprimary
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		WHERE i.indrelid = ANY($1::oid[]) AND i.indisunique AND i.indisvalid AND i.indimmediate
			AND i.indpred IS NULL AND i.indexprs IS NULL
			AND NOT EXISTS (SELECT FROM generate_series(0, `+keys+` - 1) AS k
				JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k] WHERE NOT a.attnotnull)
		ORDER BY i.indrelid, i.indisprimary DESC, `+keys+`, c.relname`, d.tableOIDs())
	if err != nil {
		return nil, err
	}
	candidates := map[uint32]candidate{}
	for _, c := range found {
		candidates[c.Table] = c
	}
	return candidates, nil
}

// largeBytes is from which size searching a table row by row is no longer quick.
const largeBytes = 64 << 20

// fullIdentity warns of large tables that are followed by whole rows and have no index to find one by.
func (d *database) fullIdentity(ctx context.Context, f *finding) error {
	full := map[uint32]*schema.Table{}
	oids := []uint32{}
	for _, t := range d.catalog.Tables {
		if t.Kind == schema.Ordinary && t.Identity == schema.IdentityFull && t.Bytes >= largeBytes {
			full[t.OID] = t
			oids = append(oids, t.OID)
		}
	}
	f.looked = fmt.Sprintf("indexes of %s of %s and more with REPLICA IDENTITY FULL", plural(len(full), "table"), size(largeBytes))
	rows, err := rowsOf[struct{ Table uint32 }](ctx, d.sourceDB, `SELECT t FROM unnest($1::oid[]) AS t
		WHERE NOT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
			WHERE i.indrelid = t AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND a.amname = 'btree')`, oids)
	for _, row := range rows {
		t := full[row.Table]
		f.objects = append(f.objects, fmt.Sprintf("%s (%s)", t, size(t.Bytes)))
		f.warn("every update and delete of a large table without an index reads the whole table on the target",
			fmt.Sprintf("CREATE INDEX CONCURRENTLY ON %s (%s); -- on the source: choose the column with the most distinct values",
				t.SQL(), postgres.QuoteIdent(t.Columns[0].Name)))
	}
	return err
}

// largeObjects are copied; logical decoding does not carry their changes.
func (d *database) largeObjects(_ context.Context, f *finding) error {
	f.looked = plural(int(d.catalog.LargeObjects), "large object")
	if d.catalog.LargeObjects > 0 {
		f.warn(plural(int(d.catalog.LargeObjects), "large object")+": they are copied, their changes are not followed but aligned at completion, which then takes longer",
			"--yes # when applications leave large objects alone, or can wait at completion")
	}
	return nil
}
