package stream_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/slipway-db/slipway/migrate/stream"
	"github.com/slipway-db/slipway/postgres"
)

var recordAnew = flag.Bool("record", false, "record the streams in testdata anew from a server")

// A recorded stream is a sequence of messages: position (8 bytes), length (4 bytes), body.

func splitMessages(data []byte) []stream.Message {
	var messages []stream.Message
	for len(data) >= 12 {
		lsn, n := postgres.LSN(binary.BigEndian.Uint64(data)), int(binary.BigEndian.Uint32(data[8:]))
		data = data[12:]
		n = min(n, len(data))
		messages = append(messages, stream.Message{LSN: lsn, Body: data[:n]})
		data = data[n:]
	}
	return messages
}

var recordings = []struct {
	file    string
	plugin  stream.Plugin
	options string
}{
	{"pgoutput.stream", stream.Pgoutput, `'proto_version', '1', 'publication_names', 'recorded'`},
	{"pgoutput-streamed.stream", stream.Pgoutput, `'proto_version', '2', 'publication_names', 'recorded', 'streaming', 'on'`},
	{"test_decoding.stream", stream.TestDecoding, `'include-xids', 'on', 'include-timestamp', 'on', 'skip-empty-xacts', 'on'`},
}

// recordStreams writes testdata: go test -run TestRecordedStreams -record.
func recordStreams(t *testing.T) {
	db := smallMemory(t)
	db.Exec(t, everyChangeTables, oddTypes, `CREATE PUBLICATION recorded FOR ALL TABLES`)
	for i, r := range recordings {
		db.Exec(t, `SELECT pg_create_logical_replication_slot('recorded_`+string(rune('a'+i))+`', '`+string(r.plugin)+`')`)
	}
	db.Exec(t, everyChange...)
	db.Exec(t, oddTypeChanges[:len(oddTypeChanges)-1]...)
	db.Exec(t, `BEGIN; INSERT INTO dropped SELECT i, 'x' FROM generate_series(1000, 1500) AS i; SAVEPOINT a;
		INSERT INTO dropped SELECT -i, 'x' FROM generate_series(1000, 1500) AS i; ROLLBACK TO a; DELETE FROM dropped WHERE c > 20; COMMIT`,
		`BEGIN; INSERT INTO dropped SELECT i, 'x' FROM generate_series(1000, 1900) AS i; ROLLBACK`)
	conn := connect(t, db)
	for i, r := range recordings {
		rows, err := conn.Query(t.Context(), `SELECT lsn::text, data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, `+r.options+`)`,
			"recorded_"+string(rune('a'+i)))
		must(t, err)
		var out []byte
		for rows.Next() {
			var lsn postgres.LSN
			var body []byte
			must(t, rows.Scan(&lsn, &body))
			out = joinMessage(out, stream.Message{LSN: lsn, Body: body})
		}
		must(t, rows.Err())
		must(t, os.WriteFile(filepath.Join("testdata", r.file), out, 0o644))
	}
}

// The recorded streams are the seeds of the fuzz targets, so they have to be understood to the end.
func TestRecordedStreams(t *testing.T) {
	if *recordAnew {
		recordStreams(t)
	}
	for _, r := range recordings {
		events, err := stream.Decode(r.plugin, t.TempDir(), 'f', splitMessages(seed(t, r.file)))
		if err != nil {
			t.Errorf("%s: %v", r.file, err)
		}
		if len(events) < 1000 {
			t.Errorf("%s: only %d events", r.file, len(events))
		}
		wellFormed(t, events)
	}
}

func seed(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// wellFormed checks what every consumer relies on.
func wellFormed(t *testing.T, events []stream.Event) {
	t.Helper()
	inside, last := false, postgres.LSN(0)
	for _, e := range events {
		switch e.Kind {
		case stream.Begin, stream.Position:
			if inside {
				t.Fatalf("%c inside a transaction", e.Kind)
			}
			inside = e.Kind == stream.Begin
		case stream.Commit:
			if !inside || e.LSN <= last {
				t.Fatalf("commit at %s after %s, inside a transaction: %v", e.LSN, last, inside)
			}
			inside, last = false, e.LSN
		case stream.Insert, stream.Update, stream.Delete:
			if !inside || e.Relation == nil {
				t.Fatalf("%c without transaction or relation", e.Kind)
			}
			for _, tuple := range []*stream.Tuple{e.New, e.Old} {
				if tuple != nil && len(tuple.Values) != len(e.Relation.Columns) {
					t.Fatalf("%d values for %d columns", len(tuple.Values), len(e.Relation.Columns))
				}
			}
			if (e.Kind == stream.Delete) == (e.New != nil) || e.Kind == stream.Delete && e.Old == nil || e.Kind == stream.Insert && e.Old != nil {
				t.Fatalf("%c with new row %v, old row %v", e.Kind, e.New, e.Old)
			}
		case stream.Truncate:
			for _, r := range e.Relations {
				if r == nil {
					t.Fatal("truncate of no relation")
				}
			}
		default:
			t.Fatalf("event of kind %q", e.Kind)
		}
		if e.Size <= 0 {
			t.Fatal("an event without size")
		}
	}
}

// smallSeeds cuts a recorded stream into transactions, each with the descriptions it needs, and shortens the blocks of
// streamed ones: the fuzzer is good at small inputs only.
func smallSeeds(plugin stream.Plugin, data []byte) [][]byte {
	var seeds [][]byte
	var current, descriptions []byte
	described := map[string]bool{}
	inBlock := 0
	for _, m := range splitMessages(data) {
		kind := m.Body[0]
		text := plugin == stream.TestDecoding
		switch {
		case text:
		case kind == 'S':
			inBlock = 1
		case kind == 'E':
			inBlock = 0
		case inBlock > 0 && kind != 'R':
			if inBlock++; inBlock > 4 {
				continue
			}
		case kind == 'R' && inBlock == 0:
			if !described[string(m.Body)] {
				described[string(m.Body)] = true
				descriptions = joinMessage(descriptions, m)
			}
		}
		current = joinMessage(current, m)
		if kind == 'C' || !text && (kind == 'c' || kind == 'A') {
			seeds = append(seeds, append(bytes.Clone(descriptions), current...))
			current = nil
		}
	}
	return slices.DeleteFunc(seeds, func(s []byte) bool { return len(s) > 8<<10 })
}

func joinMessage(data []byte, m stream.Message) []byte {
	data = binary.BigEndian.AppendUint64(data, uint64(m.LSN))
	data = binary.BigEndian.AppendUint32(data, uint32(len(m.Body)))
	return append(data, m.Body...)
}

// Whatever a server sends, decoding ends in events as promised and in nothing but ErrProtocol.
func fuzzDecoder(f *testing.F, plugin stream.Plugin) {
	for _, r := range recordings {
		if r.plugin != plugin {
			continue
		}
		for i, data := range smallSeeds(plugin, seed(f, r.file)) {
			f.Add(data, "dfin"[i%4])
		}
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, identity byte) {
		events, err := stream.Decode(plugin, dir, identity, splitMessages(data))
		if err != nil && !errors.Is(err, stream.ErrProtocol) && !errors.Is(err, stream.ErrNoIdentity) {
			t.Fatal(err)
		}
		wellFormed(t, events)
	})
}

func FuzzPgoutput(f *testing.F) { fuzzDecoder(f, stream.Pgoutput) }

func FuzzTestDecoding(f *testing.F) { fuzzDecoder(f, stream.TestDecoding) }
