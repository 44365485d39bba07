package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/postgres"
)

// The databases of a drain: one on the source, and one for each tool on the target, so that both drain one backlog.
const (
	drainSource = "drain"
	drainOurs   = "drain_slipway"
	drainNative = "drain_native"
)

const (
	native = "native subscription"
	// drainScale bounds the pgbench scale of a drain: the copy before it is not what is measured.
	drainScale = 10
	// backlogClients write the backlog.
	backlogClients = 4
	// drainLimit ends a drain that never does.
	drainLimit = 15 * time.Minute
)

// drain measures how long a prepared backlog takes until its last row is on the target.
func (b *bench) drain(ctx context.Context, script string) (*result, error) {
	r := &result{
		title:  fmt.Sprintf("Drain: %d transactions of pgbench %s", b.transactions, script),
		amount: b.transactions, left: map[string]string{},
	}
	if err := b.fillPgbench(ctx, drainSource, min(b.scale, drainScale)); err != nil {
		return nil, err
	}
	// The check wants an identity for every table. pgbench_history has only inserts, whose WAL is the same with it.
	if err := b.servers.exec(ctx, b.servers.source, drainSource, "CREATE TABLE marker (id integer PRIMARY KEY)",
		"ALTER TABLE pgbench_history REPLICA IDENTITY FULL"); err != nil {
		return nil, err
	}
	for i := range b.rounds {
		marker := i + 1
		r.tools = []tool{
			{name: ours, run: func(ctx context.Context) (sample, error) { return b.drainByOurs(ctx, marker) }},
			{name: native, run: func(ctx context.Context) (sample, error) { return b.drainByNative(ctx, marker) }},
		}
		if err := b.drainRound(ctx, r, script, marker); err != nil {
			return nil, err
		}
	}
	return r, b.servers.exec(ctx, b.servers.source, "postgres", "DROP DATABASE "+drainSource)
}

func (b *bench) drainRound(ctx context.Context, r *result, script string, marker int) error {
	b.say("preparing a backlog of %d transactions", b.transactions)
	if err := b.prepareOurs(ctx); err != nil {
		return fmt.Errorf("prepare slipway: %w", err)
	}
	if err := b.prepareNative(ctx); err != nil {
		return fmt.Errorf("prepare the subscription: %w", err)
	}
	if err := b.writeBacklog(ctx, script, marker); err != nil {
		return fmt.Errorf("write the backlog: %w", err)
	}
	if err := b.round(ctx, r); err != nil {
		return err
	}
	_, err := b.servers.call(ctx, b.slipway, "migrate", "abort",
		"--source", uri(b.servers.source, drainSource), "--target", uri(b.servers.target, drainOurs))
	return errors.Join(err,
		b.servers.exec(ctx, b.servers.target, drainNative, "DROP SUBSCRIPTION bench"),
		b.servers.exec(ctx, b.servers.source, drainSource, "DROP PUBLICATION bench"),
		b.servers.exec(ctx, b.servers.target, "postgres", "DROP DATABASE "+drainOurs, "DROP DATABASE "+drainNative))
}

func (b *bench) writeBacklog(ctx context.Context, script string, marker int) error {
	_, err := b.servers.call(ctx, b.program("pgbench"), "-n", "-b", script, "-c", strconv.Itoa(backlogClients),
		"-t", strconv.Itoa(b.transactions/backlogClients), uri(b.servers.source, drainSource))
	if err != nil {
		return err
	}
	return b.servers.exec(ctx, b.servers.source, drainSource, fmt.Sprintf("INSERT INTO marker VALUES (%d)", marker))
}

func (b *bench) startOurs() (*program, error) {
	return b.servers.start(b.slipway, "migrate", "run", "--yes", "--jobs", strconv.Itoa(b.jobs), "--database", drainSource+":"+drainOurs,
		"--source", uri(b.servers.source, drainSource), "--target", uri(b.servers.target, drainOurs))
}

// stoppedCode is how `slipway migrate run` ends on request.
const stoppedCode = 5

func stopOurs(ctx context.Context, p *program) error {
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	err := p.wait(ctx)
	if err != nil && ctx.Err() == nil && p.cmd.ProcessState.ExitCode() == stoppedCode {
		return nil
	}
	if err == nil {
		return errors.New("slipway ended by itself")
	}
	return err
}

// prepareOurs brings a migration to the point where it follows, and stops it there.
func (b *bench) prepareOurs(ctx context.Context) error {
	if err := b.servers.recreate(ctx, b.servers.target, drainOurs); err != nil {
		return err
	}
	target, err := postgres.ParseEndpoint(uri(b.servers.target, drainOurs) + "&password=" + b.servers.password)
	if err != nil {
		return err
	}
	engine, err := b.startOurs()
	if err != nil {
		return err
	}
	defer engine.kill()
	err = b.until(ctx, 300*time.Millisecond, engine, func(ctx context.Context) (bool, error) {
		all, err := migrate.ReadStatus(ctx, target)
		if errors.Is(err, migrate.ErrNothingToDo) {
			return false, nil // not yet
		}
		return len(all) == 1 && all[0].InSync, err
	})
	if err != nil {
		return err
	}
	return stopOurs(ctx, engine)
}

// prepareNative makes a subscription with the same contents, and disables it.
func (b *bench) prepareNative(ctx context.Context) error {
	s := b.servers
	if err := s.recreate(ctx, s.target, drainNative); err != nil {
		return err
	}
	dump := filepath.Join(s.dir, "structure.dump")
	if _, err := s.call(ctx, b.program("pg_dump"), "-s", "-Fc", "-n", "public", "--no-publications", "-f", dump, uri(s.source, drainSource)); err != nil {
		return err
	}
	if _, err := s.call(ctx, b.program("pg_restore"), "--clean", "--if-exists", "-d", uri(s.target, drainNative), dump); err != nil {
		return err
	}
	if err := s.exec(ctx, s.source, drainSource, "CREATE PUBLICATION bench FOR TABLES IN SCHEMA public"); err != nil {
		return err
	}
	connection := fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=%s password=%s", s.source.Port(), drainSource, s.password)
	if err := s.exec(ctx, s.target, drainNative,
		"CREATE SUBSCRIPTION bench CONNECTION "+postgres.QuoteLiteral(connection)+" PUBLICATION bench"); err != nil {
		return err
	}
	const ready = `SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_catalog.pg_subscription_rel`
	if err := b.untilTrue(ctx, s.target, drainNative, ready); err != nil {
		return err
	}
	return b.disableNative(ctx)
}

// disableNative returns when nobody uses the slot any more.
func (b *bench) disableNative(ctx context.Context) error {
	if err := b.servers.exec(ctx, b.servers.target, drainNative, "ALTER SUBSCRIPTION bench DISABLE"); err != nil {
		return err
	}
	return b.untilTrue(ctx, b.servers.source, drainSource, `SELECT NOT active FROM pg_catalog.pg_replication_slots WHERE slot_name = 'bench'`)
}

func (b *bench) drainByOurs(ctx context.Context, marker int) (sample, error) {
	c := consumer{database: drainOurs, slots: `slot_name <> 'bench'`, start: b.startOurs}
	defer func() {
		if c.engine != nil {
			c.engine.kill()
		}
	}()
	s, err := b.drained(ctx, &c, marker)
	if err != nil {
		return s, err
	}
	if s.client, err = treeCPU(c.engine.cmd.Process.Pid); err != nil {
		return s, err
	}
	if err := stopOurs(ctx, c.engine); err != nil {
		return s, err
	}
	s.memory = c.engine.memory()
	return s, b.same(ctx, drainSource, drainOurs, true)
}

func (b *bench) drainByNative(ctx context.Context, marker int) (sample, error) {
	c := consumer{database: drainNative, slots: `slot_name = 'bench'`, start: func() (*program, error) {
		return nil, b.servers.exec(ctx, b.servers.target, drainNative, "ALTER SUBSCRIPTION bench ENABLE")
	}}
	s, err := b.drained(ctx, &c, marker)
	if err != nil {
		return s, err
	}
	if err := b.disableNative(ctx); err != nil { // it would work beside the next tool
		return s, err
	}
	return s, b.same(ctx, drainSource, drainNative, true)
}

// consumer is one that drains the backlog.
type consumer struct {
	database string
	slots    string // the condition that picks its slot on the source
	start    func() (*program, error)
	engine   *program // what start returned: nil for one that lives in the target
}

// drainPoll is how often a drain looks for its end.
const drainPoll = 10 * time.Millisecond

// drained times a consumer from the moment its slot is in use to the marker, and also from its start: what it does
// before it streams, such as checks, does not grow with the backlog.
func (b *bench) drained(ctx context.Context, c *consumer, marker int) (sample, error) {
	source, err := b.servers.connect(ctx, b.servers.source, drainSource)
	if err != nil {
		return sample{}, err
	}
	defer source.Close(context.WithoutCancel(ctx))
	target, err := b.servers.connect(ctx, b.servers.target, c.database)
	if err != nil {
		return sample{}, err
	}
	defer target.Close(context.WithoutCancel(ctx))
	var begun, streaming, end time.Time
	s, err := b.timed(ctx, func() (err error) {
		begun = time.Now()
		if c.engine, err = c.start(); err != nil {
			return err
		}
		return b.until(ctx, drainPoll, c.engine, func(ctx context.Context) (bool, error) {
			if streaming.IsZero() {
				active, err := truth(ctx, source, `SELECT coalesce(bool_or(active), false) FROM pg_catalog.pg_replication_slots WHERE `+c.slots)
				if err != nil || !active {
					return false, err
				}
				streaming = time.Now()
			}
			done, err := truth(ctx, target, `SELECT EXISTS (SELECT FROM public.marker WHERE id = $1)`, marker)
			end = time.Now()
			return done, err
		})
	})
	s.wall, s.fromStart = end.Sub(streaming), end.Sub(begun)
	return s, err
}

func truth(ctx context.Context, conn *pgx.Conn, query string, args ...any) (is bool, err error) {
	err = conn.QueryRow(ctx, query, args...).Scan(&is)
	return is, err
}

// untilTrue waits until a query answers true.
func (b *bench) untilTrue(ctx context.Context, server *postgres.Server, database, query string) error {
	conn, err := b.servers.connect(ctx, server, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return b.until(ctx, 50*time.Millisecond, nil, func(ctx context.Context) (bool, error) { return truth(ctx, conn, query) })
}

// until asks again and again until the answer is yes. It fails when the program that it depends on ends, if there is
// one, and after drainLimit.
func (b *bench) until(ctx context.Context, pause time.Duration, p *program, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, drainLimit, fmt.Errorf("not done in %s", drainLimit))
	defer cancel()
	var ended chan struct{} // never, without a program
	if p != nil {
		ended = p.ended
	}
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		if yes, err := done(ctx); yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ended:
			return fmt.Errorf("%s ended: %s", filepath.Base(p.cmd.Path), p.tail())
		case <-ticker.C:
		}
	}
}
