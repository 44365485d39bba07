package postgres

import (
	"fmt"
	"regexp"
	"strconv"
)

// Version is server_version_num: 150018 for 15.18, 90624 for 9.6.24.
type Version int

// versionText is the beginning of server_version and of what `postgres --version` prints behind the name:
// "15.18 (Debian 15.18-0+deb12u1)", "18beta1", "9.6.24".
var versionText = regexp.MustCompile(`^(\d+)(?:\.(\d+))?(?:\.(\d+))?`)

// ParseVersion reads the text form of a version.
func ParseVersion(text string) (Version, error) {
	parts := versionText.FindStringSubmatch(text)
	if parts == nil {
		return 0, fmt.Errorf("invalid PostgreSQL version %q", text)
	}
	number := func(i int) int { n, _ := strconv.Atoi(parts[i]); return n } // digits, or empty for 0
	if number(1) >= 10 {
		return Version(number(1)*10000 + number(2)), nil
	}
	return Version(number(1)*10000 + number(2)*100 + number(3)), nil
}

// Major is comparable across the change of numbering: 15 for 15.18, 9 for every 9.x.
func (v Version) Major() int { return int(v) / 10000 }

// AtLeast tells whether the server is of the given major (10 or later) or newer.
func (v Version) AtLeast(major int) bool { return v.Major() >= major }

// String prints the version as people write it: "15.18", "9.6.24".
func (v Version) String() string {
	if v.Major() >= 10 {
		return fmt.Sprintf("%d.%d", v.Major(), int(v)%10000)
	}
	return fmt.Sprintf("%d.%d.%d", int(v)/10000, int(v)/100%100, int(v)%100)
}

// MajorString prints what packages and directories are called: "15", "9.6".
func (v Version) MajorString() string {
	if v.Major() >= 10 {
		return fmt.Sprintf("%d", v.Major())
	}
	return fmt.Sprintf("%d.%d", int(v)/10000, int(v)/100%100)
}
