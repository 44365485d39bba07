package migrate_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A case is a file of testdata in txtar form: a comment that says what it proves, then sections.
//
//	options         lines "key: value", see options
//	source.sql      fills the source
//	target.sql      what the target has before
//	during.sql      what happens on the source while the stream runs; a line "-- part" ends what happens before the
//	                kill, a line "-- session NAME" goes on in another session, which keeps its transaction
//	want            equal (the default), "refused: TEXT" or "stopped: TEXT"
//	check           a line per text that some check item must report, as a warning or failure
//	target-fix.sql  mends the target of a stopped migration, which then has to go on to its end
//	target-last.sql what the owner of the target does before it is compared
//	after.sql       a query per line, asked of the target at the end; after.want holds the rows, joined by "|"
type caseFile struct {
	name     string
	sections map[string]string
	options  caseOptions
}

// caseOptions are the choices of a case.
type caseOptions struct {
	majors                []int // of source and target
	kind                  string
	plugins               []string
	include, exclude      []string
	encoding, locale      [2]string // of source and target
	sourceSet, targetSet  []string  // settings of the databases
	sourceRoleSet         []string  // settings of our role in the source database
	skipDump, skipRows    bool      // what the two sides may not have in common
	abortLeaves           string    // what an abort says it leaves; empty: nothing in the database
	splitBytes            int64
	killAfterMilliseconds int
}

// readCases reads every case of testdata.
func readCases(t *testing.T) []*caseFile {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases in testdata: %v", err)
	}
	var cases []*caseFile
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c := &caseFile{name: strings.TrimSuffix(filepath.Base(path), ".txtar"), sections: sections(string(text))}
		if err := c.readOptions(); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		cases = append(cases, c)
	}
	return cases
}

var knownSections = []string{
	"", "options", "source.sql", "target.sql", "during.sql", "want", "check", "target-fix.sql", "target-last.sql", "after.sql", "after.want",
}

// sections splits txtar: a line "-- NAME --" begins a section.
func sections(text string) map[string]string {
	parts, name := map[string]string{}, ""
	for line := range strings.Lines(text) {
		trimmed := strings.TrimRight(line, "\n")
		if inner, found := strings.CutPrefix(trimmed, "-- "); found && strings.HasSuffix(inner, " --") {
			name = strings.TrimSuffix(inner, " --")
			parts[name] = ""
			continue
		}
		parts[name] += line
	}
	return parts
}

func (c *caseFile) readOptions() error {
	for name := range c.sections {
		if !slices.Contains(knownSections, name) {
			return fmt.Errorf("unknown section %q", name)
		}
	}
	o := &c.options
	for line := range strings.Lines(c.sections["options"]) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		var err error
		switch key {
		case "majors":
			o.majors = make([]int, 2)
			_, err = fmt.Sscanf(value, "%d:%d", &o.majors[0], &o.majors[1])
		case "type":
			o.kind = value
		case "plugins":
			o.plugins = strings.Fields(value)
		case "include":
			o.include = append(o.include, value)
		case "exclude":
			o.exclude = append(o.exclude, value)
		case "encoding":
			o.encoding[0], o.encoding[1], _ = strings.Cut(value, ":")
		case "locale":
			o.locale[0], o.locale[1], _ = strings.Cut(value, ":")
		case "source-set":
			o.sourceSet = append(o.sourceSet, value)
		case "source-role-set":
			o.sourceRoleSet = append(o.sourceRoleSet, value)
		case "target-set":
			o.targetSet = append(o.targetSet, value)
		case "skip-dump": // with the reason
			o.skipDump = value != ""
		case "skip-rows":
			o.skipRows = value != ""
		case "abort-leaves":
			o.abortLeaves = value
		case "split":
			_, err = fmt.Sscanf(value, "%d", &o.splitBytes)
		case "kill-after-ms":
			_, err = fmt.Sscanf(value, "%d", &o.killAfterMilliseconds)
		default:
			err = fmt.Errorf("unknown option %q", key)
		}
		if err != nil {
			return err
		}
	}
	if len(o.plugins) == 0 {
		o.plugins = []string{""}
	}
	return nil
}

// want is what must happen: a verdict and, unless it is "equal", the text that has to be reported.
func (c *caseFile) want() (verdict, text string) {
	verdict, text, _ = strings.Cut(strings.TrimSpace(c.sections["want"]), ":")
	if verdict == "" {
		verdict = "equal"
	}
	return verdict, strings.TrimSpace(text)
}

// parts are the scripts of during.sql.
func (c *caseFile) parts() []string {
	script := c.sections["during.sql"]
	if strings.TrimSpace(script) == "" {
		return nil
	}
	return strings.Split(script, "\n-- part\n")
}

// step is a statement and the session that executes it.
type step struct {
	session, sql string
}

// steps splits a script into statements: one ends with a line that ends with a semicolon outside of quotes.
func steps(script string) []step {
	var all []step
	session, text := "", ""
	for line := range strings.Lines(script) {
		if name, found := strings.CutPrefix(strings.TrimSpace(line), "-- session "); found {
			session = name
			continue
		}
		text += line
		if strings.HasSuffix(strings.TrimSpace(line), ";") && !quoted(text) {
			all = append(all, step{session, text})
			text = ""
		}
	}
	if strings.TrimSpace(text) != "" {
		all = append(all, step{session, text})
	}
	return all
}

// quoted tells whether the end of an SQL text is within quotes.
func quoted(text string) bool {
	within := ""
	for i := range len(text) {
		for _, mark := range []string{"'", `"`, "$$"} {
			if (within == "" || within == mark) && strings.HasPrefix(text[i:], mark) {
				if within == "" {
					within = mark
				} else {
					within = ""
				}
				break
			}
		}
	}
	return within != ""
}
