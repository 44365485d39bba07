package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in a server's write-ahead log, in bytes since its beginning.
type LSN uint64

// ParseLSN reads the form that the server prints, two hexadecimal halves: "16/B374D848".
func ParseLSN(s string) (LSN, error) {
	high, low, found := strings.Cut(s, "/")
	if !found || len(high) == 0 || len(high) > 8 || len(low) == 0 || len(low) > 8 {
		return 0, fmt.Errorf("invalid LSN %q: want two hexadecimal halves such as 16/B374D848", s)
	}
	h, err := parseHalf(high)
	if err != nil {
		return 0, fmt.Errorf("invalid LSN %q: %w", s, err)
	}
	l, err := parseHalf(low)
	if err != nil {
		return 0, fmt.Errorf("invalid LSN %q: %w", s, err)
	}
	return LSN(h<<32 | l), nil
}

// parseHalf rejects the signs that strconv would take.
func parseHalf(s string) (uint64, error) {
	if s[0] == '+' || s[0] == '-' {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(s, 16, 32)
}

// String prints the LSN as the server does.
func (l LSN) String() string {
	return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l))
}

// MarshalText and UnmarshalText make an LSN readable in JSON.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (l *LSN) UnmarshalText(text []byte) error {
	parsed, err := ParseLSN(string(text))
	if err != nil {
		return err
	}
	*l = parsed
	return nil
}

// Scan reads a text column, so that queries select lsn::text and need no type registration.
func (l *LSN) Scan(src any) error {
	switch v := src.(type) {
	case string:
		return l.UnmarshalText([]byte(v))
	case []byte:
		return l.UnmarshalText(v)
	case nil:
		*l = 0
		return nil
	}
	return fmt.Errorf("cannot read an LSN from %T", src)
}

// Sub is the distance in bytes from other to l, 0 when l is not ahead.
func (l LSN) Sub(other LSN) int64 {
	if l <= other {
		return 0
	}
	return int64(l - other)
}
