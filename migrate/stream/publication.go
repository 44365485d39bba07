package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/postgres"
)

// publicationChunk bounds how many tables one statement names.
const publicationChunk = 500

// CreatePublication makes a publication of exactly these tables (ordinary tables and leaves of partitioned ones), in
// one transaction. Make it before the slot: the server looks at a publication as it was at the time of each change.
//
// On the source it makes an UPDATE or DELETE of a listed table without replica identity fail, so list none.
func CreatePublication(ctx context.Context, conn *pgx.Conn, name string, tables []schema.Name) error {
	version, err := postgres.ServerVersion(conn)
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		sql := "CREATE PUBLICATION " + postgres.QuoteIdent(name) + " WITH (" + publicationOptions(version) + ")"
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
		for chunk := range slices.Chunk(tables, publicationChunk) {
			names := make([]string, len(chunk))
			for i, t := range chunk {
				names[i] = "ONLY " + t.SQL()
			}
			sql := "ALTER PUBLICATION " + postgres.QuoteIdent(name) + " ADD TABLE " + strings.Join(names, ", ")
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("create publication %q: %w", name, err)
	}
	return nil
}

// publicationOptions publish everything that the version can, each leaf of a partitioned table under its own name.
func publicationOptions(version postgres.Version) string {
	switch {
	case version.AtLeast(13):
		return "publish = 'insert, update, delete, truncate', publish_via_partition_root = false"
	case version.AtLeast(11):
		return "publish = 'insert, update, delete, truncate'"
	}
	return "publish = 'insert, update, delete'"
}

// DropPublication drops a publication; a missing one is no error.
func DropPublication(ctx context.Context, conn *pgx.Conn, name string) error {
	if _, err := conn.Exec(ctx, "DROP PUBLICATION IF EXISTS "+postgres.QuoteIdent(name)); err != nil {
		return fmt.Errorf("drop publication %q: %w", name, err)
	}
	return nil
}

// PublicationError tells how a publication differs from what it was made as; it is an ErrPublicationChanged.
type PublicationError struct {
	Publication string
	Gone        bool
	Missing     []schema.Name // dropped from it, or renamed
	Added       []schema.Name
	Altered     []string // other differences
}

// Error lists the differences.
func (e *PublicationError) Error() string {
	if e.Gone {
		return fmt.Sprintf("publication %q does not exist", e.Publication)
	}
	var parts []string
	for _, side := range []struct {
		what  string
		names []schema.Name
	}{{"without", e.Missing}, {"with", e.Added}} {
		if len(side.names) > 0 {
			names := make([]string, len(side.names))
			for i, n := range side.names {
				names[i] = n.String()
			}
			parts = append(parts, side.what+" "+strings.Join(names, ", "))
		}
	}
	parts = append(parts, e.Altered...)
	return fmt.Sprintf("publication %q was altered: %s", e.Publication, strings.Join(parts, "; "))
}

// Unwrap makes it an ErrPublicationChanged.
func (e *PublicationError) Unwrap() error { return ErrPublicationChanged }

// VerifyPublication compares a publication with what CreatePublication made of the same tables. A difference is a
// *PublicationError: somebody altered it, and changes may have been lost.
func VerifyPublication(ctx context.Context, conn *pgx.Conn, name string, tables []schema.Name) error {
	version, err := postgres.ServerVersion(conn)
	if err != nil {
		return err
	}
	found := &PublicationError{Publication: name}
	if found.Altered, err = alteredOptions(ctx, conn, name, version); err != nil {
		if errors.Is(err, pgx.ErrNoRows) {
			return &PublicationError{Publication: name, Gone: true}
		}
		return fmt.Errorf("read publication %q: %w", name, err)
	}
	published, err := publishedTables(ctx, conn, name, version, found)
	if err != nil {
		return fmt.Errorf("read publication %q: %w", name, err)
	}
	for _, t := range tables {
		if !published[t] {
			found.Missing = append(found.Missing, t)
		}
		delete(published, t)
	}
	for t := range published {
		found.Added = append(found.Added, t)
	}
	slices.SortFunc(found.Added, func(a, b schema.Name) int { return strings.Compare(a.SQL(), b.SQL()) })
	if len(found.Missing)+len(found.Added)+len(found.Altered) > 0 {
		return found
	}
	return nil
}

// alteredOptions reads the options of the publication; pgx.ErrNoRows means that it is gone.
func alteredOptions(ctx context.Context, conn *pgx.Conn, name string, version postgres.Version) ([]string, error) {
	truncate, viaRoot, schemas := "true", "false", "false"
	if version.AtLeast(11) {
		truncate = "p.pubtruncate"
	}
	if version.AtLeast(13) {
		viaRoot = "p.pubviaroot"
	}
	if version.AtLeast(15) {
		schemas = "EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n WHERE n.pnpubid = p.oid)"
	}
	var published, allTables, throughRoot, wholeSchemas bool
	err := conn.QueryRow(ctx, `SELECT p.pubinsert AND p.pubupdate AND p.pubdelete AND `+truncate+`, p.puballtables, `+viaRoot+`, `+schemas+`
		FROM pg_catalog.pg_publication p WHERE p.pubname = $1`, name).Scan(&published, &allTables, &throughRoot, &wholeSchemas)
	if err != nil {
		return nil, err
	}
	var altered []string
	for what, is := range map[string]bool{
		"does not publish all operations": !published, "publishes all tables": allTables,
		"publishes through the partition root": throughRoot, "publishes whole schemas": wholeSchemas,
	} {
		if is {
			altered = append(altered, what)
		}
	}
	slices.Sort(altered)
	return altered, nil
}

// publishedTables reads the tables; row filters and column lists are noted in found.
func publishedTables(
	ctx context.Context, conn *pgx.Conn, name string, version postgres.Version, found *PublicationError,
) (map[schema.Name]bool, error) {
	filtered := "false"
	if version.AtLeast(15) {
		filtered = "r.prqual IS NOT NULL OR r.prattrs IS NOT NULL"
	}
	rows, err := conn.Query(ctx, `SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, `+filtered+`
		FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
		JOIN pg_catalog.pg_class c ON c.oid = r.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE p.pubname = $1 ORDER BY 1, 2`, name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	published := map[schema.Name]bool{}
	for rows.Next() {
		var t schema.Name
		var hides bool
		if err := rows.Scan(&t.Schema, &t.Name, &hides); err != nil {
			return nil, err
		}
		if hides {
			found.Altered = append(found.Altered, "filters rows or columns of "+t.String())
		}
		published[t] = true
	}
	return published, rows.Err()
}
