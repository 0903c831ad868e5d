package flist

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"slices"

	"github.com/zeebo/blake3"

	"zos.internal/block"
	"zos.internal/flist/chunkmap"
	"zos.internal/flist/config"
	"zos.internal/flist/erofs"
	"zos.internal/flist/executables"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// BuildOptions say how a tree becomes an image.
type BuildOptions struct {
	// Config is how the image starts; nil is an empty one.
	Config *config.Config
	// Platform is "linux/amd64" or the like; empty if any.
	Platform string
	// Domain makes the image private; the zero value makes it public.
	Domain block.Domain
	// Bases are images in the same bucket whose packs are used again for
	// chunks that they already hold.
	Bases []ID
	// Near are like Bases, but one that can't be used is passed over.
	Near []ID
	// Workers is the number of encoders; 0 is one per processor.
	Workers int
	// Progress is called with the content bytes read so far and in all.
	Progress func(done, total int64)
}

// BuildReport says what Build made. Sizes are bytes.
type BuildReport struct {
	ID          ID     `json:"id"`
	Entries     uint64 `json:"entries"`
	Content     int64  `json:"content"`      // of all files, hard links once
	Placed      int64  `json:"placed"`       // of files with different content
	Chunks      int    `json:"chunks"`       // different chunks
	ReusedBytes int64  `json:"reused_bytes"` // plain bytes of chunks that a base already held
	NewChunks   int    `json:"new_chunks"`   // chunks that were packed now
	PackedBytes int64  `json:"packed_bytes"` // size of the new packs
	Packs       int    `json:"packs"`        // new packs
	Metadata    int64  `json:"metadata"`     // plain size of the EROFS image
	// MetadataStored is its size as stored and moved.
	MetadataStored int64 `json:"metadata_stored"`
	// Published is the size of root, metadata, map, config, executables and
	// locator as stored: what a client fetches before it lists the tree.
	Published int64 `json:"published"`
}

const (
	smallFile = 64 << 10 // files below are packed together with their directory
	zeroPiece = 64 << 10 // unit in which runs of zeros are left out
	maxExtent = 1<<32 - zeroPiece
)

// Build writes the tree as an image into the bucket: packs, objects, locator,
// root. Nothing names the image until the root is there, so an interrupted
// build leaves only packs, which the next build or a collection removes.
//
// It sets the Offset of every node and reads every file once, in layout order.
// A source that can't be read, or changes while it is read, is an error that
// names the path.
func Build(ctx context.Context, root *tree.Node, to block.Bucket, opt BuildOptions) (*BuildReport, error) {
	if err := root.Check(); err != nil {
		return nil, fault.Errorf(fault.Of(err), "build image: %w", err)
	}
	cfg := opt.Config
	if cfg == nil {
		cfg = &config.Config{}
	}
	cfgBytes, err := cfg.Encode()
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "build image: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	known, err := loadBases(ctx, to, opt)
	if err != nil {
		return nil, err
	}
	p := newPacker(ctx, to, opt.Domain, opt.Workers, known)
	l := &layout{ctx: ctx, opt: &opt, pack: p, chunks: make(map[block.Name]uint32), placed: make(map[block.Name]int64), nodes: make(map[*tree.Node]bool)}
	entries, err := l.tree(root)
	locator, packErr := p.finish(l.cm.Chunks, err != nil)
	switch {
	case packErr != nil && (err == nil || ctx.Err() != nil):
		err = packErr
	}
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "build image: %w", err)
	}
	rep := &BuildReport{Entries: entries, Content: l.content, Placed: l.placedBytes, Chunks: len(l.cm.Chunks),
		ReusedBytes: p.reused, NewChunks: p.newChunks, PackedBytes: p.packed, Packs: len(p.packs)}
	meta, err := erofs.Encode(root, uint64(l.next/BlockSize))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "build image: %w", err)
	}
	rep.Metadata = int64(len(meta))
	r := &Root{DeviceBlocks: uint64(l.next / BlockSize), Entries: entries, Content: uint64(l.content), Platform: opt.Platform}
	if opt.Domain.Private() {
		id := opt.Domain.ID()
		r.Domain = id[:]
	}
	put := func(plain []byte) (ref Ref, err error) {
		ref, stored, err := EncodeObject(opt.Domain, plain)
		if err != nil {
			return ref, err
		}
		rep.Published += int64(len(stored))
		return ref, to.Write(ctx, ObjectKey(ref.Name), bytes.NewReader(stored))
	}
	execBytes, err := executables.Encode(l.execs)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "build image: %w", err)
	}
	var execRef Ref
	for i, x := range []struct {
		ref   *Ref
		plain []byte
	}{{&r.Metadata, meta}, {&r.Map, l.cm.Encode()}, {&r.Config, cfgBytes}, {&execRef, execBytes}} {
		if *x.ref, err = put(x.plain); err != nil {
			return nil, fault.Errorf(fault.Of(err), "build image: %w", err)
		}
		if i == 0 {
			rep.MetadataStored = rep.Published
		}
	}
	r.Executables = &execRef
	rootBytes, id, err := r.Encode()
	if err != nil {
		return nil, err
	}
	rep.ID = id
	locBytes, err := locator.Marshal()
	if err != nil {
		return nil, err
	}
	rep.Published += int64(len(locBytes) + len(rootBytes))
	// A locator that is there already may serve readers: it stays valid, since
	// packs are immutable, and the new one replaces it as a whole.
	if err := to.Write(ctx, LocatorKey(id), bytes.NewReader(locBytes)); err != nil {
		return nil, fault.Errorf(fault.Of(err), "build image: %w", err)
	}
	if err := to.Write(ctx, RootKey(id), bytes.NewReader(rootBytes)); err != nil {
		return nil, fault.Errorf(fault.Of(err), "build image: %w", err)
	}
	return rep, nil
}

// layout gives every file its place in the device, cuts it into chunks and
// records both in the map.
type layout struct {
	ctx    context.Context
	opt    *BuildOptions
	pack   *packer
	cm     chunkmap.Map
	chunks map[block.Name]uint32 // index in cm.Chunks
	placed map[block.Name]int64  // content hash (small) or chunk list hash (large) → offset
	nodes  map[*tree.Node]bool   // files that have their place
	execs  []executables.Entry

	next        int64 // first free byte of the device
	content     int64
	placedBytes int64
	total, done int64

	// The stream that is being cut: bytes not yet in a chunk, and where in the
	// device they belong.
	buf    []byte
	pieces []piece
}

type piece struct {
	off int64 // device
	len int64
}

func (l *layout) tree(root *tree.Node) (entries uint64, err error) {
	seen := make(map[*tree.Node]bool)
	for _, n := range root.Walk() {
		entries++
		if n.IsRegular() && !seen[n] {
			seen[n] = true
			l.content += n.Size
		}
	}
	l.total = l.content
	if l.content > MaxDevice {
		return 0, fault.Errorf(fault.Exhausted, "the files have %d bytes, one image holds %d; split it into several images", l.content, int64(MaxDevice))
	}
	first := make(map[*tree.Node]executables.Entry)
	for path, n := range root.Walk() {
		if !n.IsDir() {
			continue
		}
		if err := l.dir(path, n, first); err != nil {
			return 0, err
		}
	}
	for path, n := range root.Walk() {
		if e, ok := first[n]; ok {
			e.Path = path
			l.execs = append(l.execs, e)
		}
	}
	slices.SortFunc(l.execs, func(a, b executables.Entry) int { return bytes.Compare([]byte(a.Path), []byte(b.Path)) })
	return entries, nil
}

// dir places the files of one directory: the small ones as one stream, then
// each large one alone, both in byte order of the name.
func (l *layout) dir(path string, dir *tree.Node, execs map[*tree.Node]executables.Entry) error {
	for _, small := range []bool{true, false} {
		for _, e := range dir.Entries {
			n := e.Node
			if !n.IsRegular() || n.Size == 0 || l.nodes[n] || (n.Size < smallFile) != small {
				continue
			}
			l.nodes[n] = true
			if err := l.ctx.Err(); err != nil {
				return err
			}
			place := l.large
			if small {
				place = l.small
			}
			ex, found, err := place(n)
			if err != nil {
				return fault.Errorf(fault.Of(err), "read %q: %w", join(path, e.Name), err)
			}
			if found {
				execs[n] = ex
			}
			l.done += n.Size
			if l.opt.Progress != nil {
				l.opt.Progress(l.done, l.total)
			}
		}
		if err := l.flush(); err != nil {
			return err
		}
	}
	return nil
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func (l *layout) small(n *tree.Node) (executables.Entry, bool, error) {
	b, err := n.ReadAll(smallFile)
	if err != nil {
		return executables.Entry{}, false, err
	}
	sum := block.Sum(b)
	ex, found, err := inspect(bytes.NewReader(b), n.Size, sum)
	if err != nil {
		return ex, false, err
	}
	if off, ok := l.placed[sum]; ok {
		n.Offset = off
		return ex, found, nil
	}
	n.Offset = l.reserve(n.Size)
	l.placed[sum] = n.Offset
	return ex, found, l.add(b, n.Offset)
}

// reserve takes the next free range of the device for size bytes.
func (l *layout) reserve(size int64) int64 {
	off := l.next
	l.next += (size + BlockSize - 1) / BlockSize * BlockSize
	l.placedBytes += size
	return off
}

func (l *layout) large(n *tree.Node) (executables.Entry, bool, error) {
	var none executables.Entry
	r, err := n.Content.Open()
	if err != nil {
		return none, false, err
	}
	defer r.Close()
	next, placedBytes, extents := l.next, l.placedBytes, len(l.cm.Extents)
	n.Offset = l.reserve(n.Size)
	var whole *blake3.Hasher // of files that could be executables
	piece := make([]byte, zeroPiece)
	var zeros int64
	for pos := int64(0); pos < n.Size; {
		part := piece[:min(zeroPiece, n.Size-pos)]
		if _, err := io.ReadFull(r, part); err != nil {
			return none, false, shrunk(err, n.Size)
		}
		if pos == 0 && candidate(part) {
			whole = blake3.New()
		}
		if whole != nil {
			whole.Write(part)
		}
		if len(part) == zeroPiece && allZero(part) {
			if err := l.flush(); err != nil {
				return none, false, err
			}
			zeros += zeroPiece
		} else {
			l.zeros(n.Offset+pos-zeros, zeros)
			zeros = 0
			if err := l.add(part, n.Offset+pos); err != nil {
				return none, false, err
			}
		}
		pos += int64(len(part))
		if err := l.ctx.Err(); err != nil {
			return none, false, err
		}
	}
	l.zeros(n.Offset+n.Size-zeros, zeros)
	if err := l.flush(); err != nil {
		return none, false, err
	}
	if k, err := r.Read(piece[:1]); k > 0 || err != nil && err != io.EOF {
		return none, false, fault.Errorf(fault.Conflict, "the file grew beyond %d bytes while it was read; build again when it is at rest", n.Size)
	}
	// The list of chunks is as good as a hash of the content: equal content was
	// cut equally, since every large file is cut alone.
	key := l.listName(l.cm.Extents[extents:], n.Offset)
	if off, ok := l.placed[key]; ok {
		l.cm.Extents = l.cm.Extents[:extents]
		l.next, l.placedBytes = next, placedBytes
		n.Offset = off
	} else {
		l.placed[key] = n.Offset
	}
	if whole == nil {
		return none, false, nil
	}
	ra, done, err := readerAt(n)
	if err != nil {
		return none, false, err
	}
	defer done()
	return inspect(ra, n.Size, block.Name(whole.Sum(nil)))
}

func inspect(r io.ReaderAt, size int64, sum block.Name) (executables.Entry, bool, error) {
	info, ok, err := executables.Inspect(r, size)
	return executables.Entry{Kind: info.Kind, Interpreter: info.Interpreter, Flags: info.Flags, Hash: sum}, ok, err
}

// candidate reports whether a file that starts so can be an executable.
func candidate(head []byte) bool {
	return bytes.HasPrefix(head, []byte("\x7fELF")) || bytes.HasPrefix(head, []byte("#!"))
}

// readerAt opens content for random reads; sources that only stream are read
// into memory.
func readerAt(n *tree.Node) (io.ReaderAt, func(), error) {
	r, err := n.Content.Open()
	if err != nil {
		return nil, nil, err
	}
	if ra, ok := r.(io.ReaderAt); ok {
		return ra, func() { r.Close() }, nil
	}
	r.Close()
	b, err := n.ReadAll(MaxObject)
	return bytes.NewReader(b), func() {}, err
}

func shrunk(err error, size int64) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fault.Errorf(fault.Conflict, "the file ended before %d bytes while it was read; build again when it is at rest", size)
	}
	return err
}

func (l *layout) listName(extents []chunkmap.Extent, base int64) block.Name {
	h := blake3.New()
	var rec [20]byte
	for _, e := range extents {
		binary.LittleEndian.PutUint64(rec[:], e.Off-uint64(base))
		binary.LittleEndian.PutUint32(rec[8:], e.Len)
		binary.LittleEndian.PutUint32(rec[12:], e.Chunk)
		binary.LittleEndian.PutUint32(rec[16:], e.In)
		h.Write(rec[:])
	}
	return block.Name(h.Sum(nil))
}

func allZero(b []byte) bool {
	return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

// zeros records a run of zeros in the map.
func (l *layout) zeros(off, n int64) {
	for n > 0 {
		k := min(n, maxExtent)
		l.cm.Extents = append(l.cm.Extents, chunkmap.Extent{Off: uint64(off), Len: uint32(k), Chunk: chunkmap.Zeros})
		off += k
		n -= k
	}
}

// add appends bytes that belong at off in the device to the stream and takes
// off chunks as soon as enough is there to cut them.
func (l *layout) add(b []byte, off int64) error {
	l.buf = append(l.buf, b...)
	if k := len(l.pieces); k > 0 && l.pieces[k-1].off+l.pieces[k-1].len == off {
		l.pieces[k-1].len += int64(len(b))
	} else {
		l.pieces = append(l.pieces, piece{off, int64(len(b))})
	}
	return l.cut(block.Image.Max)
}

// flush cuts what is left of the stream.
func (l *layout) flush() error { return l.cut(1) }

func (l *layout) cut(least int) error {
	b := l.buf
	for len(b) >= least {
		n := block.Image.Cut(b)
		if err := l.chunk(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	l.buf = append(l.buf[:0], b...)
	return nil
}

func (l *layout) chunk(b []byte) error {
	name := l.opt.Domain.Name(b)
	index, ok := l.chunks[name]
	if !ok {
		index = uint32(len(l.cm.Chunks))
		l.chunks[name] = index
		l.cm.Chunks = append(l.cm.Chunks, chunkmap.Chunk{Name: name, Plain: uint32(len(b))})
		if err := l.pack.add(name, b); err != nil {
			return err
		}
	}
	used := 0
	for in := 0; in < len(b); {
		p := &l.pieces[used]
		n := min(int64(len(b)-in), p.len)
		l.cm.Extents = append(l.cm.Extents, chunkmap.Extent{Off: uint64(p.off), Len: uint32(n), Chunk: index, In: uint32(in)})
		in += int(n)
		p.off += n
		p.len -= n
		if p.len == 0 {
			used++
		}
	}
	l.pieces = append(l.pieces[:0], l.pieces[used:]...)
	return nil
}
