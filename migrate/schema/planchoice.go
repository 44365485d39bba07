package schema

import (
	"fmt"
	"strings"
)

// chooser decides which entries of an archive are wanted.
type chooser struct {
	archive  *Archive
	options  PlanOptions
	byID     map[int]*Entry
	byName   map[Name]*Entry   // relations and domains
	byServer map[string]*Entry // foreign servers
	schemas  map[string]*Entry
	used     map[string]bool // schemas that hold something kept
	kept     map[int]bool
	leftOut  []LeftOut
}

func newChooser(a *Archive, o PlanOptions) *chooser {
	c := &chooser{
		archive: a, options: o,
		byID: make(map[int]*Entry, len(a.Entries)), byName: make(map[Name]*Entry, len(a.Entries)),
		byServer: map[string]*Entry{}, schemas: map[string]*Entry{},
		used: map[string]bool{}, kept: make(map[int]bool, len(a.Entries)),
	}
	for _, e := range a.Entries {
		c.byID[e.ID] = e
		switch {
		case e.rule().class == classRelation || e.isIdentity() || e.Desc == descDomain:
			c.byName[e.name()] = e
		case e.Desc == descServer:
			c.byServer[e.Tag] = e
		case e.Desc == descSchema:
			c.schemas[e.Tag] = e
		}
	}
	return c
}

// choose goes from what is chosen by name to what follows from it.
func (c *chooser) choose() {
	c.each(c.chooseOwn)
	c.each(c.chooseChild)
	c.chooseNeeded()
	c.each(c.chooseSchema)
	c.each(c.chooseConnection)
	c.each(c.chooseMapping)
	c.each(c.chooseProperty)
}

func (c *chooser) each(choose func(*Entry, class)) {
	for _, e := range c.archive.Entries {
		if class := e.rule().class; class != classNever && !c.kept[e.ID] {
			choose(e, class)
		}
	}
}

func (c *chooser) ignored(e *Entry) bool { return c.options.Ignore != nil && c.options.Ignore(e) }

func (c *chooser) keep(e *Entry) {
	if c.ignored(e) {
		return
	}
	c.kept[e.ID] = true
	if e.Schema != "" {
		c.used[e.Schema] = true
	}
}

func (c *chooser) leave(e *Entry, format string, args ...any) {
	c.leftOut = append(c.leftOut, LeftOut{Entry: e, Reason: fmt.Sprintf(format, args...)})
}

// everything tells that no object was named to be included, so that what belongs to the database goes with it.
func (c *chooser) everything() bool { return len(c.options.Selection.Include) == 0 }

func (c *chooser) chooseOwn(e *Entry, class class) {
	switch {
	case class == classRelation && (c.options.Selection.All() || c.options.Relations[e.name()]),
		class == classNamed && c.options.Selection.Match(e.ownName()),
		class == classRequired && e.Desc != descSchema && c.everything():
		c.keep(e)
	}
}

func (c *chooser) chooseChild(e *Entry, class class) {
	if class != classChild || e.Desc == descUserMapping {
		return
	}
	parent := c.parentOf(e)
	switch {
	case parent == nil:
		// It belongs to something that is not in the archive, for example a table of an extension.
		if c.everything() {
			c.keep(e)
		}
		return
	case !c.kept[parent.ID]:
		return
	case e.Desc == descSequenceOwnedBy:
		if table, ok := e.owningTable(); ok && c.unchosen(c.byName[table]) {
			c.leave(e, "it belongs to table %s, which is not chosen", table)
			return
		}
	case e.Desc == descForeignKey:
		if missing := c.missing(e); missing != nil {
			c.leave(e, "it references %s, which is not chosen", missing)
			return
		}
	}
	c.keep(e)
}

func (c *chooser) unchosen(e *Entry) bool { return e != nil && !c.kept[e.ID] }

// missing is a relation that the entry depends on and that is not chosen.
func (c *chooser) missing(e *Entry) *Entry {
	for _, id := range e.Depends {
		if need := c.byID[id]; c.unchosen(need) && need.rule().class == classRelation {
			return need
		}
	}
	return nil
}

// chooseNeeded takes what chosen entries need of the database: extensions, servers, languages, schemas.
func (c *chooser) chooseNeeded() {
	work := make([]*Entry, 0, len(c.archive.Entries))
	for _, e := range c.archive.Entries {
		if c.kept[e.ID] {
			work = append(work, e)
		}
	}
	for len(work) > 0 {
		e := work[len(work)-1]
		work = work[:len(work)-1]
		for _, id := range e.Depends {
			if need := c.byID[id]; c.unchosen(need) && need.rule().class == classRequired && !c.ignored(need) {
				c.keep(need)
				work = append(work, need)
			}
		}
	}
}

// chooseSchema takes schemas that hold something; and empty ones, unless they are excluded or others are named.
func (c *chooser) chooseSchema(e *Entry, _ class) {
	if e.Desc == descSchema && c.wantsSchema(e) {
		c.keep(e)
	}
}

func (c *chooser) wantsSchema(e *Entry) bool {
	if c.used[e.Tag] {
		return true
	}
	if !c.everything() {
		return false
	}
	for _, p := range c.options.Selection.Exclude {
		if p.MatchesWholeSchema(e.Tag) {
			return false
		}
	}
	return true
}

// chooseConnection takes what ties chosen things together, and what belongs to the database.
func (c *chooser) chooseConnection(e *Entry, class class) {
	if class != classConnection && (class != classGlobal || !c.everything()) {
		return
	}
	for _, id := range e.Depends {
		need := c.byID[id]
		if !c.unchosen(need) || need.rule().class == classNever {
			continue
		}
		// What ties a chosen thing to one that was left out on purpose is not worth a word; a partition that stays
		// alone is.
		if class == classGlobal || e.Desc == descTableAttach && c.kept[e.Depends[0]] {
			c.leave(e, "it needs %s, which is not chosen", need)
		}
		return
	}
	c.keep(e)
}

func (c *chooser) chooseMapping(e *Entry, _ class) {
	if e.Desc != descUserMapping {
		return
	}
	server, ok := e.mappedServer()
	if parent := c.byServer[server]; ok && parent != nil && c.kept[parent.ID] {
		c.keep(e)
	}
}

// chooseProperty takes comments, labels, privileges and default privileges with what they are about.
func (c *chooser) chooseProperty(e *Entry, class class) {
	isDefault := e.Desc == descDefaultACL
	if class != classProperty || c.options.NoPrivileges && (isDefault || e.Desc == descACL) {
		return
	}
	wanted := false
	if parent := c.byID[c.parentID(e)]; parent != nil {
		wanted = c.kept[parent.ID]
	} else if isDefault && e.Schema != "" {
		wanted = c.schemaChosen(e.Schema)
	} else {
		// What every database has is not in the archive: the schema public, members of extensions, system objects.
		schema, isSchema := strings.CutPrefix(e.Tag, "SCHEMA ")
		wanted = c.everything() || isSchema && c.schemaChosen(unquote(schema))
	}
	if wanted {
		c.keep(e)
	}
}

func (c *chooser) schemaChosen(schema string) bool {
	if e := c.schemas[schema]; e != nil {
		return c.kept[e.ID]
	}
	return c.used[schema] || c.everything()
}

// unquote reads a name as it stands in a tag.
func unquote(ident string) string {
	s := &nameScanner{rest: ident + " "}
	if name, ok := s.ident(); ok {
		return name
	}
	return ident
}

// parentID is the entry that a property is about: pg_dump always names it first.
func (c *chooser) parentID(e *Entry) int {
	if len(e.Depends) == 0 {
		return 0
	}
	return e.Depends[0]
}

// parentOf is the relation or domain that a child belongs to, nil when the archive does not have it.
func (c *chooser) parentOf(e *Entry) *Entry {
	if n, ok := e.parent(); ok {
		return c.byName[n]
	}
	for _, id := range e.Depends {
		if need := c.byID[id]; need != nil && need.rule().class == classRelation {
			return need
		}
	}
	return nil
}

// attachTable is the partitioned table whose index INDEX ATTACH completes.
func (c *chooser) attachTable(e *Entry) Name {
	parentIndex, ok := e.attachedTo()
	for _, id := range e.Depends {
		need := c.byID[id]
		if !ok || need == nil || !isIndex(need) || need.Schema != parentIndex.Schema {
			continue
		}
		table := c.parentOf(need)
		if table == nil {
			continue
		}
		if need.Tag == parentIndex.Name || need.Tag == table.Tag+" "+parentIndex.Name {
			return table.name()
		}
	}
	return Name{}
}
