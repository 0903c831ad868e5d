package hub

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// deadlineWriter remembers the deadlines that a handler sets.
type deadlineWriter struct {
	*httptest.ResponseRecorder
	read, write time.Time
	n           int
}

func (w *deadlineWriter) SetReadDeadline(t time.Time) error  { w.read = t; w.n++; return nil }
func (w *deadlineWriter) SetWriteDeadline(t time.Time) error { w.write = t; return nil }

func TestDeadlinesFollowTheBytes(t *testing.T) {
	w := &deadlineWriter{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequest(http.MethodPut, "/p/x", strings.NewReader(strings.Repeat("x", 100*minRate)))
	rec := &recorder{ResponseWriter: w}
	l, r := newLimits(rec, r)
	l.start()
	if got := w.read.Sub(l.began); got != patience {
		t.Fatalf("at the start reading may take %v, want %v", got, patience)
	}
	io.CopyN(io.Discard, r.Body, 10)
	if got := w.read.Sub(l.began); got != patience || w.n != 1 {
		t.Errorf("after a few bytes reading may take %v, want still %v", got, patience)
	}
	io.Copy(io.Discard, r.Body)
	if got, want := w.read.Sub(l.began), patience+100*time.Second; got != want {
		t.Errorf("after %d bytes reading may take %v, want %v", 100*minRate, got, want)
	}
	rec.Write(make([]byte, 50*minRate))
	if got, want := w.write.Sub(l.began), 2*patience+150*time.Second; got != want {
		t.Errorf("after %d bytes out writing may take %v, want %v", 50*minRate, got, want)
	}
	if rec.bytes != 50*minRate || rec.status != 200 {
		t.Errorf("the log would say %d with %d bytes", rec.status, rec.bytes)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "12": 12, "1KiB": 1024, "3MiB": 3 << 20, "2TiB": 2 << 40, "1.5MiB": 3 << 19, "unlimited": Unlimited} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "MiB", "1MB", "1 MiB", "-1", "NaN", "9999999TiB", "1BMi", "Unlimited"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", s, got)
		}
	}
}

func TestDisplay(t *testing.T) {
	for in, want := range map[string]string{
		"plain":         "plain",
		"größe":         "größe",
		"a\nb\t\x00":    `a\nb\t\x00`,
		"\xff\xfe":      `\xff\xfe`,
		"\u202eexe":     `\u202eexe`,
		`\x00`:          `\\x00`,
		"\U000e0001tag": `\U000e0001tag`,
		"\ufffd":        "\ufffd",
	} {
		if got := display(in); got != want {
			t.Errorf("display(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestTexts(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 150 << 20: "150 MiB", 1 << 60: "1.0 EiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
	if got := countText(1234567); got != "1\u2009234\u2009567" {
		t.Errorf("countText = %q", got)
	}
	for mode, want := range map[uint32]string{0o100755: "-rwxr-xr-x", 0o104755: "-rwsr-xr-x", 0o102644: "-rw-r-Sr--", 0o041777: "drwxrwxrwt", 0o120777: "lrwxrwxrwx", 0: "?---------"} {
		if got := modeText(mode); got != want {
			t.Errorf("modeText(%o) = %q, want %q", mode, got, want)
		}
	}
	for s, want := range map[string]string{"a/b-c.d": "a/b-c.d", "": "''", "it's": `'it'\''s'`, "$(x)": "'$(x)'", "a b": "'a b'"} {
		if got := shellQuote(s); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", s, got, want)
		}
	}
	now := time.Unix(1_000_000_000, 0)
	for ago, want := range map[int64]string{-5: "in the future", 0: "just now", 60: "1 minute ago", 7200: "2 hours ago", 400 * 86400: "1 year ago"} {
		if got := ageText(now.Unix()-ago, now); got != want {
			t.Errorf("ageText(%d s) = %q, want %q", ago, got, want)
		}
	}
	if got := dateText(1 << 62); !strings.Contains(got, "s") {
		t.Errorf("dateText of a far time = %q", got)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		k, err := parseKey(s)
		if err == nil && (k.text != s || strings.Contains(s, "..") || s[0] == 'a' || s[0] == 'e' || s[0] == 'k') {
			t.Errorf("parseKey(%q) = %+v", s, k)
		}
	})
}

func FuzzParsePublishers(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		ps, err := ParsePublishers(s)
		for _, p := range ps {
			if p.Quota < 0 || p.Alias == "" || err != nil {
				t.Errorf("ParsePublishers(%q) = %+v, %v", s, ps, err)
			}
		}
	})
}

func FuzzParseRange(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string, size int64) {
		if size < 0 {
			return
		}
		off, n, ok, sat := parseRange(s, size)
		if ok && sat && (off < 0 || n < 1 || off+n > size) {
			t.Errorf("parseRange(%q, %d) = %d, %d", s, size, off, n)
		}
	})
}
