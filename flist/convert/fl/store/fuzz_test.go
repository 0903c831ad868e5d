package store

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzParseRoute: a route that is taken is written and read back the same,
// and stripping a password leaves a route.
func FuzzParseRoute(f *testing.F) {
	f.Add("00-7f=dir:///srv/blocks")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRoute(s)
		if err != nil {
			return
		}
		if r.Start > r.End {
			t.Fatalf("ParseRoute(%q) = %+v", s, r)
		}
		open, known := Openers()[r.Scheme()]
		if known {
			if _, err := open(t.Context(), r.URL); err != nil {
				t.Errorf("ParseRoute takes %q, its opener does not: %v", s, err)
			}
		}
		stripped := Route{r.Start, r.End, StripPassword(r.URL)}
		if err := stripped.Check(); err != nil {
			t.Errorf("%q without its password %q: %v", r.URL, stripped.URL, err)
		}
		if again := StripPassword(stripped.URL); again != stripped.URL {
			t.Errorf("stripping %q twice gives %q", r.URL, again)
		}
		if stripped == r {
			back, err := ParseRoute(r.String())
			if err != nil || back != r {
				t.Errorf("ParseRoute(%q) = %+v, %v, want %+v", r.String(), back, err, r)
			}
		}
	})
}

// FuzzOpenBlock: no bytes open as a block unless they are one.
func FuzzOpenBlock(f *testing.F) {
	f.Add([]byte("x"), []byte("\x01\x00x"))
	f.Fuzz(func(t *testing.T, plain, body []byte) {
		if len(plain) > 0 && len(plain) <= MaxBlock {
			stored, b, err := Seal(plain)
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.Open(stored)
			if err != nil || !cmp.Equal(got, plain) {
				t.Errorf("Open(Seal(x)) = %q, %v, want %q", got, err, plain)
			}
		}
		// A body of any bytes under a key that is not the hash of the plain ones.
		stored, id, key := sealBody(body, [32]byte{1})
		if got, err := (Block{id, key}).Open(stored); err == nil {
			t.Errorf("a made-up block opened as %q", got)
		}
	})
}
