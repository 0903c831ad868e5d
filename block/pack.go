package block

import (
	"bytes"
	"encoding/binary"
	"io"
	"iter"

	"github.com/zeebo/blake3"

	"zos.internal/internal/fault"
)

// Sizes of packs in bytes.
const (
	PackTarget = 16 << 20 // close a pack when it reaches this size
	MaxPack    = 64 << 20 // no pack is longer, its directory included

	packMagic  = "ZPK1"
	packFooter = 8 + 4 + len(packMagic)
	// maxDirEntry is the longest directory entry; minDirEntry the shortest.
	maxDirEntry = 1 + 34 + 5 + 5 + 5 + 2
	minDirEntry = 1 + 34 + 1 + 1 + 1 + 1
	maxStored   = MaxPlain + SealOverhead
)

// PackEntry describes one chunk of a pack: its offset, stored length and plain
// length in bytes, and its encoding.
type PackEntry struct {
	Name   Name
	Off    int64
	Stored int
	Plain  int
	Enc    byte
}

// PackWriter writes a pack to a stream: bodies as they come, the directory at
// the end.
type PackWriter struct {
	w       io.Writer
	hash    *blake3.Hasher
	off     int64
	entries []PackEntry
	seen    map[Name]struct{}
	err     error
}

// NewPackWriter returns a writer of one pack.
func NewPackWriter(w io.Writer) *PackWriter {
	h := blake3.New()
	return &PackWriter{w: io.MultiWriter(w, h), hash: h, seen: map[Name]struct{}{}}
}

// Add appends a chunk that was encoded (and sealed) to stored bytes. A chunk
// that is in the pack already is not written again. Lengths that can't be right
// are Invalid; a pack that would get longer than MaxPack is Exhausted and can
// still be closed.
func (p *PackWriter) Add(name Name, enc byte, plain int, stored []byte) error {
	if p.err != nil {
		return p.err
	}
	if err := checkLengths(enc, plain, len(stored)); err != nil {
		return fault.Errorf(fault.Of(err), "add chunk %v to pack: %w", name, err)
	}
	if _, ok := p.seen[name]; ok {
		return nil
	}
	if p.off+int64(len(stored))+p.dirBound(len(p.entries)+1) > MaxPack {
		return fault.Errorf(fault.Exhausted, "add chunk %v to pack: it has %d bytes already; close it and start the next", name, p.off)
	}
	if _, err := p.w.Write(stored); err != nil {
		p.err = fault.Errorf(fault.Of(err), "write pack: %w", err)
		return p.err
	}
	p.entries = append(p.entries, PackEntry{name, p.off, len(stored), plain, enc})
	p.seen[name] = struct{}{}
	p.off += int64(len(stored))
	return nil
}

func (p *PackWriter) dirBound(entries int) int64 {
	return int64(5 + entries*maxDirEntry + packFooter)
}

// Size is a bound on the size in bytes of the pack if it were closed now.
func (p *PackWriter) Size() int64 { return p.off + p.dirBound(len(p.entries)) }

// Len is the number of chunks.
func (p *PackWriter) Len() int { return len(p.entries) }

// Full reports whether the pack reached its target size.
func (p *PackWriter) Full() bool { return p.Size() >= PackTarget }

// Close writes the directory and returns the name, the size and the entries of
// the pack. A pack without chunks is Invalid.
func (p *PackWriter) Close() (Name, int64, []PackEntry, error) {
	if p.err == nil && len(p.entries) == 0 {
		p.err = fault.Errorf(fault.Invalid, "close pack: it has no chunk; write nothing instead")
	}
	if p.err != nil {
		return Name{}, 0, nil, p.err
	}
	dir := appendPackDir(nil, p.entries)
	n := len(dir)
	dir = binary.LittleEndian.AppendUint64(dir, uint64(p.off))
	dir = binary.LittleEndian.AppendUint32(dir, uint32(n))
	dir = append(dir, packMagic...)
	if _, err := p.w.Write(dir); err != nil {
		p.err = fault.Errorf(fault.Of(err), "write pack directory: %w", err)
		return Name{}, 0, nil, p.err
	}
	p.err = fault.Errorf(fault.Internal, "write pack: it is closed")
	var name Name
	p.hash.Sum(name[:0])
	return name, p.off + int64(len(dir)), p.entries, nil
}

func appendPackDir(b []byte, entries []PackEntry) []byte {
	b = appendHead(b, cborArray, uint64(len(entries)))
	for _, e := range entries {
		b = appendHead(b, cborArray, 5)
		b = appendHead(b, cborBytes, uint64(len(e.Name)))
		b = append(b, e.Name[:]...)
		b = appendHead(b, cborUint, uint64(e.Off))
		b = appendHead(b, cborUint, uint64(e.Stored))
		b = appendHead(b, cborUint, uint64(e.Plain))
		b = appendHead(b, cborUint, uint64(e.Enc))
	}
	return b
}

// parsePackDir reads a directory whose bodies fill exactly body bytes.
func parsePackDir(b []byte, body int64) ([]PackEntry, error) {
	r := cborReader{b: b}
	n := r.head(cborArray)
	if r.err == nil && (n == 0 || n > uint64(len(r.b)/minDirEntry)) {
		r.fail("a number of entries that doesn't fit the directory")
	}
	if r.err != nil {
		return nil, r.err
	}
	entries := make([]PackEntry, 0, n)
	seen := make(map[Name]struct{}, n)
	var off int64
	for range n {
		if r.head(cborArray) != 5 && r.err == nil {
			r.fail("an entry that has not 5 items")
		}
		name := r.name()
		o, stored, plain, enc := r.head(cborUint), r.head(cborUint), r.head(cborUint), r.head(cborUint)
		if r.err != nil {
			return nil, r.err
		}
		if enc > 255 || plain > MaxPlain || stored > maxStored || o != uint64(off) {
			return nil, fault.Errorf(fault.Invalid, "chunk %v is not where the one before ends, or a number is out of range", name)
		}
		if err := checkLengths(byte(enc), int(plain), int(stored)); err != nil {
			return nil, fault.Errorf(fault.Of(err), "chunk %v: %w", name, err)
		}
		if _, ok := seen[name]; ok {
			return nil, fault.Errorf(fault.Invalid, "chunk %v is there twice", name)
		}
		seen[name] = struct{}{}
		entries = append(entries, PackEntry{name, off, int(stored), int(plain), byte(enc)})
		off += int64(stored)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	if off != body {
		return nil, fault.Errorf(fault.Invalid, "the chunks fill %d of %d body bytes", off, body)
	}
	return entries, nil
}

// ReadPackDir reads the directory of a pack of size bytes. The entries are in
// body order and cover every byte before the directory. A directory that no
// PackWriter writes is Invalid.
func ReadPackDir(r io.ReaderAt, size int64) ([]PackEntry, error) {
	bad := func(format string, args ...any) ([]PackEntry, error) {
		return nil, fault.Errorf(fault.Invalid, "read pack directory: "+format, args...)
	}
	if size > MaxPack || size < int64(packFooter) {
		return bad("a pack has %d to %d bytes, this one %d", packFooter, MaxPack, size)
	}
	foot := make([]byte, packFooter)
	if err := readAt(r, foot, size-int64(packFooter)); err != nil {
		return nil, err
	}
	if !bytes.HasSuffix(foot, []byte(packMagic)) {
		return bad("it does not end with %q; it is truncated or no pack", packMagic)
	}
	off, n := binary.LittleEndian.Uint64(foot), binary.LittleEndian.Uint32(foot[8:])
	if off > MaxPack || int64(off)+int64(n)+int64(packFooter) != size {
		return bad("offset %d and length %d don't fit a pack of %d bytes", off, n, size)
	}
	dir := make([]byte, n)
	if err := readAt(r, dir, int64(off)); err != nil {
		return nil, err
	}
	entries, err := parsePackDir(dir, int64(off))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read pack directory: %w", err)
	}
	return entries, nil
}

func readAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
		return fault.Errorf(fault.Invalid, "read pack: %d of %d bytes at offset %d; it is truncated", n, len(b), off)
	}
	return fault.Errorf(fault.Of(err), "read pack: %w", err)
}

// ScanPack reads all bodies of a pack in order and yields each entry with nil,
// if the chunk is right, or with what is wrong with it. A chunk sealed for a
// private domain while dom is public is yielded with a Denied error. A directory
// that can't be read is yielded once, with a zero entry. Memory is bounded by
// the directory and one chunk.
func ScanPack(r io.ReaderAt, size int64, dom Domain) iter.Seq2[PackEntry, error] {
	return func(yield func(PackEntry, error) bool) {
		entries, err := ReadPackDir(r, size)
		if err != nil {
			yield(PackEntry{}, err)
			return
		}
		var dec Decoder
		var buf []byte
		for _, e := range entries {
			if cap(buf) < e.Stored {
				buf = make([]byte, e.Stored)
			}
			err := readAt(r, buf[:e.Stored], e.Off)
			if err == nil {
				_, err = dec.Chunk(dom, e.Name, e.Enc, e.Plain, buf[:e.Stored])
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// VerifyPack checks the directory and every body that dom can open. It doesn't
// check the name of the pack; Blobs.Put does.
func VerifyPack(r io.ReaderAt, size int64, dom Domain) error {
	for _, err := range ScanPack(r, size, dom) {
		if err != nil && fault.Of(err) != fault.Denied {
			return err
		}
	}
	return nil
}
