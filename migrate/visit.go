package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/state"
	"github.com/slipway-db/slipway/postgres"
)

// visitor is called with a session to a database of the target server and the job that it holds.
type visitor func(*pgx.Conn, postgres.Endpoint, *state.Job) error

// visit calls f for every database of the target server that holds a migration of ours. A database that takes no
// connection of ours is passed over.
func visit(ctx context.Context, target postgres.Endpoint, f visitor) error {
	first, err := maintenance(ctx, &Config{Target: target})
	if err != nil {
		return err
	}
	names, err := state.Databases(ctx, first)
	_ = first.Close(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	found := false
	for _, name := range names {
		visited, err := visitDatabase(ctx, target.WithDatabase(name), f)
		if err != nil {
			return err
		}
		found = found || visited
	}
	if !found {
		return fmt.Errorf("%w on %s", ErrNothingToDo, target)
	}
	return nil
}

// visitDatabase looks again at a database whose session was ended by the server: it is perhaps being dropped, which is
// no concern of ours.
func visitDatabase(ctx context.Context, e postgres.Endpoint, f visitor) (visited bool, err error) {
	const ended, tries = "57P01", 3
	var conn *pgx.Conn
	for try := 1; ; try++ {
		conn, err = e.Connect(ctx, postgres.Session{Name: "control"})
		if postgres.Code(err) != ended || try == tries {
			break
		}
	}
	switch postgres.ConnectFault(err) {
	case postgres.FaultNone:
	case postgres.FaultDatabase, postgres.FaultLogin:
		return false, nil
	default:
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	job, err := state.Read(ctx, conn)
	if errors.Is(err, state.ErrNone) || postgres.Code(err) == "42501" { // not ours to see
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f(conn, e, job)
}

// visitRun calls f for the databases of one run: of the one that moves the database which the endpoint names, or that
// was started with this endpoint, and all that move together. A migration of somebody else is not completed or given up
// because it lies beside ours.
func visitRun(ctx context.Context, target postgres.Endpoint, f visitor) error {
	var members []member
	err := visit(ctx, target, func(_ *pgx.Conn, e postgres.Endpoint, job *state.Job) error {
		var o options
		if err := json.Unmarshal(job.Options, &o); err != nil {
			return fmt.Errorf("read the options of the migration: %w", err)
		}
		members = append(members, member{endpoint: e, jobID: job.ID, name: o.Database.Target, via: o.Via, source: job.Source.SystemID, together: o.Together})
		return nil
	})
	if err != nil {
		return err
	}
	chosen, err := oneRun(members, target)
	if err != nil {
		return err
	}
	for _, m := range chosen {
		_, err := visitDatabase(ctx, m.endpoint, func(conn *pgx.Conn, e postgres.Endpoint, job *state.Job) error {
			if job.ID != m.jobID { // another one has begun in between
				return nil
			}
			return f(conn, e, job)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// member is a database that holds a migration.
type member struct {
	endpoint postgres.Endpoint
	jobID    string
	name     string
	via      string   // the database in --target when the run began, when it is another one
	source   string   // system identifier
	together []string // target databases of the run that began it, when there were several
}

// with tells whether two databases were named by the same run. A run that was taken up again can have got more.
func (m member) with(other member) bool {
	return m.source == other.source && (slices.Contains(m.together, other.name) || slices.Contains(other.together, m.name))
}

// oneRun chooses the members of the run that the named database belongs to or was started with.
func oneRun(members []member, target postgres.Endpoint) ([]member, error) {
	database := target.Database()
	start := slices.IndexFunc(members, func(m member) bool { return m.name == database })
	if start < 0 {
		start = slices.IndexFunc(members, func(m member) bool { return m.via == database })
	}
	if start < 0 {
		return nil, fmt.Errorf("%w on %s; --target can name one of %s", ErrNothingToDo, target, names(members))
	}
	run, rest := []member{members[start]}, slices.Delete(slices.Clone(members), start, start+1)
	for i := 0; i < len(run); i++ { // run grows while it is walked
		rest = slices.DeleteFunc(rest, func(m member) bool {
			joins := m.with(run[i])
			if joins {
				run = append(run, m)
			}
			return joins
		})
	}
	if run[0].name != database && slices.ContainsFunc(rest, func(m member) bool { return m.via == database }) {
		return nil, fmt.Errorf("several migrations were started with --target %s: name one of %s", target, names(members))
	}
	return run, nil
}

func names(members []member) string {
	all := make([]string, len(members))
	for i, m := range members {
		all[i] = m.name
	}
	return strings.Join(all, ", ")
}
