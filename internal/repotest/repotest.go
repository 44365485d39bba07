// Package repotest keeps the rules of the repository as tests: which package may import which, that everything is
// documented, sizes, and what must not be in a file.
package repotest
