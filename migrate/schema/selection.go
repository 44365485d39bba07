package schema

import (
	"errors"
	"fmt"
	"strings"
)

// Selection says which objects of one database move. The zero value chooses everything.
type Selection struct {
	Include []Pattern
	Exclude []Pattern
}

// All tells that nothing was included or excluded by name.
func (s Selection) All() bool { return len(s.Include) == 0 && len(s.Exclude) == 0 }

// Match tells whether an object of that name is chosen by its own name: included (or nothing is included by name) and
// not excluded. What belongs to a chosen table (its indexes, constraints, triggers, owned sequences, partitions) is
// chosen with it and not asked here.
func (s Selection) Match(n Name) bool {
	if s.Excludes(n) {
		return false
	}
	if len(s.Include) == 0 {
		return true
	}
	for _, p := range s.Include {
		if p.Match(n) {
			return true
		}
	}
	return false
}

// Excludes tells whether an exclude pattern names the object.
func (s Selection) Excludes(n Name) bool {
	for _, p := range s.Exclude {
		if p.Match(n) {
			return true
		}
	}
	return false
}

// Pattern is a glob over schema and object name: "*" any characters, "?" one character, a part in double quotes is
// literal. Without a dot it names an object in any schema. Matching is by exact case; an unquoted pattern is not
// folded, because names are data here, not SQL.
type Pattern struct {
	text         string
	schema, name []globPart
}

type globPart struct {
	char rune
	wild bool // char is '*' or '?' as a wildcard
}

// ParsePattern reads "schema.object", "object", `"Odd.Schema"."odd object"`, "app.*".
func ParsePattern(text string) (Pattern, error) {
	p := Pattern{text: text}
	parts := [][]globPart{nil}
	quoted := false
	runes := []rune(text)
	for i := 0; i < len(runes); i++ {
		last := len(parts) - 1
		switch c := runes[i]; {
		case c == '"' && quoted && i+1 < len(runes) && runes[i+1] == '"':
			i++
			parts[last] = append(parts[last], globPart{char: '"'})
		case c == '"':
			quoted = !quoted
		case c == '.' && !quoted:
			parts = append(parts, nil)
		default:
			parts[last] = append(parts[last], globPart{char: c, wild: !quoted && (c == '*' || c == '?')})
		}
	}
	if quoted {
		return Pattern{}, fmt.Errorf("pattern %q: missing closing double quote", text)
	}
	switch len(parts) {
	case 1:
		p.schema, p.name = []globPart{{char: '*', wild: true}}, parts[0]
	case 2:
		p.schema, p.name = parts[0], parts[1]
	default:
		return Pattern{}, fmt.Errorf(`pattern %q: want schema.object; put names that hold a dot in double quotes`, text)
	}
	if len(p.schema) == 0 || len(p.name) == 0 {
		return Pattern{}, errors.New("a pattern is empty: want schema.object, for example app.* or public.orders")
	}
	return p, nil
}

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }

// MarshalText and UnmarshalText keep patterns readable in the state of a job.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.text), nil }

// UnmarshalText reads what MarshalText wrote.
func (p *Pattern) UnmarshalText(text []byte) error {
	parsed, err := ParsePattern(string(text))
	if err != nil {
		return err
	}
	*p = parsed
	return nil
}

// Match tells whether both parts of the name match.
func (p Pattern) Match(n Name) bool {
	return glob(p.schema, []rune(n.Schema)) && glob(p.name, []rune(n.Name))
}

// MatchesWholeSchema tells whether the pattern takes every object of the schema.
func (p Pattern) MatchesWholeSchema(schema string) bool {
	return len(p.name) == 1 && p.name[0] == (globPart{char: '*', wild: true}) && glob(p.schema, []rune(schema))
}

// glob walks with one point of return, which is enough for '*' and keeps the time linear in the product of lengths.
func glob(pattern []globPart, s []rune) bool {
	pi, si, star, mark := 0, 0, -1, 0
	for si < len(s) {
		switch {
		case pi < len(pattern) && pattern[pi].wild && pattern[pi].char == '*':
			star, mark = pi, si
			pi++
		case pi < len(pattern) && (pattern[pi].char == s[si] || pattern[pi].wild):
			pi++
			si++
		case star >= 0:
			mark++
			pi, si = star+1, mark
		default:
			return false
		}
	}
	for pi < len(pattern) && pattern[pi].wild && pattern[pi].char == '*' {
		pi++
	}
	return pi == len(pattern)
}

// Format joins patterns for messages.
func Format(patterns []Pattern) string {
	texts := make([]string, len(patterns))
	for i, p := range patterns {
		texts[i] = p.text
	}
	return strings.Join(texts, ", ")
}
