package chunkmap

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"iter"
	"math/bits"
	"os"
	"sort"

	"golang.org/x/sys/unix"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// View reads an encoded map in place. It is safe for concurrent use. The bytes
// must not change while the View is used.
type View struct {
	b       []byte
	chunks  int
	extents int
	device  uint64
	mapped  bool
}

// NewView checks the encoded map b of a device of deviceBytes and reads it in
// place; b is kept. The errors are those of Parse.
func NewView(b []byte, deviceBytes uint64) (*View, error) {
	c, x, err := sizes(b)
	if err != nil {
		return nil, err
	}
	v := &View{b: b, chunks: c, extents: x, device: deviceBytes}
	if err := v.check(); err != nil {
		return nil, err
	}
	return v, nil
}

// Open maps the file at path and checks it like NewView. Its pages are the
// kernel's, not the heap's. The file must be private to the program: cutting
// it short while it is mapped kills the program. Close unmaps it.
func Open(path string, deviceBytes uint64) (*View, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() > MaxBytes || fi.Size() < headerSize {
		return nil, fault.Errorf(fault.Invalid, "open chunk map %s: %d bytes, want %d to %d; fetch the image again", path, fi.Size(), headerSize, MaxBytes)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fault.Errorf(fault.Unavailable, "map %s into memory: %w", path, err)
	}
	v, err := NewView(b, deviceBytes)
	if err != nil {
		unix.Munmap(b)
		return nil, err
	}
	v.mapped = true
	// The check touched every page once; only a few are needed from now on.
	unix.Madvise(b, unix.MADV_DONTNEED)
	return v, nil
}

// Close unmaps what Open mapped; the View must not be used afterwards.
func (v *View) Close() error {
	if !v.mapped {
		return nil
	}
	b := v.b
	v.b, v.mapped, v.chunks, v.extents = nil, false, 0, 0
	return unix.Munmap(b)
}

// Chunks is the number of chunks.
func (v *View) Chunks() int { return v.chunks }

// Extents is the number of extents.
func (v *View) Extents() int { return v.extents }

// DeviceBytes is the size of the device that the map was checked against.
func (v *View) DeviceBytes() uint64 { return v.device }

// Chunk is chunk number i, 0 ≤ i < Chunks.
func (v *View) Chunk(i int) Chunk {
	b := v.b[headerSize+i*chunkSize:][:chunkSize]
	return Chunk{Name: block.Name(b[:32]), Plain: binary.LittleEndian.Uint32(b[32:])}
}

// Extent is extent number i, 0 ≤ i < Extents.
func (v *View) Extent(i int) Extent {
	b := v.b[headerSize+v.chunks*chunkSize+i*extentSize:][:extentSize]
	le := binary.LittleEndian
	return Extent{Off: le.Uint64(b), Len: le.Uint32(b[8:]), Chunk: le.Uint32(b[12:]), In: le.Uint32(b[16:])}
}

// Find is the number of the first extent that ends behind device byte off;
// Extents when there is none.
func (v *View) Find(off uint64) int {
	return sort.Search(v.extents, func(i int) bool { return v.Extent(i).End() > off })
}

// Range yields, in order, the extents that touch the device bytes from off up
// to end, uncut.
func (v *View) Range(off, end uint64) iter.Seq[Extent] {
	return func(yield func(Extent) bool) {
		for i := v.Find(off); i < v.extents; i++ {
			x := v.Extent(i)
			if x.Off >= end || !yield(x) {
				return
			}
		}
	}
}

// Map decodes the whole map.
func (v *View) Map() *Map {
	m := &Map{Chunks: make([]Chunk, v.chunks), Extents: make([]Extent, v.extents)}
	for i := range m.Chunks {
		m.Chunks[i] = v.Chunk(i)
	}
	for i := range m.Extents {
		m.Extents[i] = v.Extent(i)
	}
	return m
}

func (v *View) check() error {
	if v.device > MaxDevice {
		return fault.Errorf(fault.Invalid, "read chunk map: a device of %d bytes is larger than the limit of %d; split the image", v.device, uint64(MaxDevice))
	}
	for i := range v.chunks {
		if c := v.Chunk(i); c.Plain == 0 || c.Plain > MaxPlain {
			return fault.Errorf(fault.Invalid, "read chunk map: chunk %d has %d bytes, want 1 to %d; build the image again", i, c.Plain, MaxPlain)
		}
	}
	used, end := 0, uint64(0)
	for i := range v.extents {
		x := v.Extent(i)
		switch {
		case x.Len == 0:
			return fault.Errorf(fault.Invalid, "read chunk map: extent %d is empty; build the image again", i)
		case x.Off < end:
			return fault.Errorf(fault.Invalid, "read chunk map: extent %d starts at %d, before the end %d of the one before; build the image again", i, x.Off, end)
		case x.Off > v.device || uint64(x.Len) > v.device-x.Off:
			return fault.Errorf(fault.Invalid, "read chunk map: extent %d (%d bytes at %d) reaches outside the device of %d bytes; build the image again", i, x.Len, x.Off, v.device)
		}
		end = x.End()
		if x.Chunk == Zeros {
			if x.In != 0 {
				return fault.Errorf(fault.Invalid, "read chunk map: extent %d of zeros has offset %d, want 0; build the image again", i, x.In)
			}
			continue
		}
		if int64(x.Chunk) > int64(used) || int64(x.Chunk) >= int64(v.chunks) {
			return fault.Errorf(fault.Invalid, "read chunk map: extent %d uses chunk %d, but only %d are in use before it and %d exist; chunks are listed in order of first use", i, x.Chunk, used, v.chunks)
		}
		if int(x.Chunk) == used {
			used++
		}
		if plain := v.Chunk(int(x.Chunk)).Plain; uint64(x.In)+uint64(x.Len) > uint64(plain) {
			return fault.Errorf(fault.Invalid, "read chunk map: extent %d takes %d bytes from %d of chunk %d, which has %d; build the image again", i, x.Len, x.In, x.Chunk, plain)
		}
	}
	if used != v.chunks {
		return fault.Errorf(fault.Invalid, "read chunk map: chunk %d is used by no extent; build the image again", used)
	}
	return v.distinct()
}

// distinct checks that no name is listed twice. Whoever made the map chose the
// names, so they are hashed with a seed that nobody knows.
func (v *View) distinct() error {
	name := func(i uint32) []byte { return v.b[headerSize+int(i)*chunkSize:][:32] }
	seed := maphash.MakeSeed()
	places := make([]uint32, 1<<bits.Len(uint(v.chunks+v.chunks/2))) // number + 1, a third free at least
	for i := range uint32(v.chunks) {
		at := maphash.Bytes(seed, name(i))
		for {
			at &= uint64(len(places) - 1)
			other := places[at]
			if other == 0 {
				places[at] = i + 1
				break
			}
			if bytes.Equal(name(other-1), name(i)) {
				return fault.Errorf(fault.Invalid, "read chunk map: chunk %v is listed twice; build the image again", v.Chunk(int(i)).Name)
			}
			at++
		}
	}
	return nil
}
