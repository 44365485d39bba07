package script_test

import (
	"testing"
)

// TestUsage_OneLineAndCode2 gives the program what it can refuse without a server.
func TestUsage_OneLineAndCode2(t *testing.T) {
	t.Parallel()
	const source, target = "postgres://me:s3cret-word@127.0.0.1:1/app", "postgres://me@127.0.0.1:1/app"
	both := func(command string, more ...string) []string {
		return append([]string{"migrate", command, "--source", source, "--target", target}, more...)
	}
	for name, c := range map[string]struct {
		arguments []string
		says      string
	}{
		"unknown command":          {[]string{"migrat"}, `unknown command "migrat" for "slipway"`},
		"unknown subcommand":       {[]string{"migrate", "rum"}, `unknown command "rum" for "slipway migrate"`},
		"unknown flag":             {both("run", "--jbos", "3"), "unknown flag: --jbos"},
		"flag of another command":  {both("check", "--yes"), "unknown flag: --yes"},
		"flag without value":       {both("run", "--jobs"), "flag needs an argument: --jobs"},
		"stray argument":           {both("run", "extra"), `unexpected argument "extra"`},
		"no source":                {[]string{"migrate", "run", "--target", target}, "--source is missing"},
		"no target":                {[]string{"migrate", "status"}, "--target is missing"},
		"unknown type":             {both("run", "--type", "fulll"), `--type: unknown migration type "fulll": want structure, full or full+incremental`},
		"unknown output":           {both("check", "--output", "yaml"), `--output: unknown value "yaml": want text or json`},
		"unknown object error":     {both("run", "--on-object-error", "skip"), `--on-object-error: unknown value "skip"`},
		"unknown plugin":           {both("run", "--plugin", "wal2json"), `--plugin: unknown value "wal2json"`},
		"unknown mode":             {both("compare", "--mode", "quick"), `unknown mode "quick": want full, sample, rows or structure`},
		"sample rate of 0":         {both("compare", "--mode", "sample", "--sample-rate", "0"), "sample rate 0"},
		"threads":                  {both("compare", "--threads", "99"), "threads 99: want 1 to 8"},
		"jobs not a number":        {both("run", "--jobs", "many"), `invalid argument "many" for "--jobs"`},
		"jobs below 1":             {both("run", "--jobs", "-1"), "jobs: want a number from 1 to 128"},
		"rows per second negative": {both("run", "--max-rows-per-second", "-5"), "max rows per second"},
		"malformed pattern":        {both("run", "--include", `"open`), "--include"},
		"empty pattern":            {both("run", "--exclude", ""), "--exclude"},
		"pattern and all":          {both("run", "--all-databases", "--include", "a.*"), "exclude each other"},
		"all and some databases":   {both("run", "--all-databases", "--database", "app"), "--database and --all-databases exclude each other"},
		"database without name":    {both("run", "--database", ":new"), `--database ":new": want NAME or NAME:NEWNAME`},
		"two into one":             {both("run", "--database", "a:x", "--database", "b:x"), "would both become x"},
		"neither URI nor pairs":    {[]string{"migrate", "run", "--source", "my s3cret-word", "--target", target}, "--source: connection string is neither a URI"},
		"malformed percent":        {[]string{"migrate", "run", "--source", "postgres://me:s3cret-word%zz@h/app", "--target", target}, "--source: connection URI: password is not percent-encoded correctly"},
		"malformed port":           {[]string{"migrate", "run", "--source", "postgres://me:s3cret-word@h:54x32/app", "--target", target}, "--source: connection parameters: invalid port"},
		"unknown sslmode":          {[]string{"migrate", "run", "--source", "postgres://me:s3cret-word@h/app?sslmode=perhaps", "--target", target}, "--source"},
		"unknown parameter":        {[]string{"migrate", "run", "--source", "postgres://me:s3cret-word@h/app?colour=red", "--target", target}, `--source: connection parameter "colour" is not supported`},
		"another scheme":           {[]string{"migrate", "run", "--source", "mysql://me:s3cret-word@h/app", "--target", target}, "--source"},
		"open quote":               {[]string{"migrate", "run", "--source", "host=h password='s3cret-word", "--target", target}, "missing closing quote"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newShell(t).run(t, c.arguments...).want(t, usage, c.says, "See slipway --help").without(t, "s3cret-word")
			if o.stdout != "" {
				t.Errorf("usage errors belong to standard error: %v", o)
			}
		})
	}
}

// TestHelp_SaysTheExitCodes keeps the table of exit codes where a user looks for it.
func TestHelp_SaysTheExitCodes(t *testing.T) {
	t.Parallel()
	for _, arguments := range [][]string{{"--help"}, {"migrate", "--help"}, {"migrate", "run", "--help"}, {"migrate", "complete", "--help"}} {
		newShell(t).run(t, arguments...).want(t, done, "Exit codes:", "5  stopped on request")
	}
	newShell(t).run(t, "--version").want(t, done, "slipway version ")
}
