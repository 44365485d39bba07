package schema_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/pgtest"
)

// archiveWriter writes what pg_dump of several versions writes.
type archiveWriter struct {
	bytes.Buffer
	minor byte
}

func (w *archiveWriter) int(n int) {
	sign := byte(0)
	if n < 0 {
		sign, n = 1, -n
	}
	w.WriteByte(sign)
	w.Write(binary.LittleEndian.AppendUint32(nil, uint32(n)))
}

func (w *archiveWriter) string(s string) {
	w.int(len(s))
	w.WriteString(s)
}

func (w *archiveWriter) null() { w.int(-1) }

func writeArchive(minor byte, entries ...*schema.Entry) []byte {
	w := &archiveWriter{minor: minor}
	w.WriteString("PGDMP")
	w.Write([]byte{1, minor, 0, 4, 8, 1})
	if minor >= 15 {
		w.WriteByte(0)
	} else {
		w.int(-1)
	}
	for _, n := range []int{59, 15, 23, 21, 10, 126, 0} {
		w.int(n)
	}
	w.string("a database")
	w.string("15.18")
	w.string("17.2")
	w.int(len(entries))
	for _, e := range entries {
		w.entry(e)
	}
	return w.Bytes()
}

func (w *archiveWriter) entry(e *schema.Entry) {
	w.int(e.ID)
	w.int(0)
	w.string(strconv.Itoa(int(e.ClassOID)))
	w.string(strconv.Itoa(int(e.OID)))
	w.string(e.Tag)
	w.string(e.Desc)
	w.int(int(e.Section))
	w.string(e.SQL)
	w.string(e.DropSQL)
	w.null()
	w.string(e.Schema)
	w.string(e.Tablespace)
	if w.minor >= 14 {
		w.string(e.TableAM)
	}
	if w.minor >= 16 {
		w.int(int(e.Relkind))
	}
	w.string(e.Owner)
	w.string("false")
	for _, id := range e.Depends {
		w.string(strconv.Itoa(id))
	}
	w.null()
	w.WriteByte(3)
	w.Write(make([]byte, 8))
}

func sampleEntries(minor byte) []*schema.Entry {
	table := &schema.Entry{
		ID: 7, ClassOID: 1259, OID: 1<<32 - 1, Desc: "TABLE", Tag: "odd \"\n%", Schema: "app", Owner: "o",
		Tablespace: "fast", Section: schema.SectionPreData, SQL: "CREATE TABLE …;\n", DropSQL: "DROP TABLE …;\n",
	}
	if minor >= 14 {
		table.TableAM = "heap"
	}
	if minor >= 16 {
		table.Relkind = schema.Partitioned
	}
	return []*schema.Entry{table, {ID: 8, Desc: "COMMENT", Tag: "TABLE odd", Section: schema.SectionNone, Depends: []int{7, 9}}}
}

func TestReadArchive_Formats(t *testing.T) {
	for _, minor := range []byte{12, 13, 14, 15, 16} {
		archive, err := schema.ReadArchive(bytes.NewReader(writeArchive(minor, sampleEntries(minor)...)))
		if err != nil {
			t.Fatalf("1.%d: %v", minor, err)
		}
		if diff := cmp.Diff(sampleEntries(minor), archive.Entries, cmpopts.IgnoreUnexported(schema.Entry{})); diff != "" {
			t.Errorf("1.%d: want - got +:\n%s", minor, diff)
		}
		if archive.ServerVersion != "15.18" || archive.DumpVersion != "17.2" {
			t.Errorf("1.%d: versions %q and %q", minor, archive.ServerVersion, archive.DumpVersion)
		}
	}
}

// TestReadArchive_Truncated proves that no prefix of an archive is taken for a whole one.
func TestReadArchive_Truncated(t *testing.T) {
	whole := writeArchive(16, sampleEntries(16)...)
	for n := range whole {
		if _, err := schema.ReadArchive(bytes.NewReader(whole[:n])); !errors.Is(err, schema.ErrArchive) {
			t.Fatalf("first %d of %d bytes: error %v", n, len(whole), err)
		}
	}
}

func TestReadArchive_Refuses(t *testing.T) {
	change := func(offset int, value ...byte) []byte {
		archive := writeArchive(14, sampleEntries(14)...)
		copy(archive[offset:], value)
		return archive
	}
	for name, archive := range map[string][]byte{
		"text":               []byte("CREATE TABLE t ();"),
		"version 2":          change(5, 2),
		"version 1.11":       change(6, 11),
		"version 1.17":       change(6, 17),
		"integer size":       change(8, 33),
		"offset size":        change(9, 0),
		"directory format":   change(10, 5),
		"long database name": change(51, 0, 0xff, 0xff, 0xff, 0x7f),
	} {
		if _, err := schema.ReadArchive(bytes.NewReader(archive)); !errors.Is(err, schema.ErrArchive) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func FuzzReadArchive(f *testing.F) {
	for _, minor := range []byte{12, 14, 15, 16} {
		f.Add(writeArchive(minor, sampleEntries(minor)...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		archive, err := schema.ReadArchive(bytes.NewReader(data))
		if err != nil {
			return
		}
		keys := map[string]bool{}
		for _, e := range archive.Entries {
			if keys[e.Key()] {
				t.Errorf("key %q twice", e.Key())
			}
			keys[e.Key()] = true
		}
		// A plan of whatever was read must not panic; an archive of a strange session is an error.
		if _, err := archive.Plan(schema.PlanOptions{}); err != nil && !strings.HasPrefix(err.Error(), "archive wants") {
			t.Error(err)
		}
	})
}

// TestDump_Snapshot proves that the dump sees the snapshot and not what came later.
func TestDump_Snapshot(t *testing.T) {
	source := pgtest.NewPair(t).Source
	source.Exec(t, `CREATE TABLE before (id int)`)
	conn := source.Connect(t)
	if _, err := conn.Exec(t.Context(), `BEGIN ISOLATION LEVEL REPEATABLE READ`); err != nil {
		t.Fatal(err)
	}
	var snapshot string
	if err := conn.QueryRow(t.Context(), `SELECT pg_export_snapshot()`).Scan(&snapshot); err != nil {
		t.Fatal(err)
	}
	source.Exec(t, `CREATE TABLE after (id int)`)
	archive, err := schema.Dump(t.Context(), schema.DumpOptions{
		Tool: pgDump(t, major(t, source)).Path, Source: source.Endpoint(), Snapshot: snapshot,
	})
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	for _, e := range archive.Entries {
		if e.Desc == "TABLE" {
			tables = append(tables, e.String())
		}
	}
	if diff := cmp.Diff([]string{"TABLE public.before"}, tables); diff != "" {
		t.Errorf("want - got +:\n%s", diff)
	}
	again, err := schema.ReadArchive(bytes.NewReader(archive.Raw))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(archive.Entries, again.Entries, cmp.AllowUnexported(schema.Entry{})); diff != "" {
		t.Errorf("read again from Raw, want - got +:\n%s", diff)
	}
}

func TestDump_Errors(t *testing.T) {
	source := pgtest.NewPair(t).Source
	tool := pgDump(t, major(t, source)).Path
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stopped by the user"))
	for name, c := range map[string]struct {
		ctx     context.Context
		options schema.DumpOptions
		want    string
	}{
		"no database": {t.Context(), schema.DumpOptions{Tool: tool, Source: source.Endpoint().WithDatabase("not there")}, `database "not there" does not exist`},
		"no snapshot": {t.Context(), schema.DumpOptions{Tool: tool, Source: source.Endpoint(), Snapshot: "00000003-0000001B-1"}, "invalid snapshot identifier"},
		"no tool":     {t.Context(), schema.DumpOptions{Tool: tool + "-missing", Source: source.Endpoint()}, "no such file"},
		"cancelled":   {cancelled, schema.DumpOptions{Tool: tool, Source: source.Endpoint()}, "stopped by the user"},
	} {
		if _, err := schema.Dump(c.ctx, c.options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
	}
}
