package main

import (
	"context"
	_ "embed"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// shopSQL makes the schema and rows of ours.
//
//go:embed shop.sql
var shopSQL string

// objectsSQL counts a database's objects by kind.
//
//go:embed objects.sql
var objectsSQL string

// scale is pgbench's: a million accounts.
const scale = 10

// fill makes the source's database with the tables of pgbench and our shop.
func (d *demo) fill(ctx context.Context) error {
	config, err := pgx.ParseConfig(d.servers.source.URI("postgres"))
	if err != nil {
		return err
	}
	config.Password = d.servers.password
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to the source: %w", err)
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+database)
	_ = conn.Close(context.WithoutCancel(ctx))
	if err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	bench := d.pgbench("-i", "-q", "-s", strconv.Itoa(scale))
	d.screen.command(shown(bench))
	if _, err := succeed(ctx, bench); err != nil {
		return err
	}
	if err := d.fillShop(ctx); err != nil {
		return err
	}
	d.objects, err = d.countObjects(ctx, d.servers.source)
	return err
}

func (d *demo) fillShop(ctx context.Context) error {
	d.screen.line("$ psql -1 -f demo/shop.sql %s", uri(d.servers.source))
	conn, err := d.servers.connect(ctx, d.servers.source, "fill")
	if err != nil {
		return fmt.Errorf("connect to the source: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.PgConn().Exec(ctx, shopSQL).ReadAll(); err != nil {
		return fmt.Errorf("fill the shop: %w", err)
	}
	return nil
}

// pgbench is the program with arguments, run against the source.
func (d *demo) pgbench(args ...string) *exec.Cmd {
	source := d.servers.source
	args = append(args, "-h", "127.0.0.1", "-p", strconv.Itoa(source.Port()), "-U", "postgres", database)
	cmd := exec.Command(filepath.Join(d.servers.installation.Dir, "pgbench"), args...)
	cmd.Env = childEnv(d.servers.password)
	return cmd
}

// shown is a command as a person would type it, without the path of the program.
func shown(cmd *exec.Cmd) []string {
	return append([]string{filepath.Base(cmd.Path)}, cmd.Args[1:]...)
}
