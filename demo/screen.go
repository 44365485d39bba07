package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/charmbracelet/x/term"
)

// screen is where the demo tells its story.
type screen struct {
	file     *os.File
	terminal bool

	mu   sync.Mutex
	held *bytes.Buffer // nil when lines go out at once
}

func newScreen(file *os.File) *screen {
	return &screen{file: file, terminal: term.IsTerminal(file.Fd())}
}

// hold keeps our lines back on a terminal, where slipway's live panel has the screen until release.
func (s *screen) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.terminal && s.held == nil {
		s.held = &bytes.Buffer{}
	}
}

// release prints what was held back.
func (s *screen) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil {
		_, _ = s.held.WriteTo(s.file) // nobody is left to tell
		s.held = nil
	}
}

// line prints one line. Nothing can be done about a screen that is gone, so errors of writing are not looked at.
func (s *screen) line(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out io.Writer = s.file
	if s.held != nil {
		out = s.held
	}
	_, _ = fmt.Fprintf(out, format+"\n", args...)
}

func (s *screen) heading(title string) {
	s.line("\n%s\n%s", title, strings.Repeat("─", len([]rune(title))))
}

// command shows a command line as a person would type it.
func (s *screen) command(args []string) {
	var b strings.Builder
	b.WriteString("$")
	for i, a := range args {
		if a == "--target" && i > 0 && args[i-2] == "--source" {
			b.WriteString(" \\\n     ")
		}
		b.WriteString(" " + a)
	}
	s.line("%s", b.String())
}

// output shows what a command printed.
func (s *screen) output(text string) {
	for line := range strings.Lines(text) {
		s.line("  %s", strings.TrimRight(line, "\n"))
	}
}

// factWidth is where the text of a fact is wrapped, in characters.
const factWidth = 85

// fact prints a name and what was found, aligned.
func (s *screen) fact(name, format string, args ...any) {
	line := ""
	for word := range strings.FieldsSeq(fmt.Sprintf(format, args...)) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > factWidth {
			s.line("  %-26s %s", name, line)
			name, line = "", ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	s.line("  %-26s %s", name, line)
}

// count prints a number in groups: 1 234 567.
func count(n int64) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + " " + digits[i:]
	}
	return digits
}

// megabytes prints bytes; 1 MB is 2^20 bytes.
func megabytes(bytes int64) string { return fmt.Sprintf("%.0f MB", float64(bytes)/(1<<20)) }
