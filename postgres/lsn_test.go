package postgres_test

import (
	"fmt"
	"math/big"
	"regexp"
	"testing"

	"github.com/slipway-db/slipway/postgres"
)

func TestLSN(t *testing.T) {
	for text, want := range map[string]postgres.LSN{
		"0/0":               0,
		"0/1":               1,
		"1/0":               1 << 32,
		"16/B374D848":       0x16_B374_D848,
		"16/b374d848":       0x16_B374_D848,
		"00000016/0000000a": 0x16_0000_000A,
		"FFFFFFFF/FFFFFFFF": 1<<64 - 1,
	} {
		lsn, err := postgres.ParseLSN(text)
		if err != nil || lsn != want {
			t.Errorf("ParseLSN(%q) = %d, %v; want %d", text, lsn, err, want)
		}
	}
	for _, text := range []string{
		"", "/", "0", "0/", "/0", "0/0/0", "-1/0", "0/+1", "0x1/0", "0/1_0", "100000000/0", "0/100000000", " 0/0", "0/0 ", "0/g", "0/0\x00",
	} {
		if lsn, err := postgres.ParseLSN(text); err == nil {
			t.Errorf("ParseLSN(%q) = %d, want an error", text, lsn)
		}
	}
	if got := postgres.LSN(0x16_0000_000A).String(); got != "16/A" {
		t.Errorf("String() = %q as the server prints 16/A", got)
	}
	if a, b := postgres.LSN(10), postgres.LSN(3); a.Sub(b) != 7 || b.Sub(a) != 0 {
		t.Errorf("Sub: %d and %d", a.Sub(b), b.Sub(a))
	}
}

// What is accepted has the server's grammar and means what its digits say; what is printed is read again as the same.
func FuzzLSN(f *testing.F) {
	for _, seed := range []string{"0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "00000000/00000001", "1/-1", "g/0", "0/100000000"} {
		f.Add(seed)
	}
	grammar := regexp.MustCompile(`\A([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\z`)
	f.Fuzz(func(t *testing.T, text string) {
		lsn, err := postgres.ParseLSN(text)
		halves := grammar.FindStringSubmatch(text)
		if (err == nil) != (halves != nil) {
			t.Fatalf("ParseLSN(%q) = %v", text, err)
		}
		if err != nil {
			return
		}
		number, _ := new(big.Int).SetString(fmt.Sprintf("%s%08s", halves[1], halves[2]), 16)
		if number.Uint64() != uint64(lsn) {
			t.Fatalf("ParseLSN(%q) = %x", text, uint64(lsn))
		}
		again, err := postgres.ParseLSN(lsn.String())
		if err != nil || again != lsn {
			t.Fatalf("%q prints as %q, which reads as %s, %v", text, lsn, again, err)
		}
	})
}
