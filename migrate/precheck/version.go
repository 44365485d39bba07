package precheck

import (
	"context"
	"errors"
	"fmt"

	"github.com/slipway-db/slipway/postgres"
)

const (
	oldestSource = postgres.Version(90400) // the first with logical decoding
	oldestTarget = postgres.Version(100000)
)

func (r *runner) sourceVersion(_ context.Context, f *finding) error {
	v := r.source.version
	f.looked = "PostgreSQL " + v.String()
	switch {
	case v < oldestSource:
		f.fail(fmt.Sprintf("PostgreSQL %s cannot be a source: 9.4 is the oldest", v),
			"pg_dump | psql # moves a database of that age with its writers stopped")
	case v < 100000 && r.incremental():
		f.note(fmt.Sprintf("PostgreSQL %s has no pgoutput: changes are read with test_decoding", v))
	}
	return nil
}

// targetVersion warns before going down: nothing forbids it, but a newer definition may not exist on an older server.
func (r *runner) targetVersion(_ context.Context, f *finding) error {
	s, t := r.source.version, r.target.version
	f.looked = fmt.Sprintf("PostgreSQL %s to %s", s, t)
	switch {
	case t < oldestTarget:
		f.fail(fmt.Sprintf("PostgreSQL %s cannot be a target: 10 is the oldest", t),
			"--target postgres://<a server of PostgreSQL 10 or later>/"+r.target.endpoint.Database())
	case t.Major() < s.Major():
		f.warn(fmt.Sprintf("the target is older (%s) than the source (%s): definitions that only the newer version knows will fail there",
			t.MajorString(), s.MajorString()),
			"slipway migrate run --type structure # into an empty database first, which shows every definition that does not fit")
	}
	return nil
}

// loss is a mistake in logical decoding or copying that a minor release mended. Minor releases of all majors appear on
// the same day, so the minor of version 15 stands for the day; see fixedMinor.
type loss struct {
	fixed15  int
	since    int // first major that has the mistake
	describe string
}

var losses = []loss{
	{2, 15, "column lists of publications are ignored for updates and deletes"},
	{6, 11, "columns added with a default may be decoded as NULL; a snapshot taken inside a transaction with DDL may be wrong"},
	{8, 9, "a slot may start inside a transaction and miss its first part"},
	{10, 9, "the position from which a slot restarts may go back"},
	{13, 9, "changes are lost when DDL without a strong lock (ALTER PUBLICATION, ALTER TYPE) runs beside writes"},
	{14, 9, "confirmed positions may go back, WAL may be removed too early, and decoding may wait for ever on a torn record"},
	{16, 9, "a new slot may be invalidated by a checkpoint that runs at the same time"},
	{18, 9, "a walsender may block the shutdown of the source for ever"},
	{20, 9, "the first snapshot of a slot may be wrong, and aborted subtransactions with DDL may be decoded as done"},
}

// minorOffset is what the minor of a major is ahead of version 15's of the same day; lastMinor is the last release of
// majors that get no more.
var (
	minorOffset = map[int]int{10: 22, 11: 17, 12: 12, 13: 8, 14: 5, 15: 0, 16: -4, 17: -8, 18: -14}
	lastMinor   = map[int]int{10: 23, 11: 22, 12: 22, 13: 23}
)

// fixedMinor is the minor release of a major that mended the loss; ok is false when there never will be one, and zero
// means that every release of that major has the fix.
func fixedMinor(major int, l loss) (minor int, ok bool) {
	offset, known := minorOffset[major]
	if !known {
		return 0, major > 18
	}
	minor = max(0, l.fixed15+offset)
	last, ended := lastMinor[major]
	return minor, !ended || minor <= last
}

// sourceMinor names the losses that the source's minor release is known for.
func (r *runner) sourceMinor(_ context.Context, f *finding) error {
	v := r.source.version
	f.looked = "PostgreSQL " + v.String()
	major, minor := v.Major(), int(v)%100
	wanted, ended := 0, false
	for _, l := range losses {
		fixed, ok := fixedMinor(major, l)
		if major < l.since || ok && minor >= fixed {
			continue
		}
		if ok {
			f.warn(fmt.Sprintf("before %d.%d %s", major, fixed, l.describe))
			wanted = max(wanted, fixed)
		} else {
			f.warn(fmt.Sprintf("no release of %s mends: %s", v.MajorString(), l.describe))
			ended = true
		}
	}
	if wanted > 0 {
		f.fix = append(f.fix, fmt.Sprintf("apt-get install --only-upgrade postgresql-%d # to %d.%d or later, then restart the source", major, major, wanted))
	}
	if ended {
		f.fix = append(f.fix, "--type full # with the writers stopped, or run no DDL on the source while the migration runs")
	}
	return nil
}

// sourceRecovery tells what a standby can do as a source.
func (r *runner) sourceRecovery(_ context.Context, f *finding) error {
	if !r.source.recovery {
		f.looked = "the source is a primary"
		return nil
	}
	f.looked = "the source is a standby"
	v := r.source.version
	switch {
	case r.incremental() && !v.AtLeast(16):
		f.fail(fmt.Sprintf("changes cannot be read from a standby of PostgreSQL %s: that came with 16", v.MajorString()),
			"--source postgres://<the primary>/"+r.source.endpoint.Database(), "--type full")
	case r.incremental():
		f.warn("a slot on a standby is lost when it conflicts with the primary's vacuum, and waits for the primary to log its running transactions",
			"ALTER SYSTEM SET hot_standby_feedback = on; -- on the standby, then SELECT pg_reload_conf();",
			"SELECT pg_log_standby_snapshot(); -- on the primary, while the slot is made")
	case r.copies():
		f.warn("long copies from a standby are cancelled when they conflict with replay",
			"ALTER SYSTEM SET max_standby_streaming_delay = -1; -- on the standby, then SELECT pg_reload_conf();")
	}
	if fixed, ok := fixedMinor(v.Major(), loss{fixed15: 20}); r.copies() && (!ok || int(v)%100 < fixed) {
		r.standbySnapshot(f)
	}
	return nil
}

// standbySnapshot speaks of a mistake that minor releases mended: a snapshot that one session of a standby exports and
// others import could be wrong. With changes to follow on top, nobody could tell later which rows it concerned.
func (r *runner) standbySnapshot(f *finding) {
	reason := fmt.Sprintf("a snapshot shared between sessions of a standby of PostgreSQL %s may be wrong", r.source.version)
	primary := "--source postgres://<the primary>/" + r.source.endpoint.Database()
	if r.incremental() {
		f.fail(reason, primary)
		return
	}
	f.warn(reason, primary, "slipway migrate compare # after the copy, with the writers stopped")
}

// targetWritable refuses a standby.
func (r *runner) targetWritable(_ context.Context, f *finding) error {
	if r.target.recovery {
		f.fail("the target is a standby: nothing can be written there",
			"--target postgres://<the primary>/"+r.target.endpoint.Database(), "SELECT pg_promote(); -- when it shall be a server of its own")
	}
	return nil
}

// clientTools looks for pg_dump of at least the source's major, which the structure is read with.
func (r *runner) clientTools(_ context.Context, f *finding) error {
	major := r.source.version.Major()
	path, found, err := r.Tool(major)
	if missing, ok := errors.AsType[*postgres.MissingError](err); ok {
		f.fail(missing.Error(), "apt-get install "+missing.Package())
		return nil
	}
	if err != nil {
		f.fail(err.Error(), fmt.Sprintf("apt-get install postgresql-client-%d", major))
		return nil
	}
	f.looked = fmt.Sprintf("%s of PostgreSQL %d", path, found)
	if found < major {
		f.fail(fmt.Sprintf("pg_dump of PostgreSQL %d cannot read a server of %s", found, r.source.version),
			fmt.Sprintf("apt-get install postgresql-client-%d", major))
	}
	return nil
}
