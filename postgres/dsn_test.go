package postgres

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseDSN(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       map[string]string
	}{
		{"empty", "", map[string]string{}},
		{"uri", "postgres://me:s3cret@db.example:5433/app?sslmode=require", map[string]string{
			"user": "me", "password": "s3cret", "host": "db.example", "port": "5433", "dbname": "app", "sslmode": "require",
		}},
		{"uri without anything", "postgresql://", map[string]string{}},
		{"uri with a database only", "postgresql:///app", map[string]string{"dbname": "app"}},
		{"several hosts", "postgres://a:1,b:2/app?target_session_attrs=read-write", map[string]string{
			"host": "a,b", "port": "1,2", "dbname": "app", "target_session_attrs": "read-write",
		}},
		{"several hosts, one port", "postgres://a,b:2/app", map[string]string{"host": "a,b", "port": ",2", "dbname": "app"}},
		{"ipv6", "postgres://[::1]:5432/app", map[string]string{"host": "::1", "port": "5432", "dbname": "app"}},
		{"socket directory", "postgres://%2Fvar%2Frun%2Fpostgresql/app", map[string]string{"host": "/var/run/postgresql", "dbname": "app"}},
		{"password with everything", "postgres://u:p%40ss%3A%2F%3F%23%5B%5D%2520'%22%5C%20@h/d", map[string]string{
			"user": "u", "password": `p@ss:/?#[]%20'"\ `, "host": "h", "dbname": "d",
		}},
		{"at sign in the password", "postgres://u:a@b@h/d", map[string]string{"user": "u", "password": "a@b", "host": "h", "dbname": "d"}},
		{"plus is no space", "postgres://h/d?application_name=a+b", map[string]string{"host": "h", "dbname": "d", "application_name": "a+b"}},
		{"jdbc's ssl", "postgres://h/d?ssl=true", map[string]string{"host": "h", "dbname": "d", "sslmode": "require"}},
		{"no effect here", "postgres://h/d?keepalives=1&gssencmode=disable", map[string]string{"host": "h", "dbname": "d"}},
		{"keywords", `host=h  port = 5433 password='it''s' dbname=a\ b`, nil},
		{"keywords quoted", `host=h port = 5433 password='it\'s \\' dbname=a\ b user=''`, map[string]string{
			"host": "h", "port": "5433", "password": `it's \`, "dbname": "a b", "user": "",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseDSN(test.text)
			if test.want == nil {
				if err == nil {
					t.Fatalf("parsed as %v, want an error", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			again, err := parseDSN(formatDSN(got))
			if err != nil {
				t.Fatalf("own format: %v", err)
			}
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("own format reads differently: %s", diff)
			}
		})
	}
}

func TestParseEndpoint_RefusesWithoutTellingThePassword(t *testing.T) {
	for _, text := range []string{
		"postgres://u:TOPSECRET@h:nonumber/d",
		"postgres://u:TOPSECRET@h/d?sslmode=sometimes",
		"postgres://u:TOPSECRET%zz@h/d",
		"postgres://u:TOPSECRET@h/d?nosuchparameter=1",
		"postgres://u:TOPSECRET@[::1/d",
		"host=h password='TOPSECRET",
		"host=h password=TOPSECRET sslcrl=/x",
		"TOPSECRET",
		"postgres://u:TOPSECRET@h/d?connect_timeout=soon",
		"host=h password=TOPSECRET target_session_attrs=whatever",
		"host=a,b,c port=1,2 password=TOPSECRET",
	} {
		_, err := ParseEndpoint(text)
		if err == nil {
			t.Errorf("%s: accepted", strings.ReplaceAll(text, "TOPSECRET", "***"))
			continue
		}
		if strings.Contains(err.Error(), "TOPSECRET") {
			t.Errorf("error tells the password: %v", err)
		}
	}
}

func TestEndpoint_IsShownWithoutPassword(t *testing.T) {
	e, err := ParseEndpoint("postgres://me:TOPSECRET@a:1,b:2/app")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := e.WithDatabase("other").String(), "me@a:1,b:2/other"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	if got := e.Database(); got != "app" {
		t.Errorf("WithDatabase changed the endpoint itself: %q", got)
	}
	if !e.HasPassword() {
		t.Error("HasPassword() = false")
	}
	password := ""
	for _, entry := range e.ChildEnv() {
		if name, value, _ := strings.Cut(entry, "="); name == "PGPASSWORD" {
			password = value
		} else if strings.Contains(value, "TOPSECRET") {
			t.Errorf("%s holds the password", name)
		}
	}
	if password != "TOPSECRET" {
		t.Errorf("PGPASSWORD of children = %q", password)
	}
}

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]Version{
		"15.18 (Debian 15.18-0+deb12u1)": 150018, "18beta1": 180000, "9.6.24": 90624, "9.4.0": 90400, "10.23": 100023, "18rc1": 180000,
	} {
		if got, err := ParseVersion(text); err != nil || got != want {
			t.Errorf("ParseVersion(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	if _, err := ParseVersion("PgBouncer"); err == nil {
		t.Error("accepted a text without a version")
	}
	if got := Version(90624).String(); got != "9.6.24" {
		t.Errorf("String() = %q", got)
	}
	if got := Version(170004).String(); got != "17.4" {
		t.Errorf("String() = %q", got)
	}
}
