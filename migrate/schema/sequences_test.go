package schema_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/slipway-db/slipway/migrate/schema"
	"github.com/slipway-db/slipway/pgtest"
)

const sequenceKinds = `
CREATE SCHEMA "s ""p""";
CREATE SEQUENCE fresh;
CREATE SEQUENCE fresh_from START 42;
CREATE SEQUENCE called;
CREATE SEQUENCE set_not_called;
CREATE SEQUENCE down INCREMENT -5 MINVALUE -9223372036854775808 MAXVALUE -1;
CREATE SEQUENCE at_max AS smallint;
CREATE SEQUENCE big_max;
CREATE SEQUENCE big_min INCREMENT -1 MINVALUE -9223372036854775808 MAXVALUE 0;
CREATE SEQUENCE cached CACHE 20;
CREATE SEQUENCE cycling MAXVALUE 3 CYCLE;
CREATE SEQUENCE "s ""p"""."od'd %d . name";
CREATE TABLE with_identity (id bigint GENERATED ALWAYS AS IDENTITY);
`

const sequenceMoves = `
SELECT nextval('called') FROM generate_series(1, 7);
SELECT setval('set_not_called', 99, false);
SELECT nextval('down') FROM generate_series(1, 3);
SELECT setval('at_max', 32767, true);
SELECT setval('big_max', 9223372036854775807);
SELECT setval('big_min', -9223372036854775808);
SELECT nextval('cached');
SELECT nextval('cycling') FROM generate_series(1, 4);
SELECT nextval('"s ""p"""."od''d %d . name"');
INSERT INTO with_identity DEFAULT VALUES;
`

func sequenceValues(t *testing.T, d *pgtest.Database) []schema.SequenceValue {
	t.Helper()
	var sequences []schema.Name
	for _, s := range load(t, d, schema.Selection{}).Sequences {
		sequences = append(sequences, s.Name)
	}
	values, err := schema.ReadSequenceValues(context.Background(), connect(t, d), sequences)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// TestSequenceValues_NextIsTheSame proves what matters to a user: after the move both sides give out the same next
// value, or refuse with the same limit.
func TestSequenceValues_NextIsTheSame(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	pair.Source.Exec(t, sequenceKinds, sequenceMoves)
	pair.Target.Exec(t, sequenceKinds)
	values := sequenceValues(t, pair.Source)
	if len(values) != 12 {
		t.Fatalf("%d sequences, want 12: %v", len(values), values)
	}
	byName := map[string]schema.SequenceValue{}
	for _, v := range values {
		byName[v.Name.Name] = v
	}
	public := func(name string, last int64, called bool) schema.SequenceValue {
		return schema.SequenceValue{Name: schema.Name{Schema: "public", Name: name}, LastValue: last, IsCalled: called}
	}
	for _, want := range []schema.SequenceValue{
		public("fresh", 1, false), public("fresh_from", 42, false), public("set_not_called", 99, false),
		public("down", -11, true), public("at_max", 32767, true), public("big_max", math.MaxInt64, true),
		public("big_min", math.MinInt64, true), public("cached", 20, true), public("cycling", 1, true),
	} {
		equal(t, want.Name.Name, byName[want.Name.Name], want)
	}
	if err := schema.SetSequenceValues(context.Background(), connect(t, pair.Target), values); err != nil {
		t.Fatal(err)
	}
	equal(t, "values on the target", sequenceValues(t, pair.Target), values)
	for _, name := range []string{"fresh", "fresh_from", "called", "set_not_called", "down", "cycling", `"s ""p"""."od''d %d . name"`} {
		sql := "SELECT nextval('" + name + "')"
		equal(t, "next of "+name, pair.Target.Int(t, sql), pair.Source.Int(t, sql))
	}
}

// TestSequenceValues_MoreThanOneChunk also proves that the order is that of the question.
func TestSequenceValues_MoreThanOneChunk(t *testing.T) {
	t.Parallel()
	const count = 1003
	pair := pgtest.NewPair(t)
	var create strings.Builder
	for i := range count {
		fmt.Fprintf(&create, "CREATE SEQUENCE s%d START %d;", i, i+1)
	}
	pair.Source.Exec(t, create.String())
	var sequences []schema.Name
	for i := range count {
		sequences = append(sequences, schema.Name{Schema: "public", Name: fmt.Sprintf("s%d", count-1-i)})
	}
	conn := connect(t, pair.Source)
	values, err := schema.ReadSequenceValues(context.Background(), conn, sequences)
	if err != nil {
		t.Fatal(err)
	}
	for i := range values {
		if values[i].Name != sequences[i] || values[i].LastValue != int64(count-i) {
			t.Fatalf("value %d is %+v", i, values[i])
		}
		values[i].LastValue, values[i].IsCalled = int64(i)+5000, true
	}
	if err := schema.SetSequenceValues(context.Background(), conn, values); err != nil {
		t.Fatal(err)
	}
	again, err := schema.ReadSequenceValues(context.Background(), conn, sequences)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "values", again, values)
}

func TestSequenceValues_ErrorsNameTheSequence(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t)
	pair.Target.Exec(t, "CREATE SEQUENCE small MAXVALUE 10; CREATE SEQUENCE fine")
	conn := connect(t, pair.Target)
	gone := schema.Name{Schema: "public", Name: "gone"}
	_, err := schema.ReadSequenceValues(context.Background(), conn, []schema.Name{gone})
	if err == nil || !strings.Contains(err.Error(), "public.gone") {
		t.Errorf("missing sequence: %v", err)
	}
	err = schema.SetSequenceValues(context.Background(), conn, []schema.SequenceValue{
		{Name: schema.Name{Schema: "public", Name: "fine"}, LastValue: 5},
		{Name: schema.Name{Schema: "public", Name: "small"}, LastValue: 11},
	})
	if err == nil || !strings.Contains(err.Error(), "public.small") {
		t.Errorf("value out of bounds: %v", err)
	}
	if values, err := schema.ReadSequenceValues(context.Background(), conn, nil); err != nil || len(values) != 0 {
		t.Errorf("no sequences: %v, %v", values, err)
	}
}
