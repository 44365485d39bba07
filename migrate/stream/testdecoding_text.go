package stream

import (
	"bytes"
	"fmt"
	"strings"
)

// textChange is a change of test_decoding taken apart. All slices are parts of the message, in which quoted values
// are unquoted in place.
//
//	table public.t: INSERT: id[integer]:1 "odd name"[text]:'it''s' big[text]:unchanged-toast-datum b[bit]:B'01'
//	table public.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 note["char"]:null
//	table public.t: DELETE: (no-tuple-data)
//	table public.t, public.u: TRUNCATE: restart_seqs cascade
type textChange struct {
	kind   EventKind
	tables [][]byte // as the server quotes them
	hasOld bool
	hasNew bool
	old    []textField
	fresh  []textField

	cascade, restart bool

	rest []byte
}

// textField is one column; its name is as the server quotes it.
type textField struct {
	name, typeName []byte
	value          Value
}

func (t *textChange) malformed(what string) error {
	return fmt.Errorf("%w: %s at %.60q", ErrProtocol, what, t.rest)
}

// take consumes literal if it is next.
func (t *textChange) take(literal string) bool {
	if len(t.rest) < len(literal) || string(t.rest[:len(literal)]) != literal {
		return false
	}
	t.rest = t.rest[len(literal):]
	return true
}

// parseTables reads the part before the operation: one name, or several for TRUNCATE. The message stays as it is.
func (t *textChange) parseTables(text []byte) error {
	t.rest, t.tables = text, t.tables[:0]
	for {
		name := t.rest
		if !t.identifier() || !t.take(".") || !t.identifier() {
			return t.malformed("no table name")
		}
		t.tables = append(t.tables, name[:len(name)-len(t.rest)])
		if t.take(": ") {
			return nil
		}
		if !t.take(", ") {
			return t.malformed("no end of a table name")
		}
	}
}

// parse reads a whole change.
func (t *textChange) parse(text []byte) error {
	if err := t.parseTables(text); err != nil {
		return err
	}
	t.old, t.fresh, t.hasOld, t.hasNew, t.cascade, t.restart = t.old[:0], t.fresh[:0], false, false, false, false
	switch {
	case t.take("INSERT:"):
		t.kind = Insert
		return t.row(&t.fresh, &t.hasNew)
	case t.take("UPDATE:"):
		t.kind = Update
		if t.take(" old-key:") {
			t.hasOld = true
			if err := t.fields(&t.old, " new-tuple:"); err != nil {
				return err
			}
		}
		return t.row(&t.fresh, &t.hasNew)
	case t.take("DELETE:"):
		t.kind = Delete
		return t.row(&t.old, &t.hasOld)
	case t.take("TRUNCATE:"):
		t.kind = Truncate
		if !t.take(" (no-flags)") {
			t.restart = t.take(" restart_seqs")
			t.cascade = t.take(" cascade")
		}
		if len(t.rest) > 0 {
			return t.malformed("unknown option of TRUNCATE")
		}
		return nil
	}
	return t.malformed("unknown operation")
}

// row reads fields up to the end of the message.
func (t *textChange) row(into *[]textField, has *bool) error {
	if len(t.tables) != 1 {
		return t.malformed("several tables")
	}
	if t.take(" (no-tuple-data)") && len(t.rest) == 0 {
		return nil
	}
	*has = true
	return t.fields(into, "")
}

// fields reads fields up to end, or to the end of the message when that is empty. " new-tuple:" cannot be a field:
// a name is followed by "[".
func (t *textChange) fields(into *[]textField, end string) error {
	for {
		if end == "" && len(t.rest) == 0 || end != "" && t.take(end) {
			return nil
		}
		if !t.take(" ") {
			return t.malformed("no field")
		}
		var f textField
		start := t.rest
		if !t.identifier() {
			return t.malformed("no column name")
		}
		f.name = start[:len(start)-len(t.rest)]
		if !t.take("[") {
			return t.malformed("no type")
		}
		start = t.rest
		if !t.typeName() {
			return t.malformed("no end of the type")
		}
		f.typeName = start[:len(start)-len(t.rest)]
		if !t.take("]:") {
			return t.malformed("no value")
		}
		if err := t.value(&f.value); err != nil {
			return err
		}
		*into = append(*into, f)
	}
}

// identifier consumes a name as quote_ident prints it.
func (t *textChange) identifier() bool {
	if len(t.rest) > 0 && t.rest[0] == '"' {
		return t.quoted('"')
	}
	n := 0
	for n < len(t.rest) && plainIdent(t.rest[n], n == 0) {
		n++
	}
	t.rest = t.rest[n:]
	return n > 0
}

// plainIdent tells which bytes a name without quotes may have.
func plainIdent(b byte, first bool) bool {
	return b >= 'a' && b <= 'z' || b == '_' || !first && b >= '0' && b <= '9'
}

// quoted consumes up to the closing quote; inside, quotes are doubled.
func (t *textChange) quoted(quote byte) bool {
	for i := 1; i < len(t.rest); i++ {
		if t.rest[i] != quote {
			continue
		}
		if i+1 < len(t.rest) && t.rest[i+1] == quote {
			i++
			continue
		}
		t.rest = t.rest[i+1:]
		return true
	}
	return false
}

// typeName consumes a type up to the closing bracket: words, spaces, dots, quoted names, "[]" of an array.
func (t *textChange) typeName() bool {
	for len(t.rest) > 0 {
		switch t.rest[0] {
		case '"':
			if !t.quoted('"') {
				return false
			}
			continue
		case '[':
			if !t.take("[]") {
				return false
			}
			continue
		case ']':
			return true
		}
		t.rest = t.rest[1:]
	}
	return false
}

// value reads one value. Numbers and booleans come bare, everything else in quotes; a text that looks like a marker
// is quoted and so never taken for one.
func (t *textChange) value(v *Value) error {
	bits := t.take("B")
	if len(t.rest) > 0 && t.rest[0] == '\'' {
		start := t.rest
		if !t.quoted('\'') {
			return t.malformed("no end of the value")
		}
		v.Kind, v.Data = Text, undouble(start[1:len(start)-len(t.rest)-1])
		return nil
	}
	if bits {
		return t.malformed("no bit string")
	}
	end := bytes.IndexByte(t.rest, ' ')
	if end < 0 {
		end = len(t.rest)
	}
	bare := t.rest[:end:end]
	t.rest = t.rest[end:]
	switch string(bare) {
	case "null":
		v.Kind = Null
	case "unchanged-toast-datum":
		v.Kind = Unchanged
	case "true", "false": // as the type prints itself
		v.Kind, v.Data = Text, bare[:1:1]
	default:
		if !number(bare) {
			return t.malformed("unknown value " + fmt.Sprintf("%.60q", bare))
		}
		v.Kind, v.Data = Text, bare
	}
	return nil
}

// number tells whether text is what a numeric type prints.
func number(text []byte) bool {
	switch string(text) {
	case "NaN", "Infinity", "-Infinity":
		return true
	}
	digits := false
	for _, b := range text {
		switch {
		case b >= '0' && b <= '9':
			digits = true
		case b != '-' && b != '+' && b != '.' && b != 'e':
			return false
		}
	}
	return digits
}

// undouble removes the second of each pair of quotes, in place.
func undouble(text []byte) []byte {
	first := bytes.IndexByte(text, '\'')
	if first < 0 {
		return text[:len(text):len(text)]
	}
	kept := text[:first]
	for i := first; i < len(text); i++ {
		kept = append(kept, text[i])
		if text[i] == '\'' {
			i++
		}
	}
	return kept[:len(kept):len(kept)]
}

// unquoteIdent gives the name that quote_ident printed.
func unquoteIdent(quoted string) string {
	if inner, ok := strings.CutPrefix(quoted, `"`); ok {
		return strings.ReplaceAll(strings.TrimSuffix(inner, `"`), `""`, `"`)
	}
	return quoted
}

// splitQualified takes schema.name apart, which parseTables has read.
func splitQualified(quoted string) (schema, name string) {
	t := textChange{rest: []byte(quoted)}
	t.identifier()
	schema = quoted[:len(quoted)-len(t.rest)]
	return unquoteIdent(schema), unquoteIdent(strings.TrimPrefix(quoted[len(schema):], "."))
}
