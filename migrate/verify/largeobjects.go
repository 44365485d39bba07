package verify

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-db/slipway/postgres"
)

// LargeObjectReport is the outcome for all large objects of the database.
type LargeObjectReport struct {
	Source int64  `json:"source"`
	Target int64  `json:"target"`
	Result Result `json:"result"`
	Reason string `json:"reason,omitempty"`
	// Missing, Extra and Different count objects; OIDs lists the first of them.
	Missing   int64    `json:"missing"`
	Extra     int64    `json:"extra"`
	Different int64    `json:"different"`
	OIDs      []uint32 `json:"oids,omitempty"`
	Err       string   `json:"error,omitempty"`
}

const (
	// largeObjectBatch is how many large objects are looked at together, largeObjectPart how much of each one
	// statement reads, in bytes.
	largeObjectBatch = 100
	largeObjectPart  = 4 << 20
)

func (r *run) compareLargeObjects(ctx context.Context, report *Report) {
	if !r.LargeObjects {
		return
	}
	found := &LargeObjectReport{Result: Same}
	report.LargeObjects = found
	if r.fence != nil {
		found.Result, found.Reason = Skipped, "aligned at completion"
		return
	}
	source, target := &session{side: r.source}, &session{side: r.target}
	defer source.close()
	defer target.close()
	if err := r.walkLargeObjects(ctx, source, target, found); err != nil {
		found.Result, found.Err = Failed, err.Error()
		return
	}
	if found.Missing+found.Extra+found.Different > 0 {
		found.Result = Different
	}
}

// walkLargeObjects goes through the OIDs in batches whose bounds are the source's; the last one is open above.
func (r *run) walkLargeObjects(ctx context.Context, source, target *session, found *LargeObjectReport) error {
	low := int64(-1)
	for {
		// The bounds are int8, because oid has no value below its first.
		first, err := source.largeObjects(ctx, fmt.Sprintf("m.oid::pg_catalog.int8 > %d ORDER BY m.oid LIMIT %d", low, largeObjectBatch))
		if err != nil {
			return err
		}
		where, last := fmt.Sprintf("m.oid::pg_catalog.int8 > %d", low), len(first) < largeObjectBatch
		if !last {
			low = int64(first[len(first)-1])
			where += fmt.Sprintf(" AND m.oid::pg_catalog.int8 <= %d", low)
		}
		second, err := target.largeObjects(ctx, where+" ORDER BY m.oid")
		if err != nil {
			return err
		}
		if err := r.compareLargeObjectBatch(ctx, source, target, [2][]uint32{first, second}, found); err != nil {
			return err
		}
		if last {
			return nil
		}
	}
}

func (s *session) largeObjects(ctx context.Context, where string) (oids []uint32, err error) {
	var rows []row
	err = attempt(ctx, func() (err error) {
		rows, err = s.query(ctx, "SELECT m.oid FROM pg_catalog.pg_largeobject_metadata m WHERE "+where)
		return err
	})
	for _, r := range rows {
		oid, err := strconv.ParseUint(r.text(0), 10, 32)
		if err != nil {
			return nil, err
		}
		oids = append(oids, uint32(oid))
	}
	return oids, err
}

func (r *run) compareLargeObjectBatch(
	ctx context.Context, source, target *session, oids [2][]uint32, found *LargeObjectReport,
) error {
	found.Source += int64(len(oids[0]))
	found.Target += int64(len(oids[1]))
	list := func(oid uint32, counter *int64) {
		*counter++
		if len(found.OIDs) < r.MaxDifferences {
			found.OIDs = append(found.OIDs, oid)
		}
	}
	common := []uint32{}
	for _, oid := range oids[0] {
		if _, there := slices.BinarySearch(oids[1], oid); there {
			common = append(common, oid)
		} else {
			list(oid, &found.Missing)
		}
	}
	for _, oid := range oids[1] {
		if _, there := slices.BinarySearch(oids[0], oid); !there {
			list(oid, &found.Extra)
		}
	}
	for part := int64(0); len(common) > 0; part++ {
		var sides [2]map[uint32]string
		err := both(func(isSource bool) (err error) {
			if isSource {
				sides[0], err = source.largeObjectParts(ctx, common, part)
			} else {
				sides[1], err = target.largeObjectParts(ctx, common, part)
			}
			return err
		})
		if err != nil {
			return err
		}
		longer := common[:0:0]
		for _, oid := range common {
			switch content := sides[0][oid]; {
			case content != sides[1][oid]:
				list(oid, &found.Different)
			case strings.HasPrefix(content, strconv.Itoa(largeObjectPart)+" "):
				longer = append(longer, oid)
			}
		}
		common = longer
	}
	return nil
}

// largeObjectParts gives "length md5" of one part of each object.
func (s *session) largeObjectParts(ctx context.Context, oids []uint32, part int64) (map[uint32]string, error) {
	numbers := make([]string, len(oids))
	for i, oid := range oids {
		numbers[i] = strconv.FormatUint(uint64(oid), 10)
	}
	sql := fmt.Sprintf(`SELECT m.oid, pg_catalog.octet_length(m.part), pg_catalog.md5(m.part)
		FROM (SELECT l.oid, pg_catalog.lo_get(l.oid, %d, %d) AS part
		        FROM pg_catalog.unnest(%s::pg_catalog.oid[]) AS l(oid) OFFSET 0) AS m`,
		part*largeObjectPart, largeObjectPart, postgres.QuoteLiteral("{"+strings.Join(numbers, ",")+"}"))
	var rows []row
	err := attempt(ctx, func() (err error) {
		rows, err = s.query(ctx, sql)
		return err
	})
	parts := map[uint32]string{}
	for _, r := range rows {
		oid, err := strconv.ParseUint(r.text(0), 10, 32)
		if err != nil {
			return nil, err
		}
		parts[uint32(oid)] = r.text(1) + " " + r.text(2)
	}
	return parts, err
}
