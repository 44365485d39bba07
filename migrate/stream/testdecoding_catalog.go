package stream

import (
	"context"
	"fmt"

	"github.com/slipway-db/slipway/postgres"
)

// catalog reads what test_decoding does not send: OIDs, type modifiers and the replica identity. It is asked once per
// table and definition, over a connection that is closed again.
type catalog struct {
	endpoint postgres.Endpoint
	session  string
}

// tableQuery gives the columns in the order in which test_decoding prints them, or one row of NULLs when there is none.
// Its parameter is the column that counts an index's key: columns that it only includes are no part of an identity.
const tableQuery = `
SELECT c.oid, c.relreplident::pg_catalog.text, a.attname::pg_catalog.text, COALESCE(a.atttypid, 0)::pg_catalog.oid,
	COALESCE(a.atttypmod, -1), COALESCE(pg_catalog.format_type(a.atttypid, NULL), ''),
	c.relreplident = 'f' OR EXISTS (SELECT FROM pg_catalog.pg_index i
		WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
			AND a.attnum = ANY ((i.indkey::pg_catalog.int2[])[0:i.%s - 1])
			AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')
ORDER BY a.attnum`

func (k catalog) table(ctx context.Context, schema, name string) (*Relation, error) {
	conn, err := k.endpoint.Connect(ctx, postgres.Session{Name: k.session})
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	version, err := postgres.ServerVersion(conn)
	if err != nil {
		return nil, err
	}
	keys := "indnkeyatts"
	if !version.AtLeast(11) {
		keys = "indnatts" // before there were included columns
	}
	rows, err := conn.Query(ctx, fmt.Sprintf(tableQuery, keys), schema, name)
	if err != nil {
		return nil, fmt.Errorf("describe %s.%s: %w", schema, name, err)
	}
	defer rows.Close()
	r := &Relation{Schema: schema, Name: name}
	for rows.Next() {
		var c RelationColumn
		var identity string
		var column *string
		if err := rows.Scan(&r.OID, &identity, &column, &c.TypeOID, &c.TypeMod, &c.TypeName, &c.Key); err != nil {
			return nil, fmt.Errorf("describe %s.%s: %w", schema, name, err)
		}
		if identity != "" {
			r.Identity = identity[0]
		}
		if column != nil {
			c.Name = *column
			r.Columns = append(r.Columns, c)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("describe %s.%s: %w", schema, name, err)
	}
	if r.OID == 0 {
		return nil, nil
	}
	return r, nil
}
