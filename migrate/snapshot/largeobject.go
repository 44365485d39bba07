package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// Bounds of the work on large objects.
const (
	pageObjects = 1000     // objects looked at in one round
	hashBytes   = 16 << 20 // of one object read at once by a server to hash it
	sliceBytes  = 4 << 20  // of one object in our memory at once
	loadBytes   = 8 << 20  // of small objects in our memory at once
)

// LargeObjectConfig says which large objects are aligned and how.
type LargeObjectConfig struct {
	// Source and Target name their databases.
	Source, Target postgres.Endpoint
	// Session is shown after "slipway/" as application_name; default "large objects".
	Session string
	// Snapshot is an exported snapshot to read the source under; empty means one of its own.
	Snapshot string
	// KeepExtra leaves alone what only the target has. Without it, objects that the source does not have are removed
	// from the target.
	KeepExtra bool
	// NoOwner and NoPrivileges leave owners and privileges of the target as they are.
	NoOwner, NoPrivileges bool
}

// LargeObjectReport counts objects of the source and what was done to the target's. Changed ones had other contents,
// Altered ones another owner, comment or other privileges. Bytes were sent.
type LargeObjectReport struct {
	Total, Created, Changed, Removed, Altered int
	Bytes                                     int64
}

// AlignLargeObjects makes the large objects of the target what those of the source are, under the same OIDs: contents,
// owner, privileges, comment. Contents are compared by hashes that the servers compute, so a second run sends only what
// changed; it is right after any interruption. It reads by functions, which need SELECT on each object and no more.
func AlignLargeObjects(ctx context.Context, config LargeObjectConfig) (LargeObjectReport, error) {
	if config.Session == "" {
		config.Session = "large objects"
	}
	a := &aligner{config: config}
	if err := a.run(ctx); err != nil {
		return a.report, fmt.Errorf("align large objects: %w", err)
	}
	return a.report, nil
}

// aligner walks both sides in the order of OIDs, page by page, one target transaction each.
type aligner struct {
	config         LargeObjectConfig
	source, target *pgx.Conn
	hash           string // the hash function that both servers have
	report         LargeObjectReport
}

func (a *aligner) run(ctx context.Context) (err error) {
	session := postgres.Session{Name: a.config.Session}
	if a.source, err = a.config.Source.Connect(ctx, session); err != nil {
		return err
	}
	defer closeSession(ctx, a.source)
	if a.target, err = a.config.Target.Connect(ctx, session); err != nil {
		return err
	}
	defer closeSession(ctx, a.target)
	if err := a.chooseHash(); err != nil {
		return err
	}
	if a.config.Snapshot != "" {
		return Within(ctx, a.source, a.config.Snapshot, func() error { return a.pages(ctx) })
	}
	return pgx.BeginTxFunc(ctx, a.source, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly},
		func(pgx.Tx) error { return a.pages(ctx) })
}

// chooseHash takes SHA-256 where both servers have it, which servers in FIPS mode need.
func (a *aligner) chooseHash() error {
	a.hash = "pg_catalog.sha256(%s)"
	for _, conn := range []*pgx.Conn{a.source, a.target} {
		version, err := postgres.ServerVersion(conn)
		if err != nil {
			return err
		}
		if !version.AtLeast(11) {
			a.hash = "pg_catalog.decode(pg_catalog.md5(%s), 'hex')"
		}
	}
	return nil
}

// pages aligns ranges of OIDs. The last page of the source covers all OIDs above it, so that what only the target has
// is seen wherever it is; a page that the target fills first ends there.
func (a *aligner) pages(ctx context.Context) error {
	for after, more := int64(0), true; more; {
		var err error
		if after, more, err = a.page(ctx, after); err != nil {
			return err
		}
	}
	return nil
}

// page aligns the objects whose OIDs follow after, and returns the last OID that is done and whether there are more.
func (a *aligner) page(ctx context.Context, after int64) (last int64, more bool, err error) {
	here, err := a.list(ctx, a.source, after)
	if err != nil {
		return 0, false, fmt.Errorf("source: %w", err)
	}
	err = pgx.BeginFunc(ctx, a.target, func(pgx.Tx) error {
		there, err := a.list(ctx, a.target, after)
		if err != nil {
			return fmt.Errorf("target: %w", err)
		}
		last, more = clip(here, there)
		return a.align(ctx, here, there)
	})
	return last, more, err
}

// clip cuts both lists to the OIDs that both cover, and tells where that is.
func clip(here, there map[int64]*object) (last int64, more bool) {
	last = int64(1) << 32
	for _, list := range []map[int64]*object{here, there} {
		if len(list) == pageObjects {
			more = true
			last = min(last, slices.Max(slices.Collect(maps.Keys(list))))
		}
	}
	for _, list := range []map[int64]*object{here, there} {
		maps.DeleteFunc(list, func(oid int64, _ *object) bool { return oid > last })
	}
	return last, more
}

// align brings one page of the target to what the source has.
func (a *aligner) align(ctx context.Context, here, there map[int64]*object) error {
	extra, missing, both := []int64{}, []int64{}, []int64{}
	for oid := range there {
		if here[oid] == nil {
			extra = append(extra, oid)
		}
	}
	for oid := range here {
		if there[oid] == nil {
			missing = append(missing, oid)
		} else {
			both = append(both, oid)
		}
	}
	slices.Sort(missing)
	slices.Sort(both)
	a.report.Total += len(here)
	if err := a.remove(ctx, extra); err != nil {
		return err
	}
	changed, err := a.different(ctx, both)
	if err != nil {
		return err
	}
	if err := a.send(ctx, missing, changed); err != nil {
		return err
	}
	a.report.Created += len(missing)
	a.report.Changed += len(changed)
	if len(missing) > 0 {
		created, err := a.properties(ctx, a.target, missing)
		if err != nil {
			return fmt.Errorf("target: %w", err)
		}
		maps.Copy(there, created)
	}
	return a.alter(ctx, here, there, missing)
}

func (a *aligner) remove(ctx context.Context, extra []int64) error {
	if a.config.KeepExtra || len(extra) == 0 {
		return nil
	}
	_, err := a.target.Exec(ctx, `SELECT pg_catalog.lo_unlink(o) FROM pg_catalog.unnest($1::pg_catalog.int8[]::pg_catalog.oid[]) AS o`, extra)
	if err != nil {
		return fmt.Errorf("remove from the target: %w", err)
	}
	a.report.Removed += len(extra)
	return nil
}

// different lists the objects whose contents are not the same on both sides.
func (a *aligner) different(ctx context.Context, oids []int64) ([]int64, error) {
	if len(oids) == 0 {
		return nil, nil
	}
	here, err := a.contents(ctx, a.source, oids)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	there, err := a.contents(ctx, a.target, oids)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	changed := []int64{}
	for _, oid := range oids {
		if here[oid] != there[oid] {
			changed = append(changed, oid)
		}
	}
	return changed, nil
}

var errVanished = errors.New("a large object vanished while it was read")
