package postgres

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// The connection parameters of libpq (PostgreSQL 18 documentation, "Parameter Key Words") by what becomes of them here.
var (
	// passedOn are understood by the driver as libpq understands them.
	passedOn = []string{
		"host", "port", "dbname", "user", "password", "passfile", "connect_timeout", "sslmode", "sslkey",
		"sslcert", "sslcertmode", "sslrootcert", "sslnegotiation", "sslpassword", "sslsni", "krbspn", "krbsrvname",
		"target_session_attrs", "service", "servicefile", "min_protocol_version", "max_protocol_version",
		"channel_binding", "require_auth", "options", "application_name",
	}
	// withoutEffect may stand in a URI that also serves other programs: they change nothing about which server
	// answers or how it is authenticated.
	withoutEffect = []string{
		"client_encoding", "fallback_application_name", "keepalives", "keepalives_idle", "keepalives_interval",
		"keepalives_count", "tcp_user_timeout", "gssencmode", "gsslib", "gssdelegation", "sslcompression",
		"load_balance_hosts",
	}
)

// parseDSN reads a connection URI or a keyword/value string into libpq's keywords. Errors never quote the input,
// which may hold a password.
func parseDSN(s string) (map[string]string, error) {
	if strings.ContainsRune(s, 0) {
		return nil, errors.New("connection string holds a NUL byte")
	}
	parse := parseKeywordValue
	rest, isURI := cutScheme(s)
	if isURI {
		s, parse = rest, parseURI
	}
	settings, err := parse(s)
	if err != nil {
		return nil, err
	}
	for key := range settings {
		if slices.Contains(withoutEffect, key) {
			delete(settings, key)
		} else if !slices.Contains(passedOn, key) {
			return nil, fmt.Errorf("connection parameter %q is not supported", key)
		}
	}
	return settings, nil
}

func cutScheme(s string) (rest string, ok bool) {
	for _, scheme := range []string{"postgresql://", "postgres://"} {
		if rest, ok = strings.CutPrefix(s, scheme); ok {
			return rest, true
		}
	}
	return s, false
}

// parseURI follows libpq's grammar, which net/url does not know: several host:port pairs, a percent-encoded socket
// directory as host, IPv6 in brackets.
func parseURI(s string) (map[string]string, error) {
	settings := map[string]string{}
	authority, tail := s, ""
	if i := strings.IndexAny(s, "/?"); i >= 0 {
		authority, tail = s[:i], s[i:]
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, password, hasPassword := strings.Cut(authority[:i], ":")
		if err := setDecoded(settings, "user", user); err != nil {
			return nil, err
		}
		if hasPassword {
			if err := setDecoded(settings, "password", password); err != nil {
				return nil, err
			}
		}
		authority = authority[i+1:]
	}
	if err := parseHosts(settings, authority); err != nil {
		return nil, err
	}
	path, query, _ := strings.Cut(tail, "?")
	if name := strings.TrimPrefix(path, "/"); name != "" {
		if err := setDecoded(settings, "dbname", name); err != nil {
			return nil, err
		}
	}
	return settings, parseQuery(settings, query)
}

func parseHosts(settings map[string]string, authority string) error {
	if authority == "" {
		return nil
	}
	var hosts, ports []string
	for _, pair := range strings.Split(authority, ",") {
		host, port := pair, ""
		if strings.HasPrefix(pair, "[") {
			end := strings.IndexByte(pair, ']')
			if end < 0 {
				return errors.New(`connection URI: "[" of an IPv6 address without "]"`)
			}
			host, port = pair[1:end], strings.TrimPrefix(pair[end+1:], ":")
		} else if i := strings.LastIndexByte(pair, ':'); i >= 0 {
			host, port = pair[:i], pair[i+1:]
		}
		decoded, err := url.PathUnescape(host)
		if err != nil {
			return errors.New("connection URI: host is not percent-encoded correctly")
		}
		hosts, ports = append(hosts, decoded), append(ports, port)
	}
	if h := strings.Join(hosts, ","); h != "" {
		settings["host"] = h
	}
	if p := strings.Join(ports, ","); strings.Trim(p, ",") != "" {
		settings["port"] = p
	}
	return nil
}

func parseQuery(settings map[string]string, query string) error {
	if query == "" {
		return nil
	}
	for _, pair := range strings.Split(query, "&") {
		key, value, found := strings.Cut(pair, "=")
		if !found {
			return errors.New("connection URI: a query parameter has no value")
		}
		name, err := url.PathUnescape(key)
		if err != nil {
			return errors.New("connection URI: a parameter name is not percent-encoded correctly")
		}
		if name == "ssl" && value == "true" { // JDBC's spelling, which libpq accepts in URIs
			name, value = "sslmode", "require"
		}
		if err := setDecoded(settings, name, value); err != nil {
			return err
		}
	}
	return nil
}

func setDecoded(settings map[string]string, key, value string) error {
	decoded, err := url.PathUnescape(value)
	if err != nil {
		return fmt.Errorf("connection URI: %s is not percent-encoded correctly", key)
	}
	settings[key] = decoded
	return nil
}

// parseKeywordValue reads "host=a user='b c'" with libpq's quoting: single quotes around, backslash before.
func parseKeywordValue(s string) (map[string]string, error) {
	settings := map[string]string{}
	const space = " \t\n\r\f\v"
	for s = strings.TrimLeft(s, space); s != ""; s = strings.TrimLeft(s, space) {
		key, rest, found := strings.Cut(s, "=")
		key = strings.TrimRight(key, space)
		if !found || key == "" || strings.ContainsAny(key, space) {
			return nil, errors.New(`connection string is neither a URI (postgres://…) nor a list of keyword=value pairs`)
		}
		value, after, err := cutValue(strings.TrimLeft(rest, space))
		if err != nil {
			return nil, fmt.Errorf("connection parameter %q: %w", key, err)
		}
		settings[key] = value
		s = after
	}
	return settings, nil
}

func cutValue(s string) (value, rest string, err error) {
	quoted := strings.HasPrefix(s, "'")
	if quoted {
		s = s[1:]
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case quoted && c == '\'':
			return b.String(), s[i+1:], nil
		case !quoted && strings.IndexByte(" \t\n\r\f\v", c) >= 0:
			return b.String(), s[i:], nil
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return "", "", errors.New("missing closing quote")
	}
	return b.String(), "", nil
}

// formatDSN writes settings as a keyword/value string, in a stable order.
func formatDSN(settings map[string]string) string {
	keys := make([]string, 0, len(settings))
	for key := range settings {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	var b strings.Builder
	for i, key := range keys {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s='%s'", key, quote.Replace(settings[key]))
	}
	return b.String()
}
