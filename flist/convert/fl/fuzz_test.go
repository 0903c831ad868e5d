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
