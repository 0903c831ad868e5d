package lazy

import (
	"cmp"
	"slices"

	"zos.internal/block"
	"zos.internal/flist/chunkmap"
	"zos.internal/flist/fetch"
)

// groupBytes is the most plain bytes of a group of neighbours in a trace.
const groupBytes = 2 << 20

// Group orders a trace for the one who prefetches it: chunks that lie so close
// together that one request reads them become neighbours, in groups of at most
// 2 MiB, and the groups keep the order of their first access. A start that
// jumps about in a few directories then needs a request for each of them, not
// for each jump. chunks are those of the image's map.
func Group(t fetch.Trace, chunks []chunkmap.Chunk) fetch.Trace {
	type access struct {
		chunk uint32
		rank  int // in the trace
	}
	var all []access
	for _, r := range t.Runs {
		for i := r.First; i < r.First+r.Count && int(i) < len(chunks); i++ {
			all = append(all, access{i, len(all)})
		}
	}
	slices.SortFunc(all, func(a, b access) int { return cmp.Compare(a.chunk, b.chunk) })
	type group struct {
		first, last access // by place
		rank        int    // of the chunk that is needed first
		from, to    int    // in all
	}
	var groups []group
	var size int64
	for i, a := range all {
		if n := len(groups); n > 0 {
			g := &groups[n-1]
			gap := between(chunks, g.last.chunk, a.chunk)
			if plain := int64(chunks[a.chunk].Plain); gap <= block.RangeGap && size+gap+plain <= groupBytes {
				size += gap + plain
				g.last, g.to, g.rank = a, i+1, min(g.rank, a.rank)
				continue
			}
		}
		groups = append(groups, group{a, a, a.rank, i, i + 1})
		size = int64(chunks[a.chunk].Plain)
	}
	slices.SortFunc(groups, func(a, b group) int { return cmp.Compare(a.rank, b.rank) })
	out := fetch.Trace{Image: t.Image}
	for _, g := range groups {
		for _, a := range all[g.from:g.to] {
			if n := len(out.Runs); n > 0 && out.Runs[n-1].First+out.Runs[n-1].Count == a.chunk {
				out.Runs[n-1].Count++
				continue
			}
			out.Runs = append(out.Runs, fetch.Run{First: a.chunk, Count: 1})
		}
	}
	return out
}

// between is the plain bytes of the chunks between two, or more than any gap
// that is read over.
func between(chunks []chunkmap.Chunk, a, b uint32) int64 {
	var n int64
	for i := a + 1; i < b && n <= block.RangeGap; i++ {
		n += int64(chunks[i].Plain)
	}
	return n
}
