package verify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/slipway-db/slipway/migrate/schema"
)

// Definitions says which part of the structure is compared.
type Definitions struct {
	// Chosen tells whether a schema-qualified object is part of the migration; what belongs to a table (columns,
	// constraints, indexes, triggers, rules, policies) is chosen with it. Nil chooses everything.
	Chosen func(schema.Name) bool
	// IgnoreSchemas are left out on both sides, such as the schema that holds the migration's own state.
	IgnoreSchemas []string
	Owners        bool
	Privileges    bool
	// Pending are kinds (as in StructureDifference.Kind: "index", "constraint", "foreign key", "trigger", "rule"…) that
	// the target gets later: while one of their objects is missing or not enabled there, it is reported as ClassPending.
	Pending map[string]bool
}

// Class says what a difference of structure means.
type Class string

// The classes. Only ClassDifferent makes the result Different.
const (
	ClassDifferent Class = "different"
	ClassExpected  Class = "expected" // follows from the versions or from what was asked for
	ClassPending   Class = "pending"  // the target gets the object in a later phase
	ClassNote      Class = "note"     // worth knowing, such as an extension of another version
)

// StructureDifference is one property of one object that differs. An object on one side only has the property
// "exists".
type StructureDifference struct {
	Class    Class  `json:"class"`
	Kind     string `json:"kind"` // "table", "column", "index", "foreign key"…
	Object   string `json:"object"`
	Property string `json:"property"`
	Source   string `json:"source"`
	Target   string `json:"target"`
	Reason   string `json:"reason,omitempty"`
}

// object identifies one definition on both sides.
type object struct{ kind, name string }

// inventory holds the properties of every object of one side.
type inventory map[object]map[string]string

// compareStructure reads both inventories and reports what differs.
func (r *run) compareStructure(ctx context.Context, report *Report) {
	var sides [2]inventory
	err := both(func(source bool) (err error) {
		if source {
			sides[0], err = r.source.inventory(ctx, r.Definitions)
		} else {
			sides[1], err = r.target.inventory(ctx, r.Definitions)
		}
		return err
	})
	if err != nil {
		report.Errors = append(report.Errors, fmt.Sprintf("compare structure: %v", err))
		return
	}
	report.StructureObjects = len(sides[0])
	if len(sides[0]) == 0 && r.Mode == Structure {
		report.Errors = append(report.Errors, "the source has no object to compare")
	}
	c := structureComparison{run: r, source: sides[0], target: sides[1]}
	all := maps.Clone(c.source)
	maps.Copy(all, c.target)
	for _, o := range slices.SortedFunc(maps.Keys(all), object.compare) {
		c.object(o)
	}
	report.Structure = c.found
}

func (o object) compare(other object) int {
	if o.kind != other.kind {
		return strings.Compare(o.kind, other.kind)
	}
	return strings.Compare(o.name, other.name)
}

type structureComparison struct {
	run            *run
	source, target inventory
	found          []StructureDifference
}

func (c *structureComparison) object(o object) {
	source, onSource := c.source[o]
	target, onTarget := c.target[o]
	switch {
	case !onTarget:
		d := StructureDifference{Class: ClassDifferent, Property: "exists", Source: "yes", Target: "no"}
		if c.run.Definitions.Pending[o.kind] {
			d.Class, d.Reason = ClassPending, "created on the target in a later phase"
		}
		c.add(o, d)
		return
	case !onSource:
		d := StructureDifference{Class: ClassDifferent, Property: "exists", Source: "no", Target: "yes"}
		if o.kind == "extension" || c.run.Definitions.Chosen != nil {
			d.Class, d.Reason = ClassNote, "only the target has it"
		}
		c.add(o, d)
		return
	}
	all := maps.Clone(source)
	maps.Copy(all, target)
	for _, property := range slices.Sorted(maps.Keys(all)) {
		if c.equal(o, property, source[property], target[property]) {
			continue
		}
		d := StructureDifference{
			Class: ClassDifferent, Property: property, Source: source[property], Target: target[property],
		}
		c.excuse(o, &d)
		c.add(o, d)
	}
}

func (c *structureComparison) add(o object, d StructureDifference) {
	d.Kind, d.Object = o.kind, o.name
	c.found = append(c.found, d)
}

// equal compares texts, across majors after taking off what the versions are known to print differently.
func (c *structureComparison) equal(o object, property, source, target string) bool {
	if source == target {
		return true
	}
	if c.run.source.version.Major() == c.run.target.version.Major() && c.run.source.version.AtLeast(10) {
		return false
	}
	if property == "definition" || property == "default" {
		return normalize(o.kind, source) == normalize(o.kind, target)
	}
	return false
}

// excuse gives differences that follow from the versions their class.
func (c *structureComparison) excuse(o object, d *StructureDifference) {
	acrossMajor := func(major int) bool {
		return c.run.source.version.AtLeast(major) != c.run.target.version.AtLeast(major)
	}
	switch {
	case d.Property == "enabled" && c.run.Definitions.Pending[o.kind]:
		d.Class, d.Reason = ClassPending, "set on the target in a later phase"
	case d.Property == "row security" && c.run.Definitions.Pending["policy"]:
		d.Class, d.Reason = ClassPending, "set on the target in a later phase"
	case o.kind == "extension" && d.Property == "version":
		d.Class, d.Reason = ClassNote, "the extension has another version on the target"
	case o.kind == "schema" && o.name == "public" && acrossMajor(15) && (d.Property == "owner" || d.Property == "privileges"):
		d.Class, d.Reason = ClassExpected, "PostgreSQL 15 changed the owner and privileges of the schema public"
	}
}

// normalize takes off what versions print differently for the same definition: white space, EXECUTE PROCEDURE of
// triggers up to 10, and in views and rules parentheses and the qualification of columns, which 16 and later leave
// out where there is one relation.
func normalize(kind, definition string) string {
	definition = strings.Join(strings.Fields(definition), " ")
	switch kind {
	case "trigger":
		return strings.Replace(definition, " EXECUTE PROCEDURE ", " EXECUTE FUNCTION ", 1)
	case "view", "materialized view", "rule":
		return strings.Join(withoutQualifiers(tokens(definition)), " ")
	}
	return definition
}

// withoutQualifiers drops parentheses and every "name ." that stands before a name.
func withoutQualifiers(words []string) []string {
	kept := []string{}
	for _, w := range words {
		switch {
		case w == "(" || w == ")":
		case w == "." && len(kept) > 0:
			kept = kept[:len(kept)-1]
		default:
			kept = append(kept, w)
		}
	}
	return kept
}

// tokens cuts SQL as the server prints it into quoted parts, words and single signs.
func tokens(sql string) []string {
	found := []string{}
	for i := 0; i < len(sql); {
		switch c := sql[i]; {
		case c == ' ':
			i++
		case c == '\'' || c == '"':
			end := i + 1
			for end < len(sql) && (sql[end] != c || end+1 < len(sql) && sql[end+1] == c) {
				if sql[end] == c {
					end++
				}
				end++
			}
			end = min(end+1, len(sql))
			found, i = append(found, sql[i:end]), end
		case isWord(c):
			end, number := i, c >= '0' && c <= '9'
			for end < len(sql) && (isWord(sql[end]) || number && sql[end] == '.') {
				end++
			}
			found, i = append(found, sql[i:end]), end
		default:
			found, i = append(found, sql[i:i+1]), i+1
		}
	}
	return found
}

func isWord(c byte) bool {
	return c == '_' || c == '$' || c >= 0x80 || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
