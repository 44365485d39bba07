package schema

import "strings"

// Which table an entry belongs to is not said in the archive, but in the statements that pg_dump wrote; their beginnings
// have a fixed form. Nothing here takes statements of users apart.

// parent is the name of the relation (or domain) that a child belongs to; ok is false when the statement does not
// tell.
func (e *Entry) parent() (n Name, ok bool) {
	s := &nameScanner{rest: e.SQL}
	switch {
	case e.isViewRule():
		return s.nameAfter("CREATE OR REPLACE VIEW ")
	case (e.Desc == descTrigger || e.Desc == descRule || e.Desc == descPolicy) && e.DropSQL != "":
		s.rest = e.DropSQL
		if !s.skip("DROP "+e.Desc+" ") || !s.skipIdent() {
			return Name{}, false
		}
		return s.nameAfter(" ON ")
	case e.Desc == descIndex:
		if !s.skip("CREATE UNIQUE INDEX ") && !s.skip("CREATE INDEX ") || !s.skipIdent() {
			return Name{}, false
		}
		if !s.skip(" ON ONLY ") && !s.skip(" ON ") {
			return Name{}, false
		}
		return s.name()
	case e.Desc == descMatviewData:
		return s.nameAfter("REFRESH MATERIALIZED VIEW ")
	case e.Desc == descSequenceOwnedBy:
		return Name{Schema: e.Schema, Name: e.Tag}, true
	}
	for _, kind := range []string{"TABLE ", "FOREIGN TABLE ", "DOMAIN ", "VIEW ", "MATERIALIZED VIEW "} {
		if s.skip("ALTER " + kind) {
			s.skip("ONLY ")
			return s.name()
		}
	}
	return Name{}, false
}

// owningTable is the table that ALTER SEQUENCE … OWNED BY names.
func (e *Entry) owningTable() (Name, bool) {
	s := &nameScanner{rest: e.SQL}
	if _, ok := s.nameAfter("ALTER SEQUENCE "); !ok {
		return Name{}, false
	}
	return s.nameAfter(" OWNED BY ")
}

// mappedServer is the foreign server of a user mapping.
func (e *Entry) mappedServer() (string, bool) {
	s := &nameScanner{rest: e.DropSQL}
	if !s.skip("DROP USER MAPPING FOR ") || !s.skipIdent() || !s.skip(" SERVER ") {
		return "", false
	}
	return s.ident()
}

// attachedTo is the parent index that ALTER INDEX … ATTACH PARTITION names.
func (e *Entry) attachedTo() (Name, bool) {
	return (&nameScanner{rest: e.SQL}).nameAfter("ALTER INDEX ")
}

// ownName is the name by which patterns choose the entry: functions without their arguments.
func (e *Entry) ownName() Name {
	if e.rule().owner == asDropped {
		s := &nameScanner{rest: e.DropSQL}
		if n, ok := s.nameAfter("DROP " + e.Desc + " "); ok {
			return n
		}
	}
	return Name{Schema: e.Schema, Name: e.Tag}
}

// nameScanner reads identifiers as pg_dump and the server quote them.
type nameScanner struct{ rest string }

func (s *nameScanner) skip(prefix string) bool {
	rest, ok := strings.CutPrefix(s.rest, prefix)
	if ok {
		s.rest = rest
	}
	return ok
}

func (s *nameScanner) skipIdent() bool {
	_, ok := s.ident()
	return ok
}

func (s *nameScanner) nameAfter(prefix string) (Name, bool) {
	if !s.skip(prefix) {
		return Name{}, false
	}
	return s.name()
}

func (s *nameScanner) name() (n Name, ok bool) {
	if n.Schema, ok = s.ident(); !ok || !s.skip(".") {
		return Name{}, false
	}
	n.Name, ok = s.ident()
	return n, ok
}

// ident reads one identifier. An unquoted one ends where a space or punctuation stands; an operator's name consists
// of punctuation and ends at the space before its arguments.
func (s *nameScanner) ident() (string, bool) {
	if !strings.HasPrefix(s.rest, `"`) {
		end := strings.IndexAny(s.rest, " \t\n.(;,")
		if end <= 0 {
			return "", false
		}
		word := s.rest[:end]
		s.rest = s.rest[end:]
		return word, true
	}
	var b strings.Builder
	for i := 1; i < len(s.rest); i++ {
		if s.rest[i] != '"' {
			b.WriteByte(s.rest[i])
			continue
		}
		if i+1 < len(s.rest) && s.rest[i+1] == '"' {
			b.WriteByte('"')
			i++
			continue
		}
		s.rest = s.rest[i+1:]
		return b.String(), true
	}
	return "", false
}
