package schema

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// Section is the part of a dump that an entry belongs to.
type Section int

// The sections of pg_dump; comments and privileges belong to none.
const (
	SectionNone Section = iota + 1
	SectionPreData
	SectionData
	SectionPostData
)

// Entry is one object, or one property of an object, as pg_dump describes it.
type Entry struct {
	// ID is the number within its archive. It means nothing in another archive of the same database; Key does.
	ID int
	// ClassOID and OID name the object in the source's catalogs; 0 for properties such as comments.
	ClassOID, OID uint32
	// Desc is what it is: "TABLE", "FK CONSTRAINT", "COMMENT"; Tag its name as pg_dump prints it.
	Desc, Tag string
	// Schema is empty for objects outside schemas.
	Schema, Owner string
	// Tablespace and TableAM are to be the session's defaults while SQL runs; empty for the database's.
	Tablespace, TableAM string
	// Relkind is 0 in archives from before PostgreSQL 17.
	Relkind Kind
	Section Section
	// SQL creates the object; it holds one or more statements. DropSQL would drop it.
	SQL, DropSQL string
	// Depends holds the IDs of entries that must be there first; some of them may not be in the archive.
	Depends []int

	key string
}

// Key names the entry across dumps of the same database: description, schema and tag, and a short hash that tells
// overloaded operators apart. It is unique within an archive.
func (e *Entry) Key() string { return e.key }

// String names the entry for people: TABLE app.orders, COMMENT TABLE "orders" in app.
func (e *Entry) String() string {
	switch {
	case e.Schema == "":
		return e.Desc + " " + e.Tag
	case e.rule().class == classProperty:
		return e.Desc + " " + e.Tag + " in " + e.Schema
	}
	return e.Desc + " " + e.Schema + "." + e.Tag
}

func assignKeys(entries []*Entry) {
	count := make(map[string]int, len(entries))
	for _, e := range entries {
		unique := e.DropSQL
		if e.Desc == descDefaultACL {
			unique = e.Owner
		}
		key := fmt.Sprintf("%s %q.%q %x", e.Desc, e.Schema, e.Tag, hash4(unique))
		count[key]++
		e.key = key
		if n := count[key]; n > 1 {
			e.key = fmt.Sprintf("%s #%d", key, n)
		}
	}
}

func hash4(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:4]
}

// The descriptions that the rules of selection, order and ownership speak of.
const (
	descACL                = "ACL"
	descCheckConstraint    = "CHECK CONSTRAINT"
	descComment            = "COMMENT"
	descConstraint         = "CONSTRAINT"
	descDefault            = "DEFAULT"
	descDefaultACL         = "DEFAULT ACL"
	descDomain             = "DOMAIN"
	descEventTrigger       = "EVENT TRIGGER"
	descExtension          = "EXTENSION"
	descForeignDataWrapper = "FOREIGN DATA WRAPPER"
	descForeignKey         = "FK CONSTRAINT"
	descForeignTable       = "FOREIGN TABLE"
	descIndex              = "INDEX"
	descIndexAttach        = "INDEX ATTACH"
	descMatview            = "MATERIALIZED VIEW"
	descMatviewData        = "MATERIALIZED VIEW DATA"
	descPolicy             = "POLICY"
	descRowSecurity        = "ROW SECURITY"
	descRule               = "RULE"
	descSchema             = "SCHEMA"
	descSecurityLabel      = "SECURITY LABEL"
	descSequence           = "SEQUENCE"
	descSequenceOwnedBy    = "SEQUENCE OWNED BY"
	descServer             = "SERVER"
	descStatistics         = "STATISTICS"
	descTable              = "TABLE"
	descTableAttach        = "TABLE ATTACH"
	descTrigger            = "TRIGGER"
	descUserMapping        = "USER MAPPING"
	descView               = "VIEW"
)

// class says what decides whether an entry is chosen.
type class int

const (
	classNever      class = iota + 1 // not structure, or not ours to move
	classRelation                    // the chosen relations
	classNamed                       // its own name
	classChild                       // the relation (or domain) that it belongs to
	classProperty                    // the entry that it describes: its first dependency
	classConnection                  // everything that it connects
	classGlobal                      // belongs to the database: chosen when nothing is included by name
	classRequired                    // global, and whenever something chosen needs it
)

// ownership says how ALTER … OWNER TO names the object.
type ownership int

const (
	noOwner     ownership = iota
	inSchema              // ALTER TABLE "schema"."tag"
	outOfSchema           // ALTER SERVER "tag"
	asDropped             // as the DROP statement names it, with the arguments
)

type kindRule struct {
	class class
	stage Stage
	owner ownership
}

var kindRules = map[string]kindRule{
	"ACCESS METHOD":                {classRequired, StagePreData, noOwner},
	"AGGREGATE":                    {classNamed, StagePreData, asDropped},
	"BLOB":                         {class: classNever},
	"BLOB COMMENTS":                {class: classNever},
	"BLOB METADATA":                {class: classNever},
	"BLOBS":                        {class: classNever},
	"CAST":                         {classGlobal, StagePreData, noOwner},
	"COLLATION":                    {classNamed, StagePreData, inSchema},
	"CONVERSION":                   {classNamed, StagePreData, inSchema},
	"DATABASE":                     {class: classNever},
	"DATABASE PROPERTIES":          {class: classNever},
	"ENCODING":                     {class: classNever},
	descForeignDataWrapper:         {classRequired, StagePreData, outOfSchema},
	"FUNCTION":                     {classNamed, StagePreData, asDropped},
	"LARGE OBJECT":                 {class: classNever},
	"OPERATOR":                     {classNamed, StagePreData, asDropped},
	"OPERATOR CLASS":               {classNamed, StagePreData, asDropped},
	"OPERATOR FAMILY":              {classNamed, StagePreData, asDropped},
	"PROCEDURAL LANGUAGE":          {classRequired, StagePreData, outOfSchema},
	"PROCEDURE":                    {classNamed, StagePreData, asDropped},
	"PUBLICATION":                  {classGlobal, StageLate, outOfSchema},
	"PUBLICATION TABLE":            {classConnection, StageLate, noOwner},
	"PUBLICATION TABLES IN SCHEMA": {classConnection, StageLate, noOwner},
	"SEARCHPATH":                   {class: classNever},
	"SEQUENCE SET":                 {class: classNever},
	"SHELL TYPE":                   {classNamed, StagePreData, noOwner},
	"STATISTICS DATA":              {class: classNever},
	"STDSTRINGS":                   {class: classNever},
	"SUBSCRIPTION":                 {class: classNever},
	"SUBSCRIPTION TABLE":           {class: classNever},
	descTableAttach:                {classConnection, StagePreData, noOwner},
	"TABLE DATA":                   {class: classNever},
	"TEXT SEARCH CONFIGURATION":    {classNamed, StagePreData, inSchema},
	"TEXT SEARCH DICTIONARY":       {classNamed, StagePreData, inSchema},
	"TEXT SEARCH PARSER":           {classNamed, StagePreData, noOwner},
	"TEXT SEARCH TEMPLATE":         {classNamed, StagePreData, noOwner},
	"TRANSFORM":                    {classGlobal, StagePreData, noOwner},
	"TYPE":                         {classNamed, StagePreData, inSchema},
	descACL:                        {classProperty, StageLate, noOwner},
	descCheckConstraint:            {classChild, StageConstraints, noOwner},
	descComment:                    {classProperty, "", noOwner},
	descConstraint:                 {classChild, StageIndexes, noOwner},
	descDefault:                    {classChild, StagePreData, noOwner},
	descDefaultACL:                 {classProperty, StageLate, noOwner},
	descDomain:                     {classNamed, StagePreData, inSchema},
	descEventTrigger:               {classGlobal, StageFinal, outOfSchema},
	descExtension:                  {classRequired, StagePreData, noOwner},
	descForeignKey:                 {classChild, StageConstraints, noOwner},
	descForeignTable:               {classRelation, StagePreData, inSchema},
	descIndex:                      {classChild, StageIndexes, noOwner},
	descIndexAttach:                {classConnection, StageIndexes, noOwner},
	descMatview:                    {classRelation, StagePreData, inSchema},
	descMatviewData:                {classChild, StageFinal, noOwner},
	descPolicy:                     {classChild, StageLate, noOwner},
	descRowSecurity:                {classChild, StageLate, noOwner},
	descRule:                       {classChild, StageLate, noOwner},
	descSchema:                     {classRequired, StagePreData, outOfSchema},
	descSecurityLabel:              {classProperty, "", noOwner},
	descSequence:                   {classRelation, StagePreData, inSchema},
	descSequenceOwnedBy:            {classChild, StagePreData, noOwner},
	descServer:                     {classRequired, StagePreData, outOfSchema},
	descStatistics:                 {classChild, StageIndexes, inSchema},
	descTable:                      {classRelation, StagePreData, inSchema},
	descTrigger:                    {classChild, StageLate, noOwner},
	descUserMapping:                {classChild, StagePreData, noOwner},
	descView:                       {classRelation, StagePreData, inSchema},
}

// rule is what is known about the entry's kind. A kind that a later pg_dump invents is not dropped in silence: it is
// chosen by its name when it has a schema, and created where its section says.
func (e *Entry) rule() kindRule {
	r, known := kindRules[e.Desc]
	if !known {
		r = kindRule{class: classGlobal, stage: StageLate}
		if e.Schema != "" {
			r.class = classNamed
		}
		if e.Section == SectionPreData {
			r.stage = StagePreData
		}
	}
	switch {
	case e.isInitialComment():
		r.class = classNever
	case e.isIdentity():
		r.class, r.owner = classChild, noOwner
	case r.stage == StagePreData && e.Section == SectionPostData,
		e.isViewRule():
		// pg_dump moved it behind a primary key that it needs.
		r.stage = StageIndexes
	case e.Desc == descCheckConstraint && strings.HasPrefix(e.SQL, "ALTER DOMAIN "):
		// A domain's constraint stands alone when rows may violate it. The source does not look at such a value when
		// another column of its row changes, but the target would, because a change brings the whole row.
		r.stage = StageLate
	}
	if e.DropSQL == "" {
		r.owner = noOwner // a part of another object, which has the owner
	}
	return r
}

// isIdentity tells the sequence of an identity column, which is made by altering the table.
func (e *Entry) isIdentity() bool {
	return e.Desc == descSequence && strings.HasPrefix(e.SQL, "ALTER TABLE ")
}

// isPublicComment tells the comment of the schema public, which every database has.
func (e *Entry) isPublicComment() bool {
	return e.Desc == descComment && (e.Tag == "SCHEMA public" || e.Tag == `SCHEMA "public"`)
}

// isInitialComment tells the comment that initdb gives to the schema public; pg_dump leaves it out, but not when it
// quotes all identifiers.
func (e *Entry) isInitialComment() bool {
	return e.isPublicComment() && strings.HasSuffix(e.SQL, " IS 'standard public schema';\n")
}

// isViewRule tells the rule that gives a view its real definition, where pg_dump had to make a dummy view first.
func (e *Entry) isViewRule() bool {
	return e.Desc == descRule && strings.HasPrefix(e.SQL, "CREATE OR REPLACE VIEW ")
}
