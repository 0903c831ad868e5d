package lazy

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"zos.internal/flist/chunkmap"
	"zos.internal/flist/fetch"
)

func chunksOf(n int, plain uint32) []chunkmap.Chunk {
	out := make([]chunkmap.Chunk, n)
	for i := range out {
		out[i].Plain = plain
	}
	return out
}

func TestGroup(t *testing.T) {
	chunks := chunksOf(200, 100<<10)
	for _, tt := range []struct {
		name     string
		in, want []fetch.Run
	}{
		{"jumps between two places", []fetch.Run{{First: 50, Count: 1}, {First: 3, Count: 1}, {First: 51, Count: 1}, {First: 2, Count: 1}, {First: 53, Count: 1}},
			[]fetch.Run{{First: 50, Count: 2}, {First: 53, Count: 1}, {First: 2, Count: 2}}},
		{"long runs are split, the first needed part first", []fetch.Run{{First: 30, Count: 1}, {First: 0, Count: 30}},
			[]fetch.Run{{First: 20, Count: 11}, {First: 0, Count: 20}}},
		{"chunks that the image doesn't have", []fetch.Run{{First: 199, Count: 7}}, []fetch.Run{{First: 199, Count: 1}}},
		{"nothing", nil, nil},
	} {
		got := Group(fetch.Trace{Runs: tt.in}, chunks)
		if d := cmp.Diff(tt.want, got.Runs, cmpopts.IgnoreUnexported(fetch.Run{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

// Whatever the order, the same chunks stay, once each, in a trace that encodes.
func TestGroupKeepsChunks(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		chunks := chunksOf(100, uint32(rapid.IntRange(1, 256<<10).Draw(rt, "plain")))
		picked := rapid.SliceOfDistinct(rapid.Uint32Range(0, 99), func(i uint32) uint32 { return i }).Draw(rt, "chunks")
		var in fetch.Trace
		for _, c := range picked {
			if n := len(in.Runs); n > 0 && in.Runs[n-1].First+in.Runs[n-1].Count == c {
				in.Runs[n-1].Count++
				continue
			}
			in.Runs = append(in.Runs, fetch.Run{First: c, Count: 1})
		}
		out := Group(in, chunks)
		if _, err := out.Encode(); err != nil {
			rt.Fatal(err)
		}
		var got []uint32
		for _, r := range out.Runs {
			for i := r.First; i < r.First+r.Count; i++ {
				got = append(got, i)
			}
		}
		slices.Sort(got)
		slices.Sort(picked)
		if !slices.Equal(got, picked) {
			rt.Errorf("chunks %v, want %v", got, picked)
		}
	})
}
