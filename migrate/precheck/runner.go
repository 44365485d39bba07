package precheck

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// runner is one run of the checks.
type runner struct {
	Config
	report *Report
	// bad holds what failed or was skipped, by ID for servers and by key for databases.
	bad    map[string]bool
	source *server
	target *server
	// bytes of the chosen tables of all databases, summed up as the databases are looked at.
	bytes int64
	// loaded counts the databases whose catalog was read, unmatched in how many of them a pattern found nothing.
	loaded    int
	unmatched map[string]int
	// roles are those that move, with every database that was looked at.
	roles []schema.Role
}

// finding is what a check function fills in.
type finding struct {
	result  Result
	looked  string
	reasons []string
	objects []string
	fix     []string
	side    Side
}

// fail and warn add a reason and the lines that fix it; the worst result stays.
func (f *finding) fail(reason string, fix ...string) {
	f.result = Failed
	f.add(reason, fix)
}

func (f *finding) warn(reason string, fix ...string) {
	if f.result != Failed {
		f.result = Warning
	}
	f.add(reason, fix)
}

// note adds something worth knowing that changes nothing.
func (f *finding) note(reason string) { f.add(reason, nil) }

// add says the same reason once, however many objects it holds for.
func (f *finding) add(reason string, fix []string) {
	if !slices.Contains(f.reasons, reason) {
		f.reasons = append(f.reasons, reason)
	}
	for _, line := range fix {
		if !slices.Contains(f.fix, line) {
			f.fix = append(f.fix, line)
		}
	}
}

// do runs one check, for the database d or, when that is nil, for the servers.
func (r *runner) do(ctx context.Context, c check, d *database) {
	if ctx.Err() != nil || !c.applies(r) {
		return
	}
	name := ""
	if d != nil {
		name = d.names.Source
	}
	item := Item{ID: c.ID, Title: c.Title, Looked: c.Looks, Database: name, Side: c.Side, Result: Passed}
	if need := r.missing(c, name); need != "" {
		item.Result, item.Reason = Skipped, "depends on "+need+", which did not pass"
	} else {
		f := &finding{result: Passed, looked: c.Looks, side: c.Side}
		if err := c.run(ctx, r, d, f); err != nil {
			f.fail("could not be checked: "+explain(err), "slipway migrate check # again, when the cause is gone")
		}
		item.Looked, item.Result, item.Objects, item.Fix, item.Side = f.looked, f.result, f.objects, f.fix, f.side
		item.Reason = strings.Join(f.reasons, "; ")
	}
	if item.Result == Failed || item.Result == Skipped {
		r.bad[key(c.ID, name)] = true
	}
	r.report.add(item)
}

func key(id, database string) string { return id + "\x00" + database }

// missing is the ID of an item that c needs and that did not pass, or "".
func (r *runner) missing(c check, database string) string {
	for _, id := range c.needs {
		if r.bad[key(id, "")] || r.bad[key(id, database)] {
			return id
		}
	}
	return ""
}

// database runs the checks of one database in sessions of its own, which are closed before the next one's are opened.
func (r *runner) database(ctx context.Context, names Database) {
	d := &database{runner: r, names: names}
	defer d.close(ctx)
	for _, c := range checks {
		if c.database != nil {
			r.do(ctx, c, d)
		}
	}
}

func (r *runner) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	for _, s := range []*server{r.source, r.target} {
		if s != nil {
			_ = s.conn.Close(ctx) // nothing was written, so nothing is lost
		}
	}
}

// closeTimeout bounds the goodbye to a server that may no longer answer.
const closeTimeout = 5 * time.Second

// explain is an error for people, with what the server said beyond the message.
func explain(err error) string {
	text := err.Error()
	if detail := postgres.Detail(err); detail != "" {
		text += " (" + detail + ")"
	}
	return text
}

// plural counts things: "1 table", "3 tables".
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	switch {
	case strings.HasSuffix(one, "x"), strings.HasSuffix(one, "s"):
		one += "es"
	case strings.HasSuffix(one, "y"):
		one = strings.TrimSuffix(one, "y") + "ies"
	default:
		one += "s"
	}
	return fmt.Sprintf("%d %s", n, one)
}

// excludeOption is the option of ours that leaves an object out.
func excludeOption(schemaName, name string) string {
	return "--exclude " + shellQuote(patternPart(schemaName)+"."+patternPart(name))
}

// patternPart quotes a name so that a pattern takes it literally.
func patternPart(name string) string {
	if strings.ContainsAny(name, `".*?`) {
		return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
	}
	return name
}

func shellQuote(word string) string { return `'` + strings.ReplaceAll(word, `'`, `'\''`) + `'` }
