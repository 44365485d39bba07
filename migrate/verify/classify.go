package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-db/slipway/postgres"
)

// classify turns proven suspects into differences.
func (t *table) classify(ctx context.Context, l *lane, d dialect, proven []*open, found *tally) error {
	rows := []*open{}
	for _, o := range proven {
		sourceRows, targetRows := rowsIn(o.source.rows), rowsIn(o.target.rows)
		switch {
		case len(t.key) > 0 && sourceRows > 0 && targetRows > 0:
			rows = append(rows, o)
		case sourceRows > targetRows:
			found.note(t.whole(o, RowMissing, sourceRows-targetRows), sourceRows-targetRows)
		default:
			found.note(t.whole(o, RowExtra, targetRows-sourceRows), targetRows-sourceRows)
		}
	}
	return t.classifyColumns(ctx, l, d, rows, found)
}

// whole is a difference of whole rows.
func (t *table) whole(o *open, kind DifferenceKind, copies int64) Difference {
	d := Difference{Kind: kind, Key: t.keyOf(o.suspect)}
	if len(t.key) == 0 {
		d.Copies = copies
	}
	return d
}

// classifyColumns finds the columns in which rows of the same key differ, and drops rows whose values only print
// differently.
func (t *table) classifyColumns(ctx context.Context, l *lane, d dialect, rows []*open, found *tally) error {
	if !d.foreign {
		// Beyond the list only the number counts.
		room := max(0, found.limit-len(found.differences))
		if room < len(rows) {
			for range rows[room:] {
				found.different++
			}
			rows = rows[:room]
		}
	}
	if len(rows) == 0 {
		return nil
	}
	var source, target map[int]values
	err := errors.Join(
		attempt(ctx, func() (err error) { source, err = t.values(ctx, l.sourceProbe, d, rows); return err }),
		attempt(ctx, func() (err error) { target, err = t.values(ctx, l.targetProbe, d, rows); return err }),
	)
	if err != nil {
		return fmt.Errorf("read differing rows: %w", err)
	}
	for i, o := range rows {
		difference := Difference{Kind: RowDifferent, Key: t.keyOf(o.suspect)}
		count := max(rowsIn(o.source.rows), rowsIn(o.target.rows))
		if count == 1 && source[i] != nil && target[i] != nil {
			columns, err := t.differing(ctx, l, d, source[i], target[i])
			if err != nil {
				return err
			}
			if len(columns) == 0 && d.foreign {
				continue
			}
			difference.Columns, difference.Generated = t.nameColumns(columns)
		}
		found.note(difference, count)
	}
	return nil
}

func (t *table) nameColumns(positions []int) (names []string, generated bool) {
	generated = len(positions) > 0
	for _, p := range positions {
		names = append(names, t.from[p].name)
		generated = generated && (t.from[p].generated || t.to[p].generated)
	}
	return names, generated
}

// value is one column of one row: the hash of its comparable text, and its plain text when that is short; nil is NULL
// or too long.
type value struct {
	digest string
	plain  []byte
	null   bool
}

// values has one value per compared column; nil when the key has more than one row.
type values []value

// maxPlain bounds the values that are read for parsing on the target, in bytes.
const maxPlain = 256 << 10

// values reads the rows of the suspects column by column, by position in suspects.
func (t *table) values(ctx context.Context, s *session, d dialect, suspects []*open) (map[int]values, error) {
	columns := t.columns(s.side)
	digests, plains := make([]string, len(columns)), make([]string, len(columns))
	for i, c := range columns {
		digests[i] = d.md5("ROW(" + d.comparable(c, attribute(c)) + ")::pg_catalog.text")
		plains[i] = plainText(attribute(c))
		if d.digest {
			plains[i] = "NULL::pg_catalog.text"
		}
	}
	keys := make([][]string, len(suspects))
	for i, o := range suspects {
		keys[i] = o.key
	}
	// Through unnest, because two expressions per column would exceed the longest select list.
	sql := fmt.Sprintf(`SELECT w.n, u.digest, CASE WHEN pg_catalog.octet_length(u.plain) <= %d THEN u.plain END, u.plain IS NULL
		FROM %s CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(ARRAY[%s]::pg_catalog.text[]), pg_catalog.unnest(ARRAY[%s]::pg_catalog.text[]))
		WITH ORDINALITY AS u(digest, plain, i) ORDER BY w.n, t.ctid, u.i`,
		maxPlain, t.joinKeys(s.side, keys), strings.Join(digests, ", "), strings.Join(plains, ", "))
	rows, err := s.query(ctx, sql)
	if err != nil {
		return nil, err
	}
	found := map[int]values{}
	for _, r := range rows {
		n, err := r.int(0)
		if err != nil {
			return nil, err
		}
		found[int(n)] = append(found[int(n)], value{digest: r.text(1), plain: r[2], null: r.text(3) == "t"})
	}
	for n, v := range found {
		if len(v) != len(columns) {
			found[n] = nil
		}
	}
	return found, nil
}

// differing gives the positions of the columns that differ. Where the sides may print equal values differently, the
// target parses the source's text and has the last word.
func (t *table) differing(ctx context.Context, l *lane, d dialect, source, target values) ([]int, error) {
	positions := []int{}
	for i := range source {
		if source[i].digest == target[i].digest {
			continue
		}
		if d.foreign && source[i].plain != nil && target[i].plain != nil {
			parsed, err := t.parsedDigest(ctx, l.targetProbe, d, t.to[i], string(source[i].plain))
			if err != nil {
				return nil, err
			}
			if parsed == target[i].digest {
				continue
			}
		}
		positions = append(positions, i)
	}
	return positions, nil
}

// parsedDigest lets the target parse a text as the column's type and gives the digest of the result; "" when the text
// is not valid there.
func (t *table) parsedDigest(ctx context.Context, s *session, d dialect, c column, text string) (string, error) {
	sql := "SELECT " + d.md5("ROW("+d.comparable(c, literal(c, text))+")::pg_catalog.text")
	var r row
	err := attempt(ctx, func() (err error) {
		r, err = s.one(ctx, sql)
		return err
	})
	if code := postgres.Code(err); slices.Contains([]string{"22", "23", "42"}, code[:min(2, len(code))]) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return r.text(0), nil
}
