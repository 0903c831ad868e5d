package store

import (
	"errors"
	"strings"
	"testing"

	"zos.internal/internal/fault"
)

func TestParseRoute(t *testing.T) {
	for in, want := range map[string]Route{
		"dir:///srv/blocks":              {0, 255, "dir:///srv/blocks"},
		"00-7f=dir:///srv/a=b-c":         {0, 127, "dir:///srv/a=b-c"},
		"ff-ff=http://h:80/x?y#z":        {255, 255, "http://h:80/x?y#z"},
		"0a-a0=zdb://u:p@[::1]:9900/ns":  {10, 160, "zdb://u:p@[::1]:9900/ns"},
		"s3s+tls://k:s@h:9000/bucket":    {0, 255, "s3s+tls://k:s@h:9000/bucket"},
		"dir:///with space/%20/ü?q=#not": {0, 255, "dir:///with space/%20/ü?q=#not"},
	} {
		got, err := ParseRoute(in)
		if err != nil || got != want {
			t.Errorf("ParseRoute(%q) = %+v, %v, want %+v", in, got, err, want)
		}
		if again, err := ParseRoute(strings.Replace(got.String(), ":xxxxx@", ":p@", 1)); in[0] != 's' && (err != nil || again != got) {
			t.Errorf("ParseRoute(%q) = %+v, %v, want the same", got, again, err)
		}
	}
	for _, in := range []string{
		"", "=", "/srv/blocks", "dir://blocks", "dir://", "dir:/x", "80-7f=dir:///x", "8-f=dir:///x", "00-FF=dir:///x", "0x-ff=dir:///x",
		"00-ff=", "http://", "http://:80/", "://x", "D IR:///x", "dir:///a\nb", "dir:///a\x00", "dir:///\xff", "http://h:port/",
		"http://me:secret/x@h:1/", "dir:///" + strings.Repeat("x", MaxURL),
	} {
		r, err := ParseRoute(in)
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("ParseRoute(%.60q) = %+v, %v, want invalid", in, r, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("ParseRoute(%q) shows the password: %v", in, err)
		}
	}
}

func TestStripPassword(t *testing.T) {
	for in, want := range map[string]struct{ stripped, redacted string }{
		"zdb://me:secret@h:9900/ns":    {"zdb://me@h:9900/ns", "zdb://me:xxxxx@h:9900/ns"},
		"zdb://:secret@h/ns":           {"zdb://@h/ns", "zdb://:xxxxx@h/ns"},
		"zdb://me:p@ss:w@h/ns":         {"zdb://me@h/ns", "zdb://me:xxxxx@h/ns"},
		"http://h:80/a:b@c":            {"http://h:80/a:b@c", "http://h:80/a:b@c"},
		"http://me@h:80/":              {"http://me@h:80/", "http://me@h:80/"},
		"http://h:80?a:b@c":            {"http://h:80?a:b@c", "http://h:80?a:b@c"},
		"dir:///a:b@c":                 {"dir:///a:b@c", "dir:///a:b@c"},
		"s3://key:secret@h:9000/bu/ck": {"s3://key@h:9000/bu/ck", "s3://key:xxxxx@h:9000/bu/ck"},
		"no url":                       {"no url", "no url"},
	} {
		if got := StripPassword(in); got != want.stripped {
			t.Errorf("StripPassword(%q) = %q, want %q", in, got, want.stripped)
		}
		if got := Redact(in); got != want.redacted {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want.redacted)
		}
	}
}

func TestUncovered(t *testing.T) {
	for _, tt := range []struct {
		rs      []Route
		lo, hi  byte
		missing bool
	}{
		{nil, 0, 255, true},
		{[]Route{{0, 255, ""}}, 0, 0, false},
		{[]Route{{128, 255, ""}, {0, 127, ""}}, 0, 0, false},
		{[]Route{{0, 9, ""}, {12, 255, ""}}, 10, 11, true},
		{[]Route{{0, 254, ""}}, 255, 255, true},
	} {
		lo, hi, missing := uncovered(tt.rs)
		if lo != tt.lo || hi != tt.hi || missing != tt.missing {
			t.Errorf("uncovered(%v) = %d, %d, %v, want %d, %d, %v", tt.rs, lo, hi, missing, tt.lo, tt.hi, tt.missing)
		}
	}
}
