package store

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"zos.internal/internal/fault"
)

// Route says that the blocks whose id starts with a byte from Start to End,
// both included, are in the store at URL.
type Route struct {
	Start byte   `json:"start"`
	End   byte   `json:"end"`
	URL   string `json:"url"`
}

// ParseRoute reads a store as people write it on a command line:
// "[xx-yy=]URL" with a range of two lower-case hex digits each. Without a
// range the store takes every block.
func ParseRoute(s string) (Route, error) {
	r := Route{Start: 0, End: 255, URL: s}
	if len(s) > 6 && s[2] == '-' && s[5] == '=' && hexDigits(s[:2]) && hexDigits(s[3:5]) {
		lo, _ := strconv.ParseUint(s[:2], 16, 8)
		hi, _ := strconv.ParseUint(s[3:5], 16, 8)
		r = Route{Start: byte(lo), End: byte(hi), URL: s[6:]}
	}
	return r, r.Check()
}

func hexDigits(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}

// ParseRoutes reads the stores of a command line.
func ParseRoutes(specs []string) ([]Route, error) {
	var rs []Route
	for _, s := range specs {
		r, err := ParseRoute(s)
		if err != nil {
			return nil, err
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// Check reports a range that is empty and a URL that no store can have.
func (r Route) Check() error {
	shown := hide(r.URL)
	if r.Start > r.End {
		return fault.Errorf(fault.Invalid, "the store %q has the range %02x-%02x, which holds nothing; write the smaller byte first", shown, r.Start, r.End)
	}
	if len(r.URL) > MaxURL || !utf8.ValidString(r.URL) || strings.ContainsFunc(r.URL, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return fault.Errorf(fault.Invalid, "the store %.80q is not a URL of at most %d printable bytes", shown, MaxURL)
	}
	scheme, rest, ok := strings.Cut(r.URL, "://")
	if !ok || scheme == "" || rest == "" || strings.Trim(scheme, "abcdefghijklmnopqrstuvwxyz0123456789+.-") != "" {
		return fault.Errorf(fault.Invalid, "the store %.80q is not written as [xx-yy=]scheme://place, for example 00-7f=dir:///srv/blocks", shown)
	}
	if scheme == "dir" {
		if rest[0] != '/' {
			return fault.Errorf(fault.Invalid, "the store %.80q needs an absolute path: dir:///path with three slashes", shown)
		}
		return nil
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		return fault.Errorf(fault.Invalid, "the store %.80q is not a URL", shown) // the cause would show the password
	}
	if (scheme == "http" || scheme == "https") && u.Hostname() == "" {
		return fault.Errorf(fault.Invalid, "the store %.80q has no host", shown)
	}
	return nil
}

// Scheme is the part of the URL before "://".
func (r Route) Scheme() string {
	scheme, _, _ := strings.Cut(r.URL, "://")
	return scheme
}

// Holds reports whether the blocks of that id belong to the route.
func (r Route) Holds(id ID) bool { return r.Start <= id[0] && id[0] <= r.End }

// String is the route as ParseRoute reads it, with the password as "xxxxx".
func (r Route) String() string {
	return fmt.Sprintf("%02x-%02x=%s", r.Start, r.End, Redact(r.URL))
}

// userinfo finds the part of a URL before the "@" of its host.
func userinfo(s string) (start, end int) {
	i := strings.Index(s, "://")
	if i < 0 {
		return 0, 0
	}
	start = i + 3
	end = start + strings.IndexAny(s[start:]+"/", "/?#")
	if s[:i] == "dir" {
		return start, start
	}
	return start, start + max(0, strings.LastIndexByte(s[start:end], '@'))
}

// StripPassword is the URL without the password; all else stays as it is.
func StripPassword(s string) string { return replacePassword(s, "") }

// Redact is the URL for an error or a log: a password becomes "xxxxx".
func Redact(s string) string { return replacePassword(s, ":xxxxx") }

// hide is Redact for a URL that may be none: a password that holds a slash is
// not found there, so all up to the last "@" goes.
func hide(s string) string {
	if shown := Redact(s); shown != s || strings.HasPrefix(s, "dir:") {
		return shown
	}
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "xxxxx" + s[i:]
	}
	return s
}

func replacePassword(s, by string) string {
	start, end := userinfo(s)
	i := strings.IndexByte(s[start:end], ':')
	if i < 0 {
		return s
	}
	return s[:start+i] + by + s[end:]
}

// uncovered is a range of first bytes that no route holds.
func uncovered(rs []Route) (lo, hi byte, missing bool) {
	var held [256]bool
	for _, r := range rs {
		for b := int(r.Start); b <= int(r.End); b++ {
			held[b] = true
		}
	}
	for b := range held {
		if held[b] {
			continue
		}
		e := b
		for e+1 < len(held) && !held[e+1] {
			e++
		}
		return byte(b), byte(e), true
	}
	return 0, 0, false
}
