package snapshot

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Modes of lo_open.
const (
	loWrite = 0x20000
	loRead  = 0x40000
)

// content identifies what an object holds.
type content struct {
	size int64
	hash string
}

// sizesOf opens, measures and closes each object. OFFSET keeps the planner from opening it once per use.
const sizesOf = `SELECT s.oid::pg_catalog.int8 AS oid, pg_catalog.lo_lseek64(s.fd, 0, 2) AS size, pg_catalog.lo_close(s.fd) AS closed
	FROM (SELECT o.oid, pg_catalog.lo_open(o.oid, %d) AS fd
		FROM pg_catalog.unnest($1::pg_catalog.int8[]::pg_catalog.oid[]) AS o(oid) OFFSET 0) AS s`

// sizes reads how many bytes each object has.
func sizes(ctx context.Context, conn *pgx.Conn, oids []int64) (map[int64]int64, error) {
	rows, err := conn.Query(ctx, fmt.Sprintf(sizesOf, loRead), oids)
	if err != nil {
		return nil, fmt.Errorf("read sizes: %w", err)
	}
	defer rows.Close()
	list := make(map[int64]int64, len(oids))
	for rows.Next() {
		var oid, size int64
		if err := rows.Scan(&oid, &size, nil); err != nil {
			return nil, fmt.Errorf("read sizes: %w", err)
		}
		list[oid] = size
	}
	return list, rows.Err()
}

// contents lets the server hash each object, slice by slice, so that objects of any size are read.
func (a *aligner) contents(ctx context.Context, conn *pgx.Conn, oids []int64) (map[int64]content, error) {
	slice := fmt.Sprintf(a.hash, fmt.Sprintf("pg_catalog.lo_get(s.oid::pg_catalog.oid, at, %d)", hashBytes))
	whole := fmt.Sprintf(a.hash, "pg_catalog.string_agg("+slice+", ''::pg_catalog.bytea ORDER BY at)")
	rows, err := conn.Query(ctx, `SELECT s.oid, s.size, (SELECT pg_catalog.encode(`+whole+`, 'hex')
			FROM pg_catalog.generate_series(0::pg_catalog.int8, s.size, `+fmt.Sprint(hashBytes)+`) AS at)
		FROM (`+fmt.Sprintf(sizesOf, loRead)+` OFFSET 0) AS s`, oids)
	if err != nil {
		return nil, fmt.Errorf("hash contents: %w", err)
	}
	defer rows.Close()
	list := make(map[int64]content, len(oids))
	for rows.Next() {
		var oid int64
		var c content
		if err := rows.Scan(&oid, &c.size, &c.hash); err != nil {
			return nil, fmt.Errorf("hash contents: %w", err)
		}
		list[oid] = c
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("hash contents: %w", err)
	}
	return list, nil
}

// send creates missing objects and replaces the contents of changed ones. Small objects go many at a time.
func (a *aligner) send(ctx context.Context, missing, changed []int64) error {
	for _, work := range []struct {
		oids    []int64
		prepare string // leaves an empty object
	}{
		{missing, `SELECT pg_catalog.lo_create(o) FROM pg_catalog.unnest($1::pg_catalog.int8[]::pg_catalog.oid[]) AS o`},
		{changed, `SELECT pg_catalog.lo_truncate64(s.fd, 0), pg_catalog.lo_close(s.fd) FROM (
			SELECT pg_catalog.lo_open(o, ` + fmt.Sprint(loRead|loWrite) + `) AS fd
			FROM pg_catalog.unnest($1::pg_catalog.int8[]::pg_catalog.oid[]) AS o OFFSET 0) AS s`},
	} {
		if len(work.oids) == 0 {
			continue
		}
		if _, err := a.target.Exec(ctx, work.prepare, work.oids); err != nil {
			return fmt.Errorf("prepare on the target: %w", err)
		}
		if err := a.fill(ctx, work.oids); err != nil {
			return err
		}
	}
	return nil
}

// fill writes empty objects.
func (a *aligner) fill(ctx context.Context, oids []int64) error {
	measured, err := sizes(ctx, a.source, oids)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	load, loaded := []int64{}, int64(0)
	for _, oid := range oids {
		size, ok := measured[oid]
		if !ok {
			return fmt.Errorf("source: %d: %w", oid, errVanished)
		}
		if size > sliceBytes {
			if err := a.stream(ctx, oid, size); err != nil {
				return err
			}
			continue
		}
		if loaded+size > loadBytes {
			if err := a.load(ctx, load); err != nil {
				return err
			}
			load, loaded = load[:0], 0
		}
		load, loaded = append(load, oid), loaded+size
	}
	return a.load(ctx, load)
}

// load moves small objects in one round trip on either side.
func (a *aligner) load(ctx context.Context, oids []int64) error {
	if len(oids) == 0 {
		return nil
	}
	rows, err := a.source.Query(ctx, `SELECT pg_catalog.lo_get(u.oid::pg_catalog.oid)
		FROM pg_catalog.unnest($1::pg_catalog.int8[]) WITH ORDINALITY AS u(oid, place) ORDER BY u.place`, oids)
	if err != nil {
		return fmt.Errorf("source: read: %w", err)
	}
	contents, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return fmt.Errorf("source: read: %w", err)
	}
	_, err = a.target.Exec(ctx, `SELECT pg_catalog.lo_put(u.oid::pg_catalog.oid, 0, u.data)
		FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.int8[]), pg_catalog.unnest($2::pg_catalog.bytea[])) AS u(oid, data)`, oids, contents)
	if err != nil {
		return fmt.Errorf("target: write: %w", err)
	}
	for _, data := range contents {
		a.report.Bytes += int64(len(data))
	}
	return nil
}

// stream moves one object in slices.
func (a *aligner) stream(ctx context.Context, oid, size int64) error {
	for at := int64(0); at < size; at += sliceBytes {
		var data []byte
		err := a.source.QueryRow(ctx, `SELECT pg_catalog.lo_get($1::pg_catalog.int8::pg_catalog.oid, $2, $3)`, oid, at, sliceBytes).Scan(&data)
		if err != nil {
			return fmt.Errorf("source: read %d: %w", oid, err)
		}
		_, err = a.target.Exec(ctx, `SELECT pg_catalog.lo_put($1::pg_catalog.int8::pg_catalog.oid, $2, $3)`, oid, at, data)
		if err != nil {
			return fmt.Errorf("target: write %d: %w", oid, err)
		}
		a.report.Bytes += int64(len(data))
	}
	return nil
}
