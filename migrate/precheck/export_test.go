package precheck

import (
	"context"

	"github.com/slipway-db/slipway/postgres"
)

// OutputPlugin is the check of a source with that value of output_plugin_libraries, which only releases have that
// tests cannot count on.
func OutputPlugin(value string, exists, testDecoding bool) (Result, []string) {
	r := &runner{source: &server{version: 150020, settings: map[string]setting{}}}
	r.TestDecoding = testDecoding
	if exists {
		r.source.settings["output_plugin_libraries"] = setting{Value: value}
	}
	f := &finding{result: Passed}
	if err := r.outputPlugin(context.Background(), f); err != nil {
		return Failed, []string{err.Error()}
	}
	return f.result, f.fix
}

// Minor is the check of the minor release of a source of that version.
func Minor(version postgres.Version) (Result, []string) {
	r := &runner{source: &server{version: version}}
	r.Type = FullIncremental
	f := &finding{result: Passed}
	if err := r.sourceMinor(context.Background(), f); err != nil {
		return Failed, []string{err.Error()}
	}
	return f.result, append(f.reasons, f.fix...)
}

// Standby is the check of a source in recovery of that version.
func Standby(version postgres.Version, kind Type) (Result, []string) {
	r := &runner{source: &server{version: version, recovery: true}}
	r.Type = kind
	f := &finding{result: Passed}
	if err := r.sourceRecovery(context.Background(), f); err != nil {
		return Failed, []string{err.Error()}
	}
	return f.result, f.reasons
}
