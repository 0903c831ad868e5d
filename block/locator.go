package block

import (
	"encoding/binary"
	"math"

	"zos.internal/internal/fault"
)

// Locator says in which pack, and where in it, each chunk of an image is. It is
// a hint: chunks are checked against their names, so a wrong locator costs a
// failed read and never gives wrong bytes. Repacking makes a new locator and
// changes no id.
type Locator struct {
	Packs []PackRef
	// Where has one location for each chunk, in the order of the image's map.
	Where []Location
}

// PackRef names a pack and its size in bytes.
type PackRef struct {
	Name Name
	Size int64
}

// Location is the place of a stored chunk: index into Locator.Packs, offset and
// stored length in bytes. Stored 0 says that the place is not known.
type Location struct {
	Pack   uint32
	Off    uint64
	Stored uint32
}

func (l Location) check(packs []PackRef) bool {
	if l.Stored == 0 {
		return l == Location{}
	}
	if int64(l.Pack) >= int64(len(packs)) || l.Stored > maxStored || l.Off > MaxPack {
		return false
	}
	return l.Off+uint64(l.Stored) <= uint64(packs[l.Pack].Size)
}

// Marshal returns the wire form of l. A location outside its pack is Invalid.
func (l Locator) Marshal() ([]byte, error) {
	if len(l.Packs) > math.MaxUint32 {
		return nil, fault.Errorf(fault.Invalid, "write locator: %d packs are too many", len(l.Packs))
	}
	b := appendHead(nil, cborMap, 2)
	b = appendHead(b, cborUint, 1)
	b = appendHead(b, cborArray, uint64(len(l.Packs)))
	for _, p := range l.Packs {
		if p.Size < 1 || p.Size > MaxPack {
			return nil, fault.Errorf(fault.Invalid, "write locator: pack %v has %d bytes instead of 1 to %d", p.Name, p.Size, MaxPack)
		}
		b = appendHead(b, cborArray, 2)
		b = appendHead(b, cborBytes, uint64(len(p.Name)))
		b = append(b, p.Name[:]...)
		b = appendHead(b, cborUint, uint64(p.Size))
	}
	where := make([]byte, 0, 10*len(l.Where))
	for i, w := range l.Where {
		if !w.check(l.Packs) {
			return nil, fault.Errorf(fault.Invalid, "write locator: chunk %d is at %+v, which is not inside a pack", i, w)
		}
		where = binary.AppendUvarint(where, uint64(w.Pack))
		where = binary.AppendUvarint(where, w.Off)
		where = binary.AppendUvarint(where, uint64(w.Stored))
	}
	b = appendHead(b, cborUint, 2)
	b = appendHead(b, cborBytes, uint64(len(where)))
	return append(b, where...), nil
}

// ParseLocator reads the wire form of a locator for an image of the given number
// of chunks. Bytes that Marshal would not write are Invalid. Memory is bounded
// by six times the input.
func ParseLocator(b []byte, chunks int) (Locator, error) {
	l, err := parseLocator(b, chunks)
	if err != nil {
		return Locator{}, fault.Errorf(fault.Of(err), "read locator: %w", err)
	}
	return l, nil
}

func parseLocator(b []byte, chunks int) (Locator, error) {
	r := cborReader{b: b}
	if r.head(cborMap) != 2 || r.head(cborUint) != 1 {
		r.fail("no map of the keys 1 and 2")
	}
	n := r.head(cborArray)
	if r.err == nil && n > uint64(len(r.b)/36) {
		r.fail("more packs than the document has room for")
	}
	var l Locator
	if r.err == nil {
		l.Packs = make([]PackRef, 0, n)
	}
	for i := uint64(0); i < n && r.err == nil; i++ {
		if r.head(cborArray) != 2 {
			r.fail("a pack that has not 2 items")
		}
		p := PackRef{Name: r.name()}
		size := r.head(cborUint)
		if r.err == nil && (size < 1 || size > MaxPack) {
			return l, fault.Errorf(fault.Invalid, "pack %v has %d bytes instead of 1 to %d", p.Name, size, MaxPack)
		}
		p.Size = int64(size)
		l.Packs = append(l.Packs, p)
	}
	if r.head(cborUint) != 2 {
		r.fail("no key 2")
	}
	where := r.bytes()
	if err := r.end(); err != nil {
		return l, err
	}
	if chunks < 0 || chunks > len(where)/3 {
		return l, fault.Errorf(fault.Invalid, "%d bytes of places are too few for %d chunks", len(where), chunks)
	}
	l.Where = make([]Location, 0, chunks)
	for i := range chunks {
		var v [3]uint64
		for j := range v {
			x, n := binary.Uvarint(where)
			if n <= 0 || n > 1 && x>>(7*(n-1)) == 0 {
				return l, fault.Errorf(fault.Invalid, "the place of chunk %d is cut off or longer than needed", i)
			}
			v[j], where = x, where[n:]
		}
		if v[0] > math.MaxUint32 || v[2] > math.MaxUint32 {
			return l, fault.Errorf(fault.Invalid, "the place of chunk %d is out of range", i)
		}
		w := Location{uint32(v[0]), v[1], uint32(v[2])}
		if !w.check(l.Packs) {
			return l, fault.Errorf(fault.Invalid, "chunk %d is at %+v, which is not inside a pack", i, w)
		}
		l.Where = append(l.Where, w)
	}
	if len(where) > 0 {
		return l, fault.Errorf(fault.Invalid, "it places more than %d chunks", chunks)
	}
	return l, nil
}
