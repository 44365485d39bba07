package repotest_test

import (
	"bytes"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Ceilings of a file and of a function, in lines. Code near them should be split by what it is about.
const (
	maxFileLines     = 600
	maxFunctionLines = 120
)

func TestSizes(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if s.isTest || ast.IsGenerated(s.file) {
			continue
		}
		if n := s.fset.File(s.file.Pos()).LineCount(); n > maxFileLines {
			t.Errorf("%s has %d lines, more than %d", s.path, n, maxFileLines)
		}
		for _, declaration := range s.file.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			if ok && s.lines(function) > maxFunctionLines {
				t.Errorf("%s: %s has %d lines, more than %d", s.at(function), function.Name.Name, s.lines(function), maxFunctionLines)
			}
		}
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	t.Parallel()
	documented, first := map[string]int{}, map[string]string{}
	for _, s := range sources(t) {
		if s.isTest {
			continue
		}
		if first[s.dir] == "" {
			first[s.dir] = s.path
		}
		if s.file.Doc != nil {
			documented[s.dir]++
		}
	}
	for dir, path := range first {
		if n := documented[dir]; n != 1 {
			t.Errorf("package of %s has %d package comments instead of one", path, n)
		}
	}
}

func TestEveryExportedNameHasAComment(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if s.isTest || s.file.Name.Name == "main" || ast.IsGenerated(s.file) {
			continue
		}
		for _, declaration := range s.file.Decls {
			switch d := declaration.(type) {
			case *ast.FuncDecl:
				if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
					t.Errorf("%s: %s has no comment", s.at(d), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, name := range undocumented(d) {
					t.Errorf("%s: %s has no comment", s.at(d), name)
				}
			}
		}
	}
}

// exportedReceiver is true for functions and for methods that users of the package can see.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	for {
		switch t := typ.(type) {
		case *ast.StarExpr:
			typ = t.X
		case *ast.IndexExpr:
			typ = t.X
		case *ast.IndexListExpr:
			typ = t.X
		case *ast.Ident:
			return t.IsExported()
		default:
			return true
		}
	}
}

// undocumented lists exported types, constants and variables without a comment of their own or of their group.
func undocumented(d *ast.GenDecl) []string {
	var names []string
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.Doc == nil && s.Comment == nil && (d.Doc == nil || d.Lparen.IsValid()) {
				names = append(names, s.Name.Name)
			}
		case *ast.ValueSpec:
			for _, name := range s.Names {
				if name.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
					names = append(names, name.Name)
				}
			}
		}
	}
	return names
}

// A test that sleeps is slow on a fast machine and wrong on a slow one; tests poll a condition with a deadline.
func TestNoSleepInTests(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if !s.isTest {
			continue
		}
		ast.Inspect(s.file, func(node ast.Node) bool {
			selector, ok := node.(*ast.SelectorExpr)
			if !ok || selector.Sel.Name != "Sleep" {
				return true
			}
			if name, ok := selector.X.(*ast.Ident); ok && name.Name == "time" {
				t.Errorf("%s: a test sleeps", s.at(selector))
			}
			return true
		})
	}
}

// Open work belongs to the issues; a mark in the code must name the one it belongs to.
var unfinished = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b(\(#\d+\):)?`)

func TestNoUnfinishedMarks(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		for _, group := range s.file.Comments {
			for _, m := range unfinished.FindAllStringSubmatch(group.Text(), -1) {
				if m[1] != "TODO" || m[2] == "" {
					t.Errorf("%s: %s without an issue", s.at(group), m[1])
				}
			}
		}
	}
}

// machinePath matches directories of the machines on which people work, which mean nothing to anybody else.
var machinePath = regexp.MustCompile(`(?m)(^|[^\w.$}/*-])/(work|root|home)/\w`)

func TestNoMachinePaths(t *testing.T) {
	t.Parallel()
	for _, name := range files(t) {
		content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if os.IsNotExist(err) {
			continue // deleted and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(content, 0) >= 0 {
			continue // not text
		}
		for _, at := range machinePath.FindAllIndex(content, -1) {
			line := 1 + bytes.Count(content[:at[0]], []byte("\n"))
			t.Errorf("%s:%d names a directory of one machine: %q", name, line, strings.TrimSpace(string(content[at[0]:at[1]])))
		}
	}
}
