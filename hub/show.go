package hub

import (
	"fmt"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"zos.internal/flist/tree"
	"zos.internal/identity"
)

// display makes a name from an image safe to show: everything that isn't a
// visible character (controls, bytes that aren't UTF-8, direction marks) and
// the backslash are written as escapes.
func display(s string) string {
	plain := true
	for _, r := range s {
		if r == utf8.RuneError || r == '\\' || !unicode.IsPrint(r) {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r == '\\':
			b.WriteString(`\\`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		s = s[n:]
	}
	return b.String()
}

// clipText shortens a long text of an image for a page.
func clipText(s string, n int) string {
	r := []rune(display(s))
	if len(r) <= n {
		return string(r)
	}
	return string(r[:n]) + "…"
}

// bytesText is a size for people.
func bytesText(n any) string {
	v := toFloat(n)
	if v < 1024 {
		return strconv.FormatFloat(v, 'f', 0, 64) + " B"
	}
	units := []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := -1
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	if v >= 99.5 {
		return strconv.FormatFloat(v, 'f', 0, 64) + " " + units[i]
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " " + units[i]
}

func toFloat(n any) float64 {
	switch v := n.(type) {
	case int:
		return float64(v)
	case int64:
		return float64(v)
	case uint64:
		return float64(v)
	}
	return 0
}

// count is a number with thin spaces between thousands.
func countText(n any) string {
	s := strconv.FormatFloat(toFloat(n), 'f', 0, 64)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u2009" + s[i:]
	}
	return s
}

// dateText is a time in UTC, to the minute.
func dateText(sec int64) string {
	t := time.Unix(sec, 0).UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		return strconv.FormatInt(sec, 10) + " s"
	}
	return t.Format("2006-01-02 15:04") + " UTC"
}

// ageText is how long ago sec was, in the largest unit.
func ageText(sec int64, now time.Time) string {
	d := now.Unix() - sec
	if d < 0 {
		return "in the future"
	}
	for _, u := range []struct {
		n    int64
		name string
	}{{365 * 86400, "year"}, {30 * 86400, "month"}, {86400, "day"}, {3600, "hour"}, {60, "minute"}} {
		if k := d / u.n; k == 1 {
			return "1 " + u.name + " ago"
		} else if k > 1 {
			return strconv.FormatInt(k, 10) + " " + u.name + "s ago"
		}
	}
	return "just now"
}

// modeText is a mode as ls writes it.
func modeText(mode uint32) string {
	types := map[uint32]byte{tree.Socket: 's', tree.Symlink: 'l', tree.Regular: '-', tree.Block: 'b', tree.Directory: 'd', tree.Char: 'c', tree.FIFO: 'p'}
	b := []byte("?rwxrwxrwx")
	if t, ok := types[mode&tree.TypeMask]; ok {
		b[0] = t
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			b[1+i] = '-'
		}
	}
	for _, x := range []struct {
		bit  uint32
		at   int
		with byte
	}{{0o4000, 3, 's'}, {0o2000, 6, 's'}, {0o1000, 9, 't'}} {
		if mode&x.bit != 0 {
			if b[x.at] == '-' {
				x.with -= 'a' - 'A'
			}
			b[x.at] = x.with
		}
	}
	return string(b)
}

// typeText is the type of a file in words.
func typeText(mode uint32) string {
	switch mode & tree.TypeMask {
	case tree.Socket:
		return "socket"
	case tree.Symlink:
		return "symbolic link"
	case tree.Regular:
		return "file"
	case tree.Block:
		return "block device"
	case tree.Directory:
		return "directory"
	case tree.Char:
		return "character device"
	case tree.FIFO:
		return "named pipe"
	}
	return "unknown"
}

// short is a name of 64 digits for tables.
func short(s fmt.Stringer) string {
	t := s.String()
	if len(t) > 16 {
		return t[:12] + "…"
	}
	return t
}

// shortAddress keeps both ends, which people compare.
func shortAddress(a identity.Address) string {
	t := a.String()
	return t[:10] + "…" + t[len(t)-5:]
}

// shellQuote is s as one word of a shell.
func shellQuote(s string) string {
	safe := s != ""
	for _, c := range []byte(s) {
		safe = safe && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_./:@%+=,", c) >= 0)
	}
	if safe {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// fileLink is the address of a path in the tree of an image. Every byte of the
// path survives, whatever it is.
func fileLink(base, id, path string) template.URL {
	u := base + "/image/" + id + "/files"
	if path != "" {
		u += "?path=" + url.QueryEscape(path)
	}
	return template.URL(u)
}
