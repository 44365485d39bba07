//go:build !race

package script_test

var raceFlag []string
