package script_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-db/slipway/migrate"
	"github.com/slipway-db/slipway/pgtest"
	"github.com/slipway-db/slipway/postgres"
)

// stop ends a running migration with Ctrl-C.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGINT)
	p.wait(t).want(t, stopped, "slipway: stopping cleanly", "Nothing is lost: run the same command again to go on, or slipway migrate abort to give up")
}

// slot is the name of the migration's slot on the source.
func (s *scene) slot(t *testing.T) string {
	t.Helper()
	names := s.source.Strings(t, `SELECT slot_name FROM pg_replication_slots WHERE database = current_database()`)
	if len(names) != 1 {
		t.Fatalf("want one slot on the source, got %q", names)
	}
	return names[0]
}

// TestResume_RefusesALostPast damages what the stream depends on while nobody runs the migration. The next run must
// stop and say what to do; it must never go on from where it happens to be.
func TestResume_RefusesALostPast(t *testing.T) {
	t.Parallel()
	const startAnew = "slipway migrate abort"
	for name, c := range map[string]struct {
		damage func(*testing.T, *scene)
		more   []string
		says   []string
	}{
		"slot dropped": {
			damage: func(t *testing.T, s *scene) { s.source.Strings(t, `SELECT pg_drop_replication_slot($1)`, s.slot(t)) },
			says:   []string{"the replication slot does not exist", startAnew},
		},
		"slot advanced": {
			damage: func(t *testing.T, s *scene) {
				s.source.Exec(t, `INSERT INTO shop.note VALUES (1000, 'never seen')`)
				s.source.Strings(t, `SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())`, s.slot(t))
			},
			says: []string{"the replication slot is ahead of the position to resume at: changes between the two are gone", startAnew},
		},
		"slot made anew": {
			damage: func(t *testing.T, s *scene) {
				name := s.slot(t)
				s.source.Strings(t, `SELECT pg_drop_replication_slot($1)`, name)
				s.source.Exec(t, `INSERT INTO shop.note VALUES (1000, 'never seen')`)
				s.source.Strings(t, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, name)
			},
			says: []string{"the replication slot is ahead of the position", startAnew},
		},
		"table dropped from the publication": {
			damage: func(t *testing.T, s *scene) {
				s.source.Exec(t, `ALTER PUBLICATION `+s.slot(t)+` DROP TABLE shop.note`, `INSERT INTO shop.note VALUES (1000, 'never seen')`)
			},
			says: []string{"was altered: without shop.note", startAnew},
		},
		"publication filtered": {
			damage: func(t *testing.T, s *scene) {
				s.source.Exec(t, `ALTER PUBLICATION `+s.slot(t)+` SET (publish = 'insert')`)
			},
			says: []string{"was altered: does not publish all operations", startAnew},
		},
		"publication dropped": {
			damage: func(t *testing.T, s *scene) { s.source.Exec(t, `DROP PUBLICATION `+s.slot(t)) },
			says:   []string{"does not exist", startAnew},
		},
		"other selection": {
			damage: func(*testing.T, *scene) {}, more: []string{"--exclude", "shop.note"},
			says: []string{"started with other options", `"exclude"`, startAnew},
		},
		"other type": {
			damage: func(*testing.T, *scene) {}, more: []string{"--type", "full"},
			says: []string{"started with other options", startAnew},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.following(t).stop(t)
			c.damage(t, s)
			o := s.migrate(t, "run", append([]string{"--yes"}, c.more...)...)
			o.want(t, failed, c.says...)
			if n := s.target.Int(t, `SELECT count(*) FROM shop.note WHERE id = 1000`); n != 0 {
				t.Errorf("a row that came through nothing is on the target")
			}
			s.migrate(t, "abort", "--drop-copied").want(t, done, ": given up", "removed schema slipway")
			s.unchanged(t)
		})
	}
}

// TestRun_PublicationAlteredMeanwhile is detected while the stream still seems fine.
func TestRun_PublicationAlteredMeanwhile(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.following(t)
	s.source.Exec(t, `ALTER PUBLICATION `+s.slot(t)+` DROP TABLE shop.note`)
	p.wait(t).want(t, failed, "was altered: without shop.note")
	s.abort(t)
}

// TestRun_PublicationAlteredBeforeCompletion loses a change between the last look at the publication and the end.
func TestRun_PublicationAlteredBeforeCompletion(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.following(t)
	s.source.Exec(t, `ALTER PUBLICATION `+s.slot(t)+` DROP TABLE shop.note`, `INSERT INTO shop.note VALUES (1000, 'never seen')`)
	s.migrate(t, "complete").want(t, failed)
	p.wait(t).want(t, failed, "was altered: without shop.note")
	s.abort(t)
}

// TestRun_TableDroppedWhileFollowing goes on with the other tables, and completion says what is gone.
func TestRun_TableDroppedWhileFollowing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.following(t)
	s.source.Exec(t, `DROP TABLE shop.note`, `INSERT INTO shop.customer (name) VALUES ('after')`)
	pgtest.Eventually(t, patience, "changes to other tables arrive", func() bool {
		return s.target.Int(t, `SELECT count(*) FROM shop.customer WHERE name = 'after'`) == 1
	})
	s.migrate(t, "complete").want(t, failed, "shop.note")
	p.wait(t).want(t, failed, "shop.note")
	s.before[0] = s.source.Strings(t, strings.ReplaceAll(inventory, "'slot ' ||", "'' ||"))[0]
	s.migrate(t, "abort", "--drop-copied").want(t, done)
}

// TestRun_TwiceAtOnce lets the second process go, and the first one does not notice.
func TestRun_TwiceAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	first := s.following(t)
	s.migrate(t, "run", "--yes").want(t, failed, "another process is running this migration")
	s.source.Exec(t, `INSERT INTO shop.note VALUES (1000, 'goes on')`)
	pgtest.Eventually(t, patience, "the first process goes on", func() bool {
		return s.target.Int(t, `SELECT count(*) FROM shop.note WHERE id = 1000`) == 1
	})
	first.stop(t)
	s.abort(t)
}

// TestRun_AnotherSource points a migration to a server that is not the one it began with.
func TestRun_AnotherSource(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	// Without arguments of its own it would be a copy of the same cluster, with the same identifier.
	other := pgtest.Start(t, pgtest.Options{InitArgs: []string{"--data-checksums"}}).NewDatabase(t, pgtest.DatabaseOptions{Name: s.source.Name})
	other.Exec(t, shop)
	s.following(t).stop(t)
	s.run(t, replaced(s.command("run", "--yes"), s.source.URI(), other.URI())...).want(t, failed, migrate.ErrSourceReplaced.Error(), "system identifier")
	// A mistyped source must not give a migration up. The old one may be gone for good, though: then what would be left
	// there is told.
	slot := s.slot(t)
	s.run(t, replaced(s.command("abort", "--drop-copied"), s.source.URI(), other.URI())...).want(t, failed, migrate.ErrSourceReplaced.Error(), "--source-gone")
	s.run(t, replaced(s.command("abort", "--drop-copied", "--source-gone"), s.source.URI(), other.URI())...).want(t, done, "left: ", slot, "drop")
	s.source.Exec(t, "DROP PUBLICATION "+slot, "SELECT pg_drop_replication_slot('"+slot+"')")
	s.unchanged(t)
}

// TestRun_SlotLost lets the server remove the log that the slot needs, while nobody reads it.
func TestRun_SlotLost(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_wal_size": "32MB", "min_wal_size": "32MB"}})
	s := sceneOf(t, server.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"}), pgtest.NewPair(t).Target)
	s.following(t).stop(t)
	server.Configure(t, map[string]string{"max_slot_wal_keep_size": "1MB"})
	if err := server.Reload(); err != nil {
		t.Fatal(err)
	}
	pgtest.Eventually(t, patience, "the slot is lost", func() bool {
		s.source.Exec(t, `SELECT pg_logical_emit_message(false, 'test', 'fills the log'); SELECT pg_switch_wal()`, `CHECKPOINT`)
		return s.source.Strings(t, `SELECT wal_status FROM pg_replication_slots`)[0] == "lost"
	})
	s.migrate(t, "run", "--yes").want(t, failed, "was invalidated by the server", "max_slot_wal_keep_size", "slipway migrate abort")
	s.migrate(t, "status").want(t, done, "NOT running", "was invalidated by the server")
	s.abort(t)
}

// standbyOf makes a standby of a server that it stops and starts again for the copy.
func standbyOf(t *testing.T, primary *pgtest.Server) *pgtest.Server {
	t.Helper()
	ctx := t.Context()
	if err := primary.Stop(ctx, postgres.Fast); err != nil {
		t.Fatal(err)
	}
	installation, err := postgres.ServerInstallation(pgtest.Roots(), primary.Major())
	if err != nil {
		t.Fatal(err)
	}
	process, err := postgres.NewServer(postgres.ServerConfig{Installation: installation, DataDir: primary.DataDir() + "-standby"})
	if err == nil {
		err = process.InitFrom(ctx, primary.DataDir())
	}
	if err == nil {
		err = primary.Start(ctx)
	}
	if err == nil {
		err = signalStandby(process, primary)
	}
	if err == nil {
		err = process.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := process.Kill(); err != nil {
			t.Error(err)
		}
		if err := process.Remove(); err != nil {
			t.Error(err)
		}
	})
	return &pgtest.Server{Server: process}
}

// signalStandby makes a copied data directory follow its primary.
func signalStandby(standby *postgres.Server, primary *pgtest.Server) error {
	if err := os.WriteFile(filepath.Join(standby.DataDir(), "standby.signal"), nil, 0o600); err != nil {
		return err
	}
	auto, err := os.OpenFile(filepath.Join(standby.DataDir(), "postgresql.auto.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(auto, "primary_conninfo = 'host=127.0.0.1 port=%d user=postgres'\n", primary.Port())
	return errors.Join(err, auto.Close())
}

// on is the same database on another server.
func on(server *pgtest.Server, d *pgtest.Database) *pgtest.Database {
	return &pgtest.Database{Server: server, Name: d.Name}
}

// TestStandby_AsSource can be copied, and cannot be followed before version 16; what a promotion leaves behind is not
// taken for the old primary.
func TestStandby_AsSource(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t, pgtest.Options{})
	s := sceneOf(t, primary.NewDatabase(t, pgtest.DatabaseOptions{Name: "app"}), pgtest.NewPair(t).Target)
	standby := on(standbyOf(t, primary), s.source)
	pgtest.Eventually(t, patience, "the standby follows", func() bool {
		return primary.Maintenance().Int(t, `SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()`) == 1
	})
	from := func(command string, more ...string) []string {
		return replaced(s.command(command, more...), s.source.URI(), standby.URI())
	}
	s.run(t, from("run", "--yes")...).want(t, checkFailed, "failed   source-recovery", "came with 16", "--type full", "--source postgres://<the primary>/app")
	s.unchanged(t)
	s.run(t, from("run", "--yes", "--type", "full")...).want(t, done, "app as ", ": done in ", "3 600 rows")
	s.run(t, from("compare")...).want(t, done, ": same")

	s.target.Exec(t, `DROP SCHEMA shop CASCADE`)
	s.following(t).stop(t)
	standby.Strings(t, `SELECT pg_promote()`)
	s.run(t, from("run", "--yes")...).want(t, failed, "the source is not the server that this migration started with", "timeline 1 then, 2 now", "slipway migrate abort")
	s.abort(t)
}
