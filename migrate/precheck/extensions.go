package precheck

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// storesElsewhere are extensions whose rows do not come through logical decoding as rows of the user's tables.
var storesElsewhere = map[string]bool{"timescaledb": true, "pipelinedb": true}

// offer is what the target has of an extension.
type offer struct {
	Name      string
	Default   string
	Installed string // version in the target database, "" when it is not created there
	// Allowed tells that our role can create it.
	Allowed bool
	Same    bool // the source's version is available
}

func (d *database) extensions(ctx context.Context, f *finding) error {
	wanted := slices.DeleteFunc(slices.Clone(d.catalog.Extensions), func(x schema.Extension) bool {
		return x.Name == "plpgsql" // every database has it
	})
	f.looked = plural(len(wanted), "extension")
	if len(wanted) == 0 {
		return nil
	}
	offers, err := d.readOffers(ctx, wanted)
	if err != nil {
		return err
	}
	for _, x := range wanted {
		name := postgres.QuoteIdent(x.Name)
		o, offered := offers[x.Name]
		object := x.Name + " " + x.Version
		switch {
		case storesElsewhere[x.Name] && d.incremental():
			f.objects = append(f.objects, object)
			f.fail(x.Name+" keeps rows in tables of its own: changes cannot be followed", "--type full # with the writers stopped")
		case !offered:
			f.objects = append(f.objects, object)
			f.fail(x.Name+" is not available on the target", fmt.Sprintf("apt-cache search postgresql-%d | grep -i %s # on the target's host, then install the package that has it",
				d.target.version.Major(), shellQuote(x.Name)))
		case o.Installed != "" && o.Installed != x.Version:
			f.objects = append(f.objects, object)
			f.warn(fmt.Sprintf("%s is %s on the source and %s on the target", x.Name, x.Version, o.Installed), d.updateExtension(x.Version, o, name))
		case o.Installed == "" && !o.Allowed:
			f.objects = append(f.objects, object)
			f.fail(fmt.Sprintf("only a superuser can create %s on the target", x.Name),
				fmt.Sprintf("CREATE EXTENSION %s; -- as a superuser in database %s of the target", name, postgres.QuoteIdent(d.names.Target)))
		case o.Installed == "" && o.Default != x.Version:
			f.objects = append(f.objects, object)
			f.warn(fmt.Sprintf("%s is %s on the source, and the target would create %s", x.Name, x.Version, o.Default), d.updateExtension(x.Version, o, name))
		}
	}
	return nil
}

func (d *database) updateExtension(version string, o offer, name string) string {
	wanted := postgres.QuoteIdent(version)
	switch {
	case !o.Same && o.Installed != "":
		return fmt.Sprintf("ALTER EXTENSION %s UPDATE; -- on the source, when its newer version is installed there too", name)
	case !o.Same:
		return fmt.Sprintf("ALTER EXTENSION %s UPDATE TO %s; -- on the source, when that version is installed there too", name, postgres.QuoteIdent(o.Default))
	case o.Installed != "":
		return fmt.Sprintf("ALTER EXTENSION %s UPDATE TO %s; -- on the target", name, wanted)
	default:
		return fmt.Sprintf("CREATE EXTENSION %s VERSION %s; -- on the target, before the migration", name, wanted)
	}
}

func (d *database) readOffers(ctx context.Context, wanted []schema.Extension) (map[string]offer, error) {
	names, versions := []string{}, []string{}
	for _, x := range wanted {
		names, versions = append(names, x.Name), append(versions, x.Version)
	}
	conn := d.targetDB
	installed := `coalesce((SELECT e.extversion FROM pg_extension e WHERE e.extname = a.name), '')`
	if conn == nil {
		conn, installed = d.target.conn, `''`
	}
	trusted := `v.trusted`
	if !d.target.version.AtLeast(13) {
		trusted = `false`
	}
	rows, err := conn.Query(ctx, `
		SELECT a.name::text, coalesce(a.default_version, ''), `+installed+`,
			$3 OR coalesce((SELECT bool_or(NOT v.superuser OR `+trusted+`) FROM pg_available_extension_versions v
				WHERE v.name = a.name AND v.version = a.default_version), false),
			EXISTS (SELECT FROM pg_available_extension_versions v WHERE v.name = a.name AND v.version = w.version)
		FROM pg_available_extensions a
		JOIN unnest($1::text[], $2::text[]) AS w(name, version) ON w.name = a.name`,
		names, versions, d.target.role.Superuser)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[offer])
	offers := map[string]offer{}
	for _, o := range list {
		offers[o.Name] = o
	}
	return offers, err
}
