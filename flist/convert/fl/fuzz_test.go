package fl

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzRead reads damaged and hostile databases: an error or a tree that is
// one, never a panic and never content that no store has.
func FuzzRead(f *testing.F) {
	f.Add([]byte("SQLite format 3\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 1<<16 {
			return
		}
		file := filepath.Join(t.TempDir(), "f.fl")
		if err := os.WriteFile(file, raw, 0o644); err != nil {
			t.Fatal(err)
		}
		readAnything(t, file)
		if _, err := Tags(t.Context(), file); err != nil {
			return
		}
		// What can be read can be changed, or stays as it is.
		if err := SetTags(t.Context(), file, []Tag{{"fuzz", "1"}}); err != nil {
			if now, rerr := os.ReadFile(file); rerr != nil || !cmp.Equal(now, raw) {
				t.Errorf("SetTags failed (%v) and changed the file (%v)", err, rerr)
			}
		}
	})
}

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

// FuzzParseStartup: what is taken can be written and means the same again.
func FuzzParseStartup(f *testing.F) {
	f.Add([]byte(startupSample))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseStartup(raw)
		if err != nil {
			return
		}
		out, err := FormatStartup(c)
		if err != nil {
			t.Fatalf("FormatStartup(%+v): %v", c, err)
		}
		if len(out) > MaxStartup {
			return
		}
		back, err := ParseStartup(out)
		if err != nil {
			t.Fatalf("ParseStartup(%q): %v", out, err)
		}
		if d := cmp.Diff(c, back, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("differs (-want +got):\n%s", d)
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
