package flist

import (
	"bytes"
	"cmp"
	"context"
	"iter"
	"path"
	"runtime"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sync/errgroup"

	"zos.internal/block"
	"zos.internal/flist/chunkmap"
	"zos.internal/internal/fault"
)

// How MakeDelta fills a section, in bytes.
const (
	sectionPlain = 1 << 20   // of the image; a chunk may exceed it
	sectionRef   = 4 << 20   // of the base
	sectionSlack = 64 << 10  // of a large file before and behind the place of a chunk
	maxMoved     = 512 << 20 // plain bytes of all chunks; MakeDelta gives up above
	maxSameName  = 64        // files of the base with one name that are looked at
)

// MakeDelta computes the delta that makes image id of base. Both lie in the
// bucket with all their packs. The result goes to DeltaKey(id).
//
// It is Exhausted if the difference is too large to be worth one. The bytes
// depend on the compressor and name nothing.
func MakeDelta(ctx context.Context, from block.Bucket, id, base ID, dom block.Domain) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fault.Errorf(fault.Of(err), "make delta from image %v to %v: %w", base, id, err)
	}
	if id == base {
		return fail(fault.Errorf(fault.Invalid, "they are the same"))
	}
	a, err := Open(ctx, from, base, OpenOptions{Domain: dom})
	if err != nil {
		return fail(err)
	}
	b, err := Open(ctx, from, id, OpenOptions{Domain: dom})
	if err != nil {
		return fail(err)
	}
	if !bytes.Equal(a.Root.Domain, b.Root.Domain) {
		return fail(fault.Errorf(fault.Unsupported, "they belong to different domains"))
	}
	m := maker{ctx: ctx, from: from, old: a, img: b}
	out, err := m.make()
	if err != nil {
		return fail(err)
	}
	return out, nil
}

type maker struct {
	ctx      context.Context
	from     block.Bucket
	old, img *Image
	get      [2]*chunkReader
}

func (m *maker) make() ([]byte, error) {
	for i, img := range []*Image{m.old, m.img} {
		r, err := newChunkReader(m.ctx, m.from, img)
		if err != nil {
			return nil, err
		}
		m.get[i] = r
	}
	head := deltaHead{Sections: []deltaPart{}}
	var frames []byte
	names := m.img.Root.objects()
	for i, ref := range m.old.Root.objects() {
		if i < len(names) && names[i] == ref {
			names[i] = Ref{}
		}
	}
	for i, ref := range names {
		if ref == (Ref{}) {
			head.Objects = append(head.Objects, 0)
			continue
		}
		var was []byte
		if olds := m.old.Root.objects(); i < len(olds) {
			var err error
			if was, err = ReadObject(m.ctx, m.from, m.old.Domain, olds[i]); err != nil {
				return nil, err
			}
		}
		if ref.Size > deltaObject || len(was) > deltaObject {
			return nil, fault.Errorf(fault.Exhausted, "the metadata or the map is above %d bytes", deltaObject)
		}
		plain, err := ReadObject(m.ctx, m.from, m.img.Domain, ref)
		if err != nil {
			return nil, err
		}
		f, err := squeeze(plain, was)
		if err != nil {
			return nil, err
		}
		head.Objects = append(head.Objects, uint64(len(f)))
		frames = append(frames, f...)
	}
	sections, err := m.plan()
	if err != nil {
		return nil, err
	}
	bodies := make([][]byte, len(sections))
	g, ctx := errgroup.WithContext(m.ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, s := range sections {
		g.Go(func() (err error) {
			var ref, plain []byte
			if ref, err = m.get[0].join(ctx, s.refs); err != nil {
				return err
			}
			if plain, err = m.get[1].join(ctx, s.chunks); err != nil {
				return err
			}
			bodies[i], err = squeeze(plain, ref)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, s := range sections {
		head.Sections = append(head.Sections, deltaPart{Chunks: uint64(len(s.chunks)), Runs: runs(s.refs), Length: uint64(len(bodies[i]))})
		if len(frames)+len(bodies[i]) > MaxDelta {
			return nil, fault.Errorf(fault.Exhausted, "it would have more than %d bytes", MaxDelta)
		}
		frames = append(frames, bodies[i]...)
	}
	d := &Delta{ID: m.img.ID, Base: m.old.ID}
	out, err := d.encode(m.img.Domain, head, frames)
	if err != nil {
		return nil, err
	}
	whole := int64(0) // what moves without it
	for _, s := range sections {
		for _, c := range s.chunks {
			whole += int64(m.get[1].loc.Where[c].Stored)
		}
	}
	for i, n := range head.Objects {
		if n == 0 {
			continue
		}
		size, err := m.from.Stat(m.ctx, ObjectKey(names[i].Name))
		if err != nil {
			return nil, err
		}
		whole += size
	}
	if int64(len(out)) > whole {
		return nil, fault.Errorf(fault.Exhausted, "it has %d bytes, the chunks and objects %d", len(out), whole)
	}
	return out, nil
}

// section is what one frame holds, as numbers of chunks in the two maps.
type section struct {
	chunks []uint32 // of the image, rising
	refs   []uint32 // of the base, rising
}

func runs(nums []uint32) [][2]uint64 {
	out := [][2]uint64{}
	for _, n := range nums {
		if k := len(out) - 1; k >= 0 && out[k][0]+out[k][1] == uint64(n) {
			out[k][1]++
		} else {
			out = append(out, [2]uint64{uint64(n), 1})
		}
	}
	return out
}

// plan puts the chunks that the base lacks into sections, each with the chunks
// of the base that most likely look like them: those of the file with the same
// path or, where there is none, the same name.
func (m *maker) plan() ([]section, error) {
	have := make(map[block.Name]uint32, len(m.old.Map.Chunks))
	for i, c := range m.old.Map.Chunks {
		have[c.Name] = uint32(i)
	}
	at := make([]chunkmap.Extent, len(m.old.Map.Chunks)) // first use of each chunk of the base
	for _, x := range slices.Backward(m.old.Map.Extents) {
		if x.Chunk != chunkmap.Zeros {
			at[x.Chunk] = x
		}
	}
	files, olds := placedFiles(m.img), newOldFiles(m.old)
	var out []section
	var cur section
	var plain, refBytes, moved int64
	refs := make(map[uint32]bool)
	flush := func() {
		if len(cur.chunks) > 0 {
			slices.Sort(cur.refs)
			out = append(out, cur)
		}
		cur, plain, refBytes = section{}, 0, 0
		clear(refs)
	}
	next := uint32(0) // chunks are numbered in order of first use
	var was *placedFile
	var file placedFile
	var shift int64 // of the content in the old file against the new one
	for x := range perFile(m.img.Map.Extents, files) {
		if x.file != file {
			file, shift, was = x.file, 0, olds.like(x.file)
		}
		pos := int64(x.Off) - file.off
		c := m.img.Map.Chunks[x.Chunk]
		if i, ok := have[c.Name]; ok {
			if o := at[i]; was != nil && int64(o.Off) >= was.off && int64(o.Off) < was.off+was.size {
				shift = int64(o.Off) - int64(o.In) - was.off - (pos - int64(x.In))
			}
			next = max(next, x.Chunk+1)
			continue
		}
		if x.Chunk >= next {
			next = x.Chunk + 1
			if moved += int64(c.Plain); moved > maxMoved {
				return nil, fault.Errorf(fault.Exhausted, "more than %d bytes differ", maxMoved)
			}
			if plain > 0 && plain+int64(c.Plain) > sectionPlain {
				flush()
			}
			cur.chunks = append(cur.chunks, x.Chunk)
			plain += int64(c.Plain)
		} else if k := len(cur.chunks); k == 0 || cur.chunks[k-1] != x.Chunk {
			continue // used again later
		}
		if was == nil {
			continue
		}
		lo, hi := int64(0), was.size
		if file.size >= smallFile {
			lo, hi = max(0, pos+shift-sectionSlack), min(was.size, pos+shift+int64(x.Len)+sectionSlack)
		}
		for _, o := range olds.extents(was.off+lo, was.off+hi) {
			n := int64(m.old.Map.Chunks[o.Chunk].Plain)
			if !refs[o.Chunk] && refBytes+n <= sectionRef {
				refs[o.Chunk] = true
				refBytes += n
				cur.refs = append(cur.refs, o.Chunk)
			}
		}
	}
	flush()
	return out, nil
}

// placedFile is the place of a file in the device, and a path of it.
type placedFile struct {
	off, size int64
	path      string
}

// placedFiles lists the places of an image in the order of the device, each once.
func placedFiles(img *Image) []placedFile {
	var fs []placedFile
	for p, n := range img.Tree.Walk() {
		if n.IsRegular() && n.Size > 0 {
			fs = append(fs, placedFile{n.Offset, n.Size, p})
		}
	}
	slices.SortStableFunc(fs, func(a, b placedFile) int { return cmp.Compare(a.off, b.off) })
	return slices.CompactFunc(fs, func(a, b placedFile) bool { return a.off == b.off })
}

// fileExtent is the part of an extent that lies in one file.
type fileExtent struct {
	chunkmap.Extent
	file placedFile
}

// perFile yields the extents without zeros, cut where files begin.
func perFile(xs []chunkmap.Extent, fs []placedFile) iter.Seq[fileExtent] {
	return func(yield func(fileExtent) bool) {
		for _, x := range xs {
			for x.Chunk != chunkmap.Zeros && x.Len > 0 {
				f, ok := fileAt(fs, int64(x.Off))
				if !ok {
					break
				}
				n := uint32(min(int64(x.Len), f.off+f.size-int64(x.Off)))
				part := x
				part.Len = n
				if !yield(fileExtent{part, f}) {
					return
				}
				x.Off, x.Len, x.In = x.Off+uint64(n), x.Len-n, x.In+n
			}
		}
	}
}

func fileAt(fs []placedFile, off int64) (placedFile, bool) {
	i := sort.Search(len(fs), func(i int) bool { return fs[i].off > off }) - 1
	if i < 0 || off >= fs[i].off+fs[i].size {
		return placedFile{}, false
	}
	return fs[i], true
}

// oldFiles finds files of the base.
type oldFiles struct {
	img    *Image
	byPath map[string]placedFile
	byName map[string][]placedFile
}

func newOldFiles(img *Image) *oldFiles {
	o := &oldFiles{img: img, byPath: make(map[string]placedFile), byName: make(map[string][]placedFile)}
	for p, n := range img.Tree.Walk() {
		if !n.IsRegular() || n.Size == 0 {
			continue
		}
		f := placedFile{n.Offset, n.Size, p}
		o.byPath[p] = f
		name := path.Base(p)
		if len(o.byName[name]) < maxSameName {
			o.byName[name] = append(o.byName[name], f)
		}
	}
	return o
}

// like is the file of the base that f most likely comes from, or nil.
func (o *oldFiles) like(f placedFile) *placedFile {
	if g, ok := o.byPath[f.path]; ok {
		return &g
	}
	var best *placedFile
	most := -1
	for _, g := range o.byName[path.Base(f.path)] {
		if n := commonSuffix(f.path, g.path); n > most {
			most, best = n, &g
		}
	}
	return best
}

// commonSuffix is the number of path elements in which a and b end alike.
func commonSuffix(a, b string) int {
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	n := 0
	for n < len(as) && n < len(bs) && as[len(as)-1-n] == bs[len(bs)-1-n] {
		n++
	}
	return n
}

// extents are those of the base between two bytes of its device, without zeros.
func (o *oldFiles) extents(lo, hi int64) []chunkmap.Extent {
	xs := o.img.Map.Extents
	i := sort.Search(len(xs), func(i int) bool { return int64(xs[i].End()) > lo })
	var out []chunkmap.Extent
	for ; i < len(xs) && int64(xs[i].Off) < hi; i++ {
		if xs[i].Chunk != chunkmap.Zeros {
			out = append(out, xs[i])
		}
	}
	return out
}

// chunkReader reads chunks of an image out of the packs of a bucket.
type chunkReader struct {
	img *Image
	loc block.Locator
	get block.Getter
}

func newChunkReader(ctx context.Context, from block.Bucket, img *Image) (*chunkReader, error) {
	loc, err := ReadLocator(ctx, from, img)
	if err != nil {
		return nil, err
	}
	m := block.NewMirrors(nil, block.Source{Name: "store", Bucket: from})
	return &chunkReader{img: img, loc: loc, get: block.NewPackGetter(m, PackPrefix, img.Domain, img.Places(loc).Find)}, nil
}

// join is the plain bytes of the chunks with these numbers, one after the other.
func (r *chunkReader) join(ctx context.Context, nums []uint32) ([]byte, error) {
	names := make([]block.Name, len(nums))
	at := make(map[block.Name]int, len(nums))
	size := 0
	for i, n := range nums {
		c := r.img.Map.Chunks[n]
		names[i], at[c.Name] = c.Name, size
		size += int(c.Plain)
	}
	out := make([]byte, size)
	for c, err := range r.get.Get(ctx, names) {
		if err != nil {
			return nil, err
		}
		copy(out[at[c.Name]:], c.Data)
	}
	return out, nil
}
