package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// readCollations reads the collations with these OIDs, or all that the database can use when oids is nil. That of the
// database ("default") is left out.
func readCollations(ctx context.Context, conn *pgx.Conn, v postgres.Version, oids []uint32) ([]Collation, error) {
	locale := "''"
	switch {
	case v.AtLeast(17):
		locale = "COALESCE(c.colllocale, '')"
	case v.AtLeast(15):
		locale = "COALESCE(c.colliculocale, '')"
	case v.AtLeast(10):
		locale = "CASE c.collprovider WHEN 'i' THEN c.collcollate::pg_catalog.text ELSE '' END"
	}
	var collations []Collation
	var c Collation
	err := each(ctx, conn, fmt.Sprintf(`
		SELECT n.nspname, c.collname, %s, %s, COALESCE(c.collcollate, ''), COALESCE(c.collctype, ''), %s, c.oid < %d
		FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
		WHERE c.collname <> 'default' AND c.collencoding IN (-1,
				(SELECT d.encoding FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
			AND ($1::pg_catalog.oid[] IS NULL OR c.oid = ANY ($1::pg_catalog.oid[]))
		ORDER BY n.nspname, c.collname`,
		when(v.AtLeast(10), "c.collprovider", `'c'::pg_catalog."char"`), locale,
		when(v.AtLeast(12), "c.collisdeterministic", "true"), firstUser),
		[]any{oids},
		[]any{&c.Schema, &c.Name.Name, &c.Provider, &c.Locale, &c.Collate, &c.CType, &c.Deterministic, &c.BuiltIn},
		func() { collations = append(collations, c) })
	return collations, err
}

// Capabilities are what a server offers to a database that moves in.
type Capabilities struct {
	Version  postgres.Version
	Database string
	Locale
	// Collations are those that the connected database can use, AccessMethods and Tablespaces those that are there,
	// sorted by name.
	Collations    []Collation
	AccessMethods []string
	Tablespaces   []string
	// Extensions are those that can be installed or are, by name.
	Extensions map[string]AvailableExtension
	// ExtensionsErr is why the server cannot list what can be installed, which takes no more than one control file that
	// it does not understand. Extensions then has only the installed ones.
	ExtensionsErr error
	// BuiltInTypes are the names of the types in pg_catalog.
	BuiltInTypes map[string]bool
	// ICU tells whether the server was built with ICU.
	ICU bool
}

// AvailableExtension is an extension that a server has the files of.
type AvailableExtension struct {
	Default   string   // the version that CREATE EXTENSION takes
	Installed string   // in the connected database; empty when it is not
	Versions  []string // that can be asked for
}

// ReadCapabilities asks the server and the connected database what they offer. It wants no open transaction, because
// one of the questions may fail.
func ReadCapabilities(ctx context.Context, conn *pgx.Conn) (*Capabilities, error) {
	version, err := postgres.ServerVersion(conn)
	if err != nil {
		return nil, err
	}
	c := &Capabilities{
		Version: version, Extensions: map[string]AvailableExtension{}, BuiltInTypes: map[string]bool{},
	}
	for _, read := range []func(context.Context, *pgx.Conn) error{
		c.readLocales, c.readNames, c.readExtensions,
	} {
		if err := read(ctx, conn); err != nil {
			return nil, fmt.Errorf("read capabilities: %w", err)
		}
	}
	return c, nil
}

func (c *Capabilities) readLocales(ctx context.Context, conn *pgx.Conn) (err error) {
	if c.Database, c.Locale, err = readLocale(ctx, conn, c.Version); err != nil {
		return err
	}
	c.Collations, err = readCollations(ctx, conn, c.Version, nil)
	for _, collation := range c.Collations {
		// initdb imports the collations of ICU when the server was built with it.
		c.ICU = c.ICU || collation.BuiltIn && collation.Provider == 'i'
	}
	return err
}

func (c *Capabilities) readNames(ctx context.Context, conn *pgx.Conn) error {
	var kind, name string
	return each(ctx, conn, `
		SELECT 'method', m.amname FROM pg_catalog.pg_am m
		UNION ALL SELECT 'tablespace', s.spcname FROM pg_catalog.pg_tablespace s WHERE s.spcname !~ '^pg_'
		UNION ALL SELECT 'type', t.typname FROM pg_catalog.pg_type t
			JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
			WHERE n.nspname IN ('pg_catalog', 'information_schema') AND t.typcategory <> 'A'
		ORDER BY 1, 2`, nil,
		[]any{&kind, &name}, func() {
			switch kind {
			case "method":
				c.AccessMethods = append(c.AccessMethods, name)
			case "tablespace":
				c.Tablespaces = append(c.Tablespaces, name)
			case "type":
				c.BuiltInTypes[name] = true
			}
		})
}

func (c *Capabilities) readExtensions(ctx context.Context, conn *pgx.Conn) error {
	var name string
	var x AvailableExtension
	note := func() { c.Extensions[name] = x }
	dest := []any{&name, &x.Default, &x.Installed, &x.Versions}
	err := each(ctx, conn, `
		SELECT e.name, COALESCE(e.default_version, ''), COALESCE(e.installed_version, ''),
			ARRAY(SELECT v.version FROM pg_catalog.pg_available_extension_versions v WHERE v.name = e.name ORDER BY 1)
		FROM pg_catalog.pg_available_extensions e`, nil, dest, note)
	if postgres.Code(err) == "" || postgres.Retryable(err) {
		return err
	}
	c.ExtensionsErr = err
	return each(ctx, conn, `
		SELECT x.extname, '', x.extversion, ARRAY[x.extversion] FROM pg_catalog.pg_extension x`, nil, dest, note)
}

// Lack is something that chosen objects need and the target does not have.
type Lack struct {
	// Kind is "type", "collation", "access method", "tablespace" or "extension".
	Kind string
	Name string
	// Reason says what was looked for and, where that is known, who needs it.
	Reason string
}

// Lacking compares what the chosen objects need with what the target offers. Extensions are compared by name; their
// versions are in Extensions, and nothing is said of them where the target cannot list them. What the migration itself creates is not lacking.
func (c *Catalog) Lacking(target *Capabilities) []Lack {
	var lacks []Lack
	for _, x := range c.Extensions {
		if _, ok := target.Extensions[x.Name]; !ok && target.ExtensionsErr == nil {
			lacks = append(lacks, Lack{"extension", x.Name, "the target server has no files of it"})
		}
	}
	for _, t := range c.TypesUsed {
		if t.BuiltIn && !target.BuiltInTypes[t.Name.Name] {
			lacks = append(lacks, Lack{
				"type", t.String(),
				fmt.Sprintf("PostgreSQL %s does not have it; used by %s", target.Version.MajorString(), t.By),
			})
		}
	}
	for _, method := range c.AccessMethods {
		if !slices.Contains(target.AccessMethods, method) && !c.createdMethods[method] {
			lacks = append(lacks, Lack{"access method", method, "not on the target"})
		}
	}
	for _, tablespace := range c.Tablespaces {
		if !slices.Contains(target.Tablespaces, tablespace) {
			lacks = append(lacks, Lack{"tablespace", tablespace, "not on the target"})
		}
	}
	return append(lacks, c.lackingCollations(target)...)
}

func (c *Catalog) lackingCollations(target *Capabilities) []Lack {
	var lacks []Lack
	for _, collation := range c.Collations {
		reason := ""
		switch {
		case collation.Provider == 'i' && !target.ICU:
			reason = "the target server was built without ICU"
		case collation.Provider == 'b' && !target.Version.AtLeast(17):
			reason = "builtin locales exist from PostgreSQL 17"
		case collation.BuiltIn && !target.hasCollation(collation):
			reason = "not on the target; the operating system may lack the locale"
		case !collation.BuiltIn && collation.Provider == 'c' && !target.hasLocale(collation.Collate):
			reason = fmt.Sprintf("locale %q is not among those of the target", collation.Collate)
		}
		if reason != "" {
			lacks = append(lacks, Lack{"collation", collation.String(), reason})
		}
	}
	return lacks
}

func (c *Capabilities) hasCollation(want Collation) bool {
	return slices.ContainsFunc(c.Collations, func(have Collation) bool {
		return have.Schema == "pg_catalog" && sameLocale(have.Name.Name, want.Name.Name) && have.Provider == want.Provider
	})
}

func (c *Capabilities) hasLocale(locale string) bool {
	return sameLocale(locale, c.Collate) || slices.ContainsFunc(c.Collations, func(have Collation) bool {
		return have.Provider == 'c' && sameLocale(have.Collate, locale)
	})
}

// sameLocale knows that operating systems write the encoding in a locale's name as they like: en_US.UTF-8, en_US.utf8.
func sameLocale(a, b string) bool {
	normal := func(s string) string {
		language, encoding, found := strings.Cut(s, ".")
		if !found {
			return s
		}
		return language + "." + strings.ReplaceAll(strings.ToLower(encoding), "-", "")
	}
	return normal(a) == normal(b)
}
