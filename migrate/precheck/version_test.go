package precheck_test

import (
	"strings"
	"testing"

	"github.com/slipway-db/slipway/migrate/precheck"
	"github.com/slipway-db/slipway/postgres"
)

// TestMinor_KnownLosses knows from the release notes which minor of each major mended what.
func TestMinor_KnownLosses(t *testing.T) {
	for _, c := range []struct {
		version postgres.Version
		result  precheck.Result
		says    []string
		silent  []string
	}{
		{150020, precheck.Passed, nil, nil},
		{150013, precheck.Warning, []string{"before 15.14", "before 15.20", "postgresql-15 # to 15.20"}, []string{"before 15.13"}},
		{150012, precheck.Warning, []string{"before 15.13 changes are lost"}, nil},
		{170004, precheck.Warning, []string{"before 17.5 changes are lost", "17.12"}, nil},
		{170012, precheck.Passed, nil, nil},
		{160008, precheck.Warning, []string{"before 16.9 changes are lost"}, nil},
		{140017, precheck.Warning, []string{"before 14.18 changes are lost", "14.25"}, nil},
		{130020, precheck.Warning, []string{"before 13.21 changes are lost", "no release of 13", "--type full"}, nil},
		{120022, precheck.Warning, []string{"no release of 12 mends: changes are lost"}, []string{"position from which a slot restarts", "its first part"}},
		{90624, precheck.Warning, []string{"no release of 9.6 mends: changes are lost"}, []string{"NULL"}},
		{180006, precheck.Passed, nil, nil},
		{190000, precheck.Passed, nil, nil},
	} {
		result, texts := precheck.Minor(c.version)
		all := strings.Join(texts, "\n")
		if result != c.result {
			t.Errorf("%s is %s instead of %s: %s", c.version, result, c.result, all)
		}
		for _, text := range c.says {
			if !strings.Contains(all, text) {
				t.Errorf("%s does not say %q:\n%s", c.version, text, all)
			}
		}
		for _, text := range c.silent {
			if strings.Contains(all, text) {
				t.Errorf("%s says %q:\n%s", c.version, text, all)
			}
		}
	}
}

func TestStandby_ByVersion(t *testing.T) {
	for _, c := range []struct {
		version postgres.Version
		kind    precheck.Type
		result  precheck.Result
	}{
		{150020, precheck.FullIncremental, precheck.Failed}, // no decoding on a standby
		{160016, precheck.FullIncremental, precheck.Warning},
		{160015, precheck.FullIncremental, precheck.Failed}, // exports wrong snapshots
		{160015, precheck.Full, precheck.Warning},
		{160016, precheck.Structure, precheck.Passed},
	} {
		if result, reasons := precheck.Standby(c.version, c.kind); result != c.result {
			t.Errorf("%s %s is %s instead of %s: %q", c.version, c.kind, result, c.result, reasons)
		}
	}
}

func TestOutputPlugin(t *testing.T) {
	for _, c := range []struct {
		value                string
		exists, testDecoding bool
		result               precheck.Result
		fix                  string
	}{
		{"", false, false, precheck.Passed, ""},
		{"pgoutput, test_decoding", true, false, precheck.Passed, ""},
		{`wal2json,"pgoutput"`, true, false, precheck.Passed, ""},
		{"pgoutput", true, true, precheck.Failed, `output_plugin_libraries = "pgoutput", "test_decoding";`},
		{"", true, false, precheck.Failed, `output_plugin_libraries = "pgoutput";`},
		{`"Odd ""name"`, true, false, precheck.Failed, `output_plugin_libraries = "Odd ""name", "pgoutput";`},
	} {
		result, fix := precheck.OutputPlugin(c.value, c.exists, c.testDecoding)
		if result != c.result || !strings.Contains(strings.Join(fix, "\n"), c.fix) {
			t.Errorf("%q: %s %q", c.value, result, fix)
		}
	}
}
