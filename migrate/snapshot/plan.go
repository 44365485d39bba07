package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// Sizes at which tables are split. With one or two workers the target is the limit, and two writers in one table only
// get in each other's way; parts then serve to bound what a lost connection costs.
const (
	defaultSplit    = 256 << 20
	defaultSplitFew = 2 << 30
	fewJobs         = 2
)

// tidRanges is the first version that reads a range of blocks without reading the whole table.
const tidRanges = 14

// PlanOptions say how tables are cut.
type PlanOptions struct {
	SourceVersion postgres.Version
	// SplitBytes is the size of a part on the source's disk, TOAST included; tables above it are split. Default 256 MiB,
	// and 2 GiB for one or two Jobs.
	SplitBytes int64
	// Jobs is the number of workers that will copy; default 4.
	Jobs int
	// Target is the name on the target; nil means the same name.
	Target func(schema.Name) schema.Name
}

// PlanParts cuts the tables into parts, the largest first. Tables that hold no rows of their own (partitioned parents,
// foreign tables) have none. conn is a session on the source; the plan is right under any snapshot, because ranges are
// open at both ends.
func PlanParts(ctx context.Context, conn *pgx.Conn, tables []*schema.Table, options PlanOptions) ([]Part, error) {
	if options.Jobs <= 0 {
		options.Jobs = 4
	}
	if options.SplitBytes <= 0 {
		options.SplitBytes = defaultSplit
		if options.Jobs <= fewJobs {
			options.SplitBytes = defaultSplitFew
		}
	}
	if options.Target == nil {
		options.Target = func(n schema.Name) schema.Name { return n }
	}
	sizes, err := readSizes(ctx, conn, tables)
	if err != nil {
		return nil, err
	}
	parts := []Part{}
	for _, t := range tables {
		if t.Kind != schema.Ordinary {
			continue
		}
		ranges, err := split(ctx, conn, t, sizes[t.OID], options)
		if err != nil {
			return nil, fmt.Errorf("plan the copy of %s: %w", t.Name, err)
		}
		for i, r := range ranges {
			parts = append(parts, Part{
				Table: t, Target: options.Target(t.Name), Number: i + 1, Of: len(ranges), Range: r,
				Plain: len(ranges) > 1, Bytes: sizes[t.OID].total / int64(len(ranges)),
			})
		}
	}
	slices.SortStableFunc(parts, func(a, b Part) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return parts, nil
}

// size is what a table takes on disk: blocks of the heap, and bytes with TOAST.
type size struct{ blocks, total int64 }

// readSizes asks for all tables at once. The estimates of pg_class are no use here: a table that was just loaded has
// none.
func readSizes(ctx context.Context, conn *pgx.Conn, tables []*schema.Table) (map[uint32]size, error) {
	oids := make([]uint32, len(tables))
	for i, t := range tables {
		oids[i] = t.OID
	}
	rows, err := conn.Query(ctx, `SELECT c.oid,
			pg_catalog.pg_relation_size(c.oid) OPERATOR(pg_catalog./) pg_catalog.current_setting('block_size')::pg_catalog.int8,
			pg_catalog.pg_table_size(c.oid)
		FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])`, oids)
	if err != nil {
		return nil, fmt.Errorf("read sizes of tables: %w", err)
	}
	defer rows.Close()
	sizes := map[uint32]size{}
	for rows.Next() {
		var oid uint32
		var blocks, total *int64 // NULL for a table that was dropped this moment
		if err := rows.Scan(&oid, &blocks, &total); err != nil {
			return nil, fmt.Errorf("read sizes of tables: %w", err)
		}
		if blocks != nil && total != nil {
			sizes[oid] = size{blocks: *blocks, total: *total}
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read sizes of tables: %w", err)
	}
	return sizes, nil
}

// split cuts one table.
func split(ctx context.Context, conn *pgx.Conn, t *schema.Table, s size, options PlanOptions) ([]Range, error) {
	n := (s.total + options.SplitBytes - 1) / options.SplitBytes
	if n <= 1 {
		return []Range{{}}, nil
	}
	if options.SourceVersion.AtLeast(tidRanges) {
		n = min(n, s.blocks)
		bounds := make([]int64, 0, n)
		for i := int64(1); i < n; i++ {
			bounds = append(bounds, s.blocks/n*i+s.blocks%n*i/n)
		}
		return ranges("", bounds), nil
	}
	key := integerKey(t)
	if key == "" {
		return []Range{{}}, nil
	}
	bounds, err := keyBounds(ctx, conn, t, key, n)
	if err != nil {
		return nil, err
	}
	return ranges(key, bounds), nil
}

// ranges makes one more range than there are bounds, open at the outer ends.
func ranges(key string, bounds []int64) []Range {
	list := []Range{}
	from := (*int64)(nil)
	for _, bound := range bounds {
		list = append(list, Range{Key: key, From: from, To: &bound})
		from = &bound
	}
	if from == nil {
		return []Range{{}}
	}
	return append(list, Range{Key: key, From: from})
}

// integerKey is the first column of the primary key when it is an integer: never NULL, and an index leads to its
// ranges.
func integerKey(t *schema.Table) string {
	const int8OID, int2OID, int4OID = 20, 21, 23
	if len(t.PrimaryKey) == 0 {
		return ""
	}
	for _, c := range t.Columns {
		if c.Name == t.PrimaryKey[0] && (c.TypeOID == int8OID || c.TypeOID == int2OID || c.TypeOID == int4OID) {
			return c.Name
		}
	}
	return ""
}

// keyBounds cuts the values of a key into n parts of about as many rows: by the planner's histogram, or evenly between
// the smallest and the largest value when there is none.
func keyBounds(ctx context.Context, conn *pgx.Conn, t *schema.Table, key string, n int64) ([]int64, error) {
	var histogram []int64
	err := conn.QueryRow(ctx, `SELECT s.histogram_bounds::pg_catalog.text::pg_catalog.int8[] FROM pg_catalog.pg_stats s
		WHERE s.schemaname OPERATOR(pg_catalog.=) $1 AND s.tablename OPERATOR(pg_catalog.=) $2
			AND s.attname OPERATOR(pg_catalog.=) $3 AND NOT s.inherited`, t.Schema, t.Name.Name, key).Scan(&histogram)
	if err != nil && err != pgx.ErrNoRows {
		return nil, err
	}
	bounds := []int64{}
	if int64(len(histogram)) > 2*n {
		for i := int64(1); i < n; i++ {
			bounds = append(bounds, histogram[i*int64(len(histogram)-1)/n])
		}
		return slices.Compact(bounds), nil
	}
	column := postgres.QuoteIdent(key)
	var least, most *int64
	err = conn.QueryRow(ctx, "SELECT pg_catalog.min("+column+")::pg_catalog.int8, pg_catalog.max("+column+
		")::pg_catalog.int8 FROM ONLY "+t.SQL()).Scan(&least, &most)
	if err != nil || least == nil {
		return nil, err
	}
	// In unsigned arithmetic the distance of any two values fits.
	step := (uint64(*most) - uint64(*least)) / uint64(n)
	if step == 0 {
		return nil, nil
	}
	for i := uint64(1); i < uint64(n); i++ {
		bounds = append(bounds, int64(uint64(*least)+step*i))
	}
	return bounds, nil
}
