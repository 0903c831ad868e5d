package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A walk over the begin of a queue finds what is there, whatever was remembered.
func TestWalksOfQueues(t *testing.T) {
	tree := openTree(t)
	height := uint64(0)
	have := make(map[string]bool)
	keys := rapid.SampledFrom([]string{"q", "qa", "qa1", "qa2", "qa3", "qa30", "qb1", "qb9", "p9", "r", "q\xff1"})
	rapid.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			key := keys.Draw(t, "key")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				tree.Set([]byte(key), []byte("v"))
				have[key] = true
			case 1:
				tree.Delete([]byte(key))
				delete(have, key)
			case 2:
				height++
				if _, _, err := tree.Commit(height, 1, 4); err != nil {
					t.Fatal(err)
				}
			}
			for _, k := range []string{"q", "qa", "qa1", "p9"} {
				if got := tree.Get([]byte(k)) != nil; got != have[k] {
					t.Fatalf("Get(%q) finds it: %v, want %v", k, got, have[k])
				}
			}
			for _, r := range [][2]string{{"qa", "qa2"}, {"qa", "qa9"}, {"qb", "qb5"}, {"qa", "r"}, {"q\xff", "q\xff9"}, {"q", "r"}} {
				var got, want []string
				tree.Ascend([]byte(r[0]), []byte(r[1]), func(k, _ []byte) bool { got = append(got, string(k)); return true })
				for _, k := range []string{"p9", "q", "qa", "qa1", "qa2", "qa3", "qa30", "qb1", "qb9", "q\xff1", "r"} {
					if have[k] && k >= r[0] && k < r[1] {
						want = append(want, k)
					}
				}
				if !cmp.Equal(got, want) {
					t.Fatalf("Ascend(%q, %q) = %q, want %q", r[0], r[1], got, want)
				}
			}
		}
	})
}
