package snapshot

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-db/slipway/postgres"
)

// object is what describes a large object besides its contents.
type object struct {
	owner   string
	comment *string
	rights  map[right]bool // to whom, what; the value tells whether it may be passed on
}

// right is one privilege of one role. Whose it is by being the owner carries no name, because the owner's name may
// differ between the sides.
type right struct {
	owner     bool
	role      string // empty is PUBLIC, unless owner
	privilege string
}

// list reads a page of objects, without their contents.
func (a *aligner) list(ctx context.Context, conn *pgx.Conn, after int64) (map[int64]*object, error) {
	rows, err := conn.Query(ctx, `SELECT m.oid::pg_catalog.int8 FROM pg_catalog.pg_largeobject_metadata m
		WHERE m.oid OPERATOR(pg_catalog.>) $1::pg_catalog.int8::pg_catalog.oid ORDER BY m.oid LIMIT $2`,
		min(after, 1<<32-1), pageObjects)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	return a.properties(ctx, conn, oids)
}

// properties reads owner, comment and privileges of objects.
func (a *aligner) properties(ctx context.Context, conn *pgx.Conn, oids []int64) (map[int64]*object, error) {
	rows, err := conn.Query(ctx, `SELECT m.oid::pg_catalog.int8, pg_catalog.pg_get_userbyid(m.lomowner),
			pg_catalog.obj_description(m.oid, 'pg_largeobject'),
			r.grantee OPERATOR(pg_catalog.=) m.lomowner,
			CASE WHEN r.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN '' ELSE pg_catalog.pg_get_userbyid(r.grantee) END,
			r.privilege_type, r.is_grantable
		FROM pg_catalog.pg_largeobject_metadata m
		LEFT JOIN LATERAL pg_catalog.aclexplode(coalesce(m.lomacl, pg_catalog.acldefault('L', m.lomowner))) AS r ON true
		WHERE m.oid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.int8[]::pg_catalog.oid[])`, oids)
	if err != nil {
		return nil, fmt.Errorf("read owners and privileges: %w", err)
	}
	defer rows.Close()
	list := make(map[int64]*object, len(oids))
	for rows.Next() {
		var oid int64
		var owner string
		var comment, role, privilege *string
		var isOwner, grantable *bool
		if err := rows.Scan(&oid, &owner, &comment, &isOwner, &role, &privilege, &grantable); err != nil {
			return nil, fmt.Errorf("read owners and privileges: %w", err)
		}
		o := list[oid]
		if o == nil {
			o = &object{owner: owner, comment: comment, rights: map[right]bool{}}
			list[oid] = o
		}
		if privilege != nil {
			r := right{owner: *isOwner, role: *role, privilege: *privilege}
			if r.owner {
				r.role = ""
			}
			o.rights[r] = o.rights[r] || *grantable
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read owners and privileges: %w", err)
	}
	return list, nil
}

// alter gives the target's objects the properties of the source's, in one round trip. created are the
// OIDs of new ones in order.
func (a *aligner) alter(ctx context.Context, here, there map[int64]*object, created []int64) error {
	statements := []string{}
	for _, oid := range slices.Sorted(maps.Keys(here)) {
		more := a.alterations(oid, here[oid], there[oid])
		if _, isNew := slices.BinarySearch(created, oid); !isNew && len(more) > 0 {
			a.report.Altered++
		}
		statements = append(statements, more...)
	}
	if len(statements) == 0 {
		return nil
	}
	_, err := a.target.PgConn().Exec(ctx, strings.Join(statements, ";\n")).ReadAll()
	if err != nil {
		return fmt.Errorf("set owners and privileges on the target: %w", err)
	}
	return nil
}

// alterations are the statements for one object. The owner comes first: a change of owner also moves what the old one
// was granted.
func (a *aligner) alterations(oid int64, here, there *object) []string {
	name := fmt.Sprintf("LARGE OBJECT %d", oid)
	statements, owner := []string{}, there.owner
	if !a.config.NoOwner && here.owner != there.owner {
		owner = here.owner
		statements = append(statements, "ALTER "+name+" OWNER TO "+postgres.QuoteIdent(owner))
	}
	if here.comment == nil && there.comment != nil {
		statements = append(statements, "COMMENT ON "+name+" IS NULL")
	}
	if here.comment != nil && (there.comment == nil || *there.comment != *here.comment) {
		statements = append(statements, "COMMENT ON "+name+" IS "+postgres.QuoteLiteral(*here.comment))
	}
	if !a.config.NoPrivileges && !maps.Equal(here.rights, there.rights) {
		statements = append(statements, grants(name, owner, here.rights, there.rights)...)
	}
	return statements
}

// grants turns the rights that are there into those that are wanted. Granting what is there does nothing, but taking a
// right away may take along what its holder passed on.
func grants(name, owner string, want, have map[right]bool) []string {
	statements := []string{}
	for _, r := range sortedRights(have) {
		if grantable, wanted := want[r]; !wanted || have[r] && !grantable {
			statements = append(statements, "REVOKE "+r.privilege+" ON "+name+" FROM "+r.grantee(owner)+" CASCADE")
		}
	}
	for _, r := range sortedRights(want) {
		sql := "GRANT " + r.privilege + " ON " + name + " TO " + r.grantee(owner)
		if want[r] {
			sql += " WITH GRANT OPTION"
		}
		statements = append(statements, sql)
	}
	return statements
}

func (r right) grantee(owner string) string {
	switch {
	case r.owner:
		return postgres.QuoteIdent(owner)
	case r.role == "":
		return "PUBLIC"
	default:
		return postgres.QuoteIdent(r.role)
	}
}

func sortedRights(rights map[right]bool) []right {
	return slices.SortedFunc(maps.Keys(rights), func(a, b right) int {
		return strings.Compare(a.role+"\x00"+a.privilege, b.role+"\x00"+b.privilege)
	})
}
