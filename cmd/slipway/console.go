package main

import (
	"os"
	"strings"
	"sync"

	tea "github.com/charmbracelet/bubbletea"
)

// console is standard error, which a live panel may have for a while: what others write then appears above it.
type console struct {
	file *os.File

	mu    sync.Mutex
	panel *tea.Program // nil when there is none
}

// Write prints whole lines.
func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.panel == nil {
		return c.file.Write(b)
	}
	c.panel.Println(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// show gives the console to a panel, or back with nil.
func (c *console) show(panel *tea.Program) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.panel = panel
}
