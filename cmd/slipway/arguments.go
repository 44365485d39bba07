package main

import (
	"os"
	"strings"
	"unsafe"

	"github.com/slipway-db/slipway/postgres"
)

// takeArguments copies the command line and then blots out every connection string in it that holds a password, in
// the memory that the kernel shows as this process's command line. A password given as an argument is therefore
// visible in process lists only until this line has run; SLIPWAY_SOURCE, SLIPWAY_TARGET, .pgpass and PGPASSWORD never
// are.
func takeArguments() []string {
	arguments := make([]string, 0, len(os.Args))
	for _, a := range os.Args[1:] {
		arguments = append(arguments, strings.Clone(a))
	}
	for i := 1; i < len(os.Args); i++ {
		value := os.Args[i]
		if _, after, isFlag := strings.Cut(value, "="); isFlag && strings.HasPrefix(value, "--") {
			value = after
		}
		if e, err := postgres.ParseEndpoint(strings.Clone(value)); err == nil && e.HasPassword() {
			blot(value, e.String())
		}
	}
	return arguments
}

// blot writes the replacement over the bytes of an argument and fills the rest with spaces. The strings of os.Args
// are not copied by the runtime: they are the kernel's own block.
func blot(argument, replacement string) {
	memory := unsafe.Slice(unsafe.StringData(argument), len(argument))
	n := copy(memory, replacement)
	for i := n; i < len(memory); i++ {
		memory[i] = ' '
	}
}
