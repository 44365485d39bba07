package schema

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// Object is what every kind of object has.
type Object struct {
	Name
	OID   uint32
	Owner string
}

// Catalog is what one database holds, as far as it is chosen. Objects of the server itself, temporary objects and
// members of extensions (which come with CREATE EXTENSION) are never part of it. All lists are sorted by name unless
// they say otherwise.
type Catalog struct {
	Version  postgres.Version
	Database string
	Locale

	// Tables are the ordinary tables, the partition leaves and the partitioned parents.
	Tables []*Table
	// ConfigTables belong to extensions that asked for some of their rows to be kept. CREATE EXTENSION makes them, so
	// only these rows move; they are in neither Tables nor Relations.
	ConfigTables []ConfigTable
	// Sequences are chosen by their own name, by the table that owns them, or as configuration of an extension.
	Sequences []SequenceInfo
	// Views come in an order in which they can be created.
	Views []Object
	// MatViews come in an order in which they can be refreshed.
	MatViews      []MatView
	ForeignTables []ForeignTable
	Functions     []Function
	Triggers      []Trigger
	Indexes       []Index
	Types         []Type
	// Others are the chosen objects of rarer kinds that live in schemas: operators, collations, text search…
	Others     []Other
	Extensions []Extension
	// Schemas hold at least one chosen object, or are empty and nothing was included by name.
	Schemas []Schema

	// Languages, Tablespaces and AccessMethods are the names that chosen functions, relations and indexes use, without
	// the defaults of the server (languages c, internal and sql, the database's own tablespace, heap).
	Languages     []string
	Tablespaces   []string
	AccessMethods []string
	// Collations are those that chosen columns, indexes and domains use, without the database's default.
	Collations []Collation
	// TypesUsed are the types of the chosen columns and what these are made of.
	TypesUsed []TypeUse
	// Owners own chosen objects. Grantees are named by privileges on chosen objects or by their policies; the
	// bootstrap superuser is left out there, because PostgreSQL does not record it.
	Owners   []string
	Grantees []string

	// Relations has every chosen relation: tables, sequences, views, materialized views, foreign tables.
	Relations map[Name]bool
	// LargeObjects counts the large objects of the database; they have no names and cannot be chosen.
	LargeObjects int64
	// Unmatched are the patterns of the selection that match no object at all.
	Unmatched []Pattern

	chosen objectSet
	all    bool
	// createdMethods are the access methods that did not come with the server: an extension or a user makes them.
	createdMethods map[string]bool
}

// ConfigTable is a table of an extension with rows of the user.
type ConfigTable struct {
	*Table
	Extension string
	// Condition is the extension's own SQL for which rows are the user's: "WHERE …", or empty for all rows.
	Condition string
}

// SequenceInfo is a sequence.
type SequenceInfo struct {
	Object
	// OwnedBy is the table whose column owns the sequence, and Column that column; empty when nobody owns it.
	OwnedBy Name
	Column  string
	// Identity tells that it belongs to an identity column and is created with the table.
	Identity bool
	Unlogged bool
	// Extension names the extension that keeps it as configuration; empty otherwise.
	Extension string
}

// ForeignTable is a foreign table; its rows never move.
type ForeignTable struct {
	Object
	Server string
}

// Function is a function, procedure, aggregate or window function.
type Function struct {
	Object
	// Kind is 'f' (function), 'p' (procedure), 'a' (aggregate) or 'w' (window function).
	Kind byte
	// IdentityArgs are the arguments that tell overloaded functions apart, as ALTER FUNCTION wants them.
	IdentityArgs string
	Language     string
}

// Trigger is a trigger of a chosen relation that a user made; those of constraints and the copies on partitions are
// left out.
type Trigger struct {
	Table Name
	Name  string
	// Enabled is 'O' (origin), 'A' (always), 'R' (replica) or 'D' (disabled).
	Enabled  byte
	Function Name
}

// Index is an index of a chosen table or materialized view.
type Index struct {
	Name
	OID   uint32
	Table Name
}

// Type is a user-defined type. The row types of relations and the arrays of other types are left out.
type Type struct {
	Object
	// Kind is 'b' (base), 'c' (composite), 'd' (domain), 'e' (enum), 'r' (range) or 'p' (shell type).
	Kind byte
}

// Other is an object of a rarer kind.
type Other struct {
	Object
	// Kind is what CREATE calls it in lower case: "operator class", "text search dictionary".
	Kind string
}

// Extension is an installed extension.
type Extension struct {
	Name        string
	Version     string
	Schema      string
	Owner       string
	Relocatable bool
}

// Schema is a schema.
type Schema struct {
	Name  string
	OID   uint32
	Owner string
}

// Collation is a collation.
type Collation struct {
	Name
	// Provider is 'c' (libc), 'i' (icu), 'b' (builtin) or 'd' (the database's default).
	Provider byte
	// Locale is the locale of icu and builtin, Collate and CType are those of libc.
	Locale, Collate, CType string
	Deterministic          bool
	// BuiltIn tells that it came with the server and is not created by a migration.
	BuiltIn bool
}

// TypeUse is a type that a chosen column uses, by itself or inside an array, domain, range or composite type.
type TypeUse struct {
	Name
	// BuiltIn tells that the type came with the server, Extension the extension that it came with.
	BuiltIn   bool
	Extension string
	// By names one column that uses it: schema.table.column.
	By string
}

// Load reads the catalogs in a fixed number of set-based queries under one snapshot: that of the open transaction of
// conn when there is one, else a new one.
func Load(ctx context.Context, conn *pgx.Conn, sel Selection) (*Catalog, error) {
	version, err := postgres.ServerVersion(conn)
	if err != nil {
		return nil, err
	}
	l := &loader{
		conn: conn, version: version, sel: sel,
		c: &Catalog{Version: version, Relations: map[Name]bool{}, chosen: objectSet{}, all: sel.All()},
	}
	if conn.PgConn().TxStatus() != 'I' {
		return l.load(ctx)
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, fmt.Errorf("read catalog: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // it only read
	return l.load(ctx)
}

// loader holds what the steps of Load share.
type loader struct {
	conn      *pgx.Conn
	version   postgres.Version
	sel       Selection
	c         *Catalog
	relations []*catalogRelation
	byOID     map[uint32]*catalogRelation
	blockSize int64
	// matched tells for each pattern, included ones first, whether an object's name matched it.
	matched []bool
	// collations are the OIDs that chosen columns and indexes use.
	collations  map[uint32]bool
	owners      map[string]bool
	methods     map[string]bool
	tablespaces map[string]bool
	schemas     map[string]bool
}

func (l *loader) load(ctx context.Context) (*Catalog, error) {
	l.matched = make([]bool, len(l.sel.Include)+len(l.sel.Exclude))
	l.collations, l.owners = map[uint32]bool{}, map[string]bool{}
	l.methods, l.tablespaces, l.schemas = map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, step := range []struct {
		what string
		read func(context.Context) error
	}{
		{"database", l.readDatabase},
		{"relations", l.readRelations},
		{"sequence owners", l.readSequenceOwners},
		{"extension configuration", l.readExtensionConfig},
		{"selection", l.chooseRelations},
		{"columns", l.readColumns},
		{"column types", l.readTypes},
		{"keys", l.readKeys},
		{"indexes", l.readIndexes},
		{"view dependencies", l.orderViews},
		{"functions", l.readFunctions},
		{"triggers", l.readTriggers},
		{"types", l.readUserTypes},
		{"other objects", l.readOthers},
		{"extensions", l.readExtensions},
		{"access methods", l.readCreatedMethods},
		{"schemas", l.readSchemas},
		{"collations", l.readCollations},
		{"privileges", l.readGrantees},
		{"large objects", l.readLargeObjects},
	} {
		if err := step.read(ctx); err != nil {
			return nil, fmt.Errorf("read catalog: %s: %w", step.what, err)
		}
	}
	l.finish()
	return l.c, nil
}

func (l *loader) finish() {
	c := l.c
	c.Owners, c.AccessMethods, c.Tablespaces = sortedNames(l.owners), sortedNames(l.methods), sortedNames(l.tablespaces)
	for i, p := range slices.Concat(l.sel.Include, l.sel.Exclude) {
		if !l.matched[i] {
			c.Unmatched = append(c.Unmatched, p)
		}
	}
}

// match tells whether the selection takes an object by its own name, and notes which patterns found something.
func (l *loader) match(n Name) bool {
	for i := range l.sel.Include {
		l.matched[i] = l.matched[i] || l.sel.Include[i].Match(n)
	}
	for i := range l.sel.Exclude {
		at := len(l.sel.Include) + i
		l.matched[at] = l.matched[at] || l.sel.Exclude[i].Match(n)
	}
	return l.sel.Match(n)
}

// add notes a chosen object.
func (l *loader) add(class string, o Object) {
	l.c.chosen.add(class, o.OID)
	l.schemas[o.Schema] = true
	if o.Owner != "" {
		l.owners[o.Owner] = true
	}
}

// each runs a query and calls row after each row was scanned into dest.
func (l *loader) each(ctx context.Context, sql string, args []any, dest []any, row func()) error {
	return each(ctx, l.conn, sql, args, dest, row)
}

func each(ctx context.Context, conn *pgx.Conn, sql string, args []any, dest []any, row func()) error {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, dest, func() error {
		row()
		return nil
	})
	return err
}

func (l *loader) readDatabase(ctx context.Context) error {
	var err error
	if l.c.Database, l.c.Locale, err = readLocale(ctx, l.conn, l.version); err != nil {
		return err
	}
	return l.conn.QueryRow(ctx, `SELECT pg_catalog.current_setting('block_size')::pg_catalog.int8`).Scan(&l.blockSize)
}

func (l *loader) readLargeObjects(ctx context.Context) error {
	return l.conn.QueryRow(ctx, `SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata`).
		Scan(&l.c.LargeObjects)
}

// objectSet holds OIDs by catalog ("pg_class").
type objectSet map[string]map[uint32]bool

func (s objectSet) add(class string, oid uint32) {
	if s[class] == nil {
		s[class] = map[uint32]bool{}
	}
	s[class][oid] = true
}

func (s objectSet) has(class string, oid uint32) bool { return s[class][oid] }

// pairs are the OIDs of the catalogs and of the objects in two parallel arrays for unnest.
func (s objectSet) pairs() (classes []string, oids []uint32) {
	for class, members := range s {
		for oid := range members {
			classes, oids = append(classes, class), append(oids, oid)
		}
	}
	return classes, oids
}

func sortedNames(set map[string]bool) []string {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// when picks SQL by server version.
func when(condition bool, then, otherwise string) string {
	if condition {
		return then
	}
	return otherwise
}

// userSchema is the condition on pg_namespace n that leaves out the server's own and temporary schemas.
const userSchema = `n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'`

// notMember is the condition that an object is no member of an extension; the verbs take the catalog and the OID.
const notMember = `NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend m
	WHERE m.classid = 'pg_catalog.%s'::pg_catalog.regclass AND m.objid = %s AND m.deptype = 'e')`
