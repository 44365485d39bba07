package schema

import (
	"context"
	"fmt"
)

func (l *loader) readColumns(ctx context.Context) error {
	tables := l.tables()
	var table, collation uint32
	var c Column
	return l.each(ctx, fmt.Sprintf(`
		SELECT a.attrelid, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.atttypid, a.attcollation,
			a.attnotnull, %s, %s
		FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS t(oid)
		JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid
		WHERE a.attnum > 0 AND NOT a.attisdropped
		ORDER BY a.attrelid, a.attnum`,
		when(l.version.AtLeast(12), "a.attgenerated", `''::pg_catalog."char"`),
		when(l.version.AtLeast(10), "a.attidentity = 'a'", "false")),
		[]any{l.tableOIDs()},
		[]any{&table, &c.Name, &c.Type, &c.TypeOID, &collation, &c.NotNull, &c.Generated, &c.IdentityAlways},
		func() {
			t := tables[table]
			t.Columns = append(t.Columns, c)
			if collation != 0 {
				l.collations[collation] = true
			}
		})
}

// readKeys finds primary keys and replica identities. The server takes only a valid and immediate index as replica
// identity; a deferrable primary key is none.
func (l *loader) readKeys(ctx context.Context) error {
	tables := l.tables()
	var table uint32
	var primary, identity, usable bool
	var columns []string
	return l.each(ctx, fmt.Sprintf(`
		SELECT i.indrelid, i.indisprimary, i.indisreplident,
			i.indisvalid AND i.indimmediate AND i.indisunique AND i.indpred IS NULL,
			ARRAY(SELECT a.attname::pg_catalog.text
				FROM pg_catalog.generate_series(0, i.%s - 1) AS k(position)
				JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.position]
				ORDER BY k.position)
		FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS t(oid)
		JOIN pg_catalog.pg_index i ON i.indrelid = t.oid
		WHERE i.indisprimary OR i.indisreplident`,
		// Columns that an index only includes are no part of its key.
		when(l.version.AtLeast(11), "indnkeyatts", "indnatts")),
		[]any{l.tableOIDs()},
		[]any{&table, &primary, &identity, &usable, &columns},
		func() {
			t := tables[table]
			if primary {
				t.PrimaryKey = columns
			}
			if usable && (primary && t.Identity == IdentityDefault || identity && t.Identity == IdentityIndex) {
				t.IdentityColumns = columns
			}
		})
}

// readIndexes lists the indexes of chosen tables and materialized views and notes what they need on the target.
func (l *loader) readIndexes(ctx context.Context) error {
	oids := make([]uint32, 0, len(l.c.Tables)+len(l.c.MatViews))
	for _, t := range l.c.Tables {
		oids = append(oids, t.OID)
	}
	for _, m := range l.c.MatViews {
		oids = append(oids, m.OID)
	}
	var i Index
	var table uint32
	var tablespace, method string
	var collations []uint32
	return l.each(ctx, `
		SELECT c.oid, n.nspname, c.relname, i.indrelid, COALESCE(s.spcname, ''), m.amname,
			i.indcollation::pg_catalog.oid[]
		FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS t(oid)
		JOIN pg_catalog.pg_index i ON i.indrelid = t.oid
		JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_am m ON m.oid = c.relam
		LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
		ORDER BY n.nspname, c.relname`,
		[]any{oids},
		[]any{&i.OID, &i.Schema, &i.Name.Name, &table, &tablespace, &method, &collations},
		func() {
			i.Table = l.byOID[table].Name
			l.c.Indexes = append(l.c.Indexes, i)
			l.methods[method] = true
			if tablespace != "" {
				l.tablespaces[tablespace] = true
			}
			for _, oid := range collations {
				if oid != 0 {
					l.collations[oid] = true
				}
			}
		})
}
