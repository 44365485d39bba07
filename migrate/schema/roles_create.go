package schema

import (
	"fmt"
	"strings"

	"github.com/slipway-db/slipway/postgres"
)

// RoleOptions say for which target role statements are made.
type RoleOptions struct {
	Target postgres.Version
	// Existing are the roles that the target had before the migration began. They stay as they are: neither attributes
	// nor settings change, and no membership is granted between two of them.
	Existing map[string]bool
}

// codeDuplicateObject is the SQLSTATE for a role that is there already.
const codeDuplicateObject = "42710"

// RoleStatements create roles with what belongs to the server as a whole: attributes, password, comment, settings for
// every database, memberships. Attributes that only a superuser may give are statements of their own, so that the
// role is there even where they are refused.
func RoleStatements(roles []Role, options RoleOptions) Script {
	var s Script
	for _, r := range roles {
		if options.Existing[r.Name] {
			s.note("role %s exists on the target and stays as it is", r.Name)
			continue
		}
		s.createRole(r, options.Target)
		for _, setting := range r.Settings {
			if setting.Database == "" {
				s.add(roleObject(r.Name), "ALTER ROLE %s %s", postgres.QuoteIdent(r.Name), setting.setClause())
			}
		}
	}
	s.grantMemberships(roles, options)
	return s
}

// RoleDatabaseStatements are the settings of roles for one database, which must exist by then. source and target are
// its names on the two servers.
func RoleDatabaseStatements(roles []Role, options RoleOptions, source, target string) Script {
	var s Script
	for _, r := range roles {
		for _, setting := range r.Settings {
			if setting.Database == source && !options.Existing[r.Name] {
				s.add(roleObject(r.Name), "ALTER ROLE %s IN DATABASE %s %s",
					postgres.QuoteIdent(r.Name), postgres.QuoteIdent(target), setting.setClause())
			}
		}
	}
	return s
}

func roleObject(name string) string { return "role " + postgres.QuoteIdent(name) }

func (s *Script) createRole(r Role, target postgres.Version) {
	var b strings.Builder
	b.WriteString("CREATE ROLE " + postgres.QuoteIdent(r.Name))
	for _, a := range []struct {
		set    bool
		clause string
	}{
		{!r.Inherit, "NOINHERIT"},
		{r.CreateRole, "CREATEROLE"},
		{r.CreateDB, "CREATEDB"},
		{r.Login, "LOGIN"},
		{r.ConnectionLimit >= 0, fmt.Sprintf("CONNECTION LIMIT %d", r.ConnectionLimit)},
		{r.ValidUntil != "", "VALID UNTIL " + postgres.QuoteLiteral(r.ValidUntil)},
	} {
		if a.set {
			b.WriteString(" " + a.clause)
		}
	}
	password := s.usablePassword(r, target)
	if password != "" {
		b.WriteString(" PASSWORD " + postgres.QuoteLiteral(string(password)))
	}
	s.Statements = append(s.Statements, Statement{
		Object: roleObject(r.Name), SQL: b.String(), Sensitive: password != "", DoneCode: codeDuplicateObject,
	})
	for _, a := range []struct {
		set    bool
		clause string
	}{{r.Superuser, "SUPERUSER"}, {r.Replication, "REPLICATION"}, {r.BypassRLS, "BYPASSRLS"}} {
		if a.set {
			s.add(roleObject(r.Name), "ALTER ROLE %s %s", postgres.QuoteIdent(r.Name), a.clause)
		}
	}
	if r.Comment != "" {
		s.add(roleObject(r.Name), "COMMENT ON ROLE %s IS %s", postgres.QuoteIdent(r.Name), postgres.QuoteLiteral(r.Comment))
	}
}

// usablePassword is the verifier when the target understands it. What is no verifier would be taken as the password
// itself.
func (s *Script) usablePassword(r Role, target postgres.Version) Verifier {
	scram := strings.HasPrefix(string(r.Password), "SCRAM-SHA-256$")
	md5 := strings.HasPrefix(string(r.Password), "md5") && len(r.Password) == len("md5")+32
	switch {
	case !r.PasswordKnown && r.Login:
		s.note("the password of role %s could not be read on the source: set it on the target", r.Name)
	case r.Password == "":
	case scram && target.AtLeast(10) || md5:
		return r.Password
	default:
		s.note("the target does not understand how the source keeps the password of role %s: set it on the target", r.Name)
	}
	return ""
}

// grant is one membership to be granted.
type grant struct {
	member string
	Membership
}

// grantMemberships orders grants so that whoever grants has the admin option by then, which PostgreSQL 16 requires.
func (s *Script) grantMemberships(roles []Role, options RoleOptions) {
	known := map[string]bool{}
	for _, r := range roles {
		known[r.Name] = true
	}
	var waiting []grant
	for _, r := range roles {
		for _, m := range r.MemberOf {
			switch {
			case options.Existing[r.Name] && (options.Existing[m.Role] || !known[m.Role]):
			case !known[m.Role] && !strings.HasPrefix(m.Role, "pg_"):
				s.note("role %s stays without its membership in %s, which is not migrated", r.Name, m.Role)
			default:
				waiting = append(waiting, grant{member: r.Name, Membership: m})
			}
		}
	}
	keepGrantor := func(g grant) bool {
		return options.Target.AtLeast(16) && g.Options && !g.FromBootstrap && known[g.Grantor]
	}
	admin := map[[2]string]bool{} // role and who may grant it
	for len(waiting) > 0 {
		var later []grant
		for _, g := range waiting {
			if keepGrantor(g) && !admin[[2]string{g.Role, g.Grantor}] {
				later = append(later, g)
				continue
			}
			s.grantRole(g, options.Target, keepGrantor(g))
			if g.Admin {
				admin[[2]string{g.Role, g.member}] = true
			}
		}
		if len(later) == len(waiting) {
			// Their grantors have the admin option from somewhere that does not move; the target's own user grants.
			for _, g := range later {
				s.note("the membership of %s in %s is granted by another role than on the source", g.member, g.Role)
				s.grantRole(g, options.Target, false)
			}
			return
		}
		waiting = later
	}
}

func (s *Script) grantRole(g grant, target postgres.Version, keepGrantor bool) {
	sql := "GRANT " + postgres.QuoteIdent(g.Role) + " TO " + postgres.QuoteIdent(g.member)
	switch {
	case target.AtLeast(16) && g.Options:
		sql += fmt.Sprintf(" WITH ADMIN %s, INHERIT %s, SET %s", onOff(g.Admin), onOff(g.Inherit), onOff(g.Set))
	case g.Admin:
		sql += " WITH ADMIN OPTION"
	}
	if keepGrantor {
		sql += " GRANTED BY " + postgres.QuoteIdent(g.Grantor)
	}
	if g.Options && !target.AtLeast(16) && (!g.Set || !g.Inherit) {
		s.note("the membership of %s in %s loses its options INHERIT %s, SET %s: the target does not know them",
			g.member, g.Role, onOff(g.Inherit), onOff(g.Set))
	}
	s.add(roleObject(g.member), "%s", sql)
}

func onOff(b bool) string {
	if b {
		return "TRUE"
	}
	return "FALSE"
}
