// Package chunkmap maps the bytes of an image's data device to chunks.
//
// A map is a list of chunks in order of first use and a list of extents that
// say which bytes of the device come from which bytes of which chunk. Bytes
// that no extent covers are zeros. Map is the map in memory, to build and to
// list; View reads an encoded map in place, so that a program that serves a
// hundred images keeps none of their maps on its heap.
//
// Parse, NewView and Open accept exactly what Encode can write: sorted extents
// that don't overlap and lie inside the device, valid ranges of existing
// chunks, every chunk named once and used, in order of first use. The package
// doesn't fetch, hash or decompress anything; the caller has checked the bytes
// against the name in the image's root.
//
//	m := &chunkmap.Map{
//		Chunks:  []chunkmap.Chunk{{Name: block.Sum(data), Plain: uint32(len(data))}},
//		Extents: []chunkmap.Extent{{Off: 0, Len: uint32(len(data)), Chunk: 0}},
//	}
//	v, err := chunkmap.NewView(m.Encode(), 1<<20)
//	for x := range v.Range(4096, 8192) { ... }
//
// The format is specified in docs/reference/chunkmap.md.
package chunkmap

import (
	"encoding/binary"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// Zeros is the chunk index of an extent that is a hole: its bytes are zeros.
const Zeros = 0xFFFFFFFF

// Limits of a map. A device has at most 2^32 blocks of 4 KiB.
const (
	MaxBytes  = 1 << 30  // of an encoded map
	MaxDevice = 16 << 40 // bytes of a device
	MaxPlain  = 4 << 20  // bytes of one chunk
)

const (
	magic      = "ZOSFMAP1"
	headerSize = 24
	chunkSize  = 36
	extentSize = 20
)

// Chunk is one chunk of an image: its name and its plain length in bytes.
type Chunk struct {
	Name  block.Name
	Plain uint32
}

// Extent says that the Len bytes of the device from Off are the bytes of chunk
// number Chunk from In, or zeros when Chunk is Zeros (In is 0 then).
type Extent struct {
	Off   uint64
	Len   uint32
	Chunk uint32
	In    uint32
}

// End is the device offset behind the extent.
func (x Extent) End() uint64 { return x.Off + uint64(x.Len) }

// Map is a decoded chunk map. Chunks are in order of first use by Extents,
// which are sorted by Off.
type Map struct {
	Chunks  []Chunk
	Extents []Extent
}

// Encode writes the one encoding of m. It doesn't check m: what breaks the
// rules is refused by Check, Parse and NewView.
func (m *Map) Encode() []byte {
	b := make([]byte, 0, headerSize+len(m.Chunks)*chunkSize+len(m.Extents)*extentSize)
	le := binary.LittleEndian
	b = append(b, magic...)
	b = le.AppendUint32(b, uint32(len(m.Chunks)))
	b = le.AppendUint32(b, uint32(len(m.Extents)))
	b = le.AppendUint64(b, 0)
	for _, c := range m.Chunks {
		b = append(b, c.Name[:]...)
		b = le.AppendUint32(b, c.Plain)
	}
	for _, x := range m.Extents {
		b = le.AppendUint64(b, x.Off)
		b = le.AppendUint32(b, x.Len)
		b = le.AppendUint32(b, x.Chunk)
		b = le.AppendUint32(b, x.In)
	}
	return b
}

// Check reports the first rule that m breaks for a device of deviceBytes. A
// builder calls it before it publishes; Invalid names the chunk or extent.
func (m *Map) Check(deviceBytes uint64) error {
	_, err := NewView(m.Encode(), deviceBytes)
	return err
}

// Parse decodes and checks a map of a device of deviceBytes. Whatever isn't
// canonical or reaches outside is Invalid; memory is bounded by len(b).
func Parse(b []byte, deviceBytes uint64) (*Map, error) {
	v, err := NewView(b, deviceBytes)
	if err != nil {
		return nil, err
	}
	return v.Map(), nil
}

// sizes reads the header and checks that b has exactly the announced length.
func sizes(b []byte) (chunks, extents int, err error) {
	if len(b) > MaxBytes {
		return 0, 0, fault.Errorf(fault.Invalid, "read chunk map: %d bytes are more than the limit of %d; split the image", len(b), MaxBytes)
	}
	if len(b) < headerSize || string(b[:8]) != magic {
		return 0, 0, fault.Errorf(fault.Invalid, "read chunk map: the %d bytes do not start like a chunk map; fetch the image again", len(b))
	}
	le := binary.LittleEndian
	c, x := uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:]))
	if le.Uint64(b[16:]) != 0 {
		return 0, 0, fault.Errorf(fault.Invalid, "read chunk map: reserved bytes are not zero; a newer version may be needed to read it")
	}
	if want := headerSize + c*chunkSize + x*extentSize; uint64(len(b)) != want {
		return 0, 0, fault.Errorf(fault.Invalid, "read chunk map: %d bytes for %d chunks and %d extents, want %d; fetch the image again", len(b), c, x, want)
	}
	return int(c), int(x), nil
}
