package snapshot

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// lockTimeout bounds the wait for a table that somebody holds exclusively. The part is then put back and another one
// goes first.
const lockTimeout = "5s"

// closeWait bounds the farewell to a server that may be gone.
const closeWait = 3 * time.Second

// names are the exported names of one snapshot that may still be alive: the one that the migration began with, and one
// per session of ours, because every session exports the snapshot anew. As long as one of them lives, a session that
// was cut off can be replaced.
type names struct {
	mu   sync.Mutex
	list []string
}

func (n *names) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.list)
}

func (n *names) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, name)
}

func (n *names) remove(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = slices.DeleteFunc(n.list, func(s string) bool { return s == name })
}

// source is a session that keeps one read-only transaction open inside the snapshot for all of its parts.
type source struct {
	conn *pgx.Conn
	wire *wire
	name string // under which it exports the snapshot
}

// openSource connects and enters the snapshot by any name that still lives.
func openSource(ctx context.Context, e postgres.Endpoint, session string, n *names) (*source, error) {
	conn, err := e.Connect(ctx, copySession(session))
	if err != nil {
		return nil, err
	}
	name, err := enter(ctx, conn, n.all())
	if err == nil {
		_, err = conn.Exec(ctx, "SAVEPOINT part")
	}
	if err != nil {
		closeSession(ctx, conn)
		return nil, err
	}
	n.add(name)
	return &source{conn: conn, wire: newWire(readBuffer), name: name}, nil
}

// target is a session that writes parts.
type target struct {
	conn *pgx.Conn
	wire *wire
}

// openTarget connects. A finished part must survive a crash of the target, because it will not be copied again; so a
// commit waits for the disk even where the server's default is not to. Once per part, that costs nothing.
func openTarget(ctx context.Context, e postgres.Endpoint, session string) (*target, error) {
	conn, err := e.Connect(ctx, copySession(session))
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, `SELECT pg_catalog.set_config('synchronous_commit', 'on', false)
		WHERE pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off'`)
	if err != nil {
		closeSession(ctx, conn)
		return nil, fmt.Errorf("set synchronous_commit: %w", err)
	}
	return &target{conn: conn, wire: newWire(replyBuffer)}, nil
}

func copySession(name string) postgres.Session {
	return postgres.Session{Name: name, Settings: map[string]string{"lock_timeout": lockTimeout}}
}

// closeSession says farewell, also after ctx has ended, and waits until the driver has let go of the connection.
func closeSession(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
	defer cancel()
	if !conn.IsClosed() {
		_ = conn.PgConn().Conn().SetDeadline(time.Now().Add(closeWait))
	}
	_ = conn.Close(ctx)
	select {
	case <-conn.PgConn().CleanupDone():
	case <-ctx.Done():
	}
}

// abandon ends a session in the middle of something. What the server still does for it is cancelled, so that a
// statement that waits for a lock does not outlive us.
func abandon(ctx context.Context, conn *pgx.Conn) {
	if !conn.IsClosed() {
		cancelCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
		_ = conn.PgConn().CancelRequest(cancelCtx)
		cancel()
	}
	closeSession(ctx, conn)
}
