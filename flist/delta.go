package flist

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/bits"

	"github.com/klauspost/compress/zstd"

	"zos.internal/block"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// Limits of a delta in bytes.
const (
	MaxDelta = 64 << 20 // the whole, as published

	deltaObject  = 64 << 20 // metadata or map, of either image
	deltaSection = 8 << 20  // plain bytes of a section; of what it refers to, too
	deltaHeader  = 8 << 20

	deltaMagic = "ZOSDELT1"
	deltaFixed = len(deltaMagic) + 2*len(block.Name{})
	deltaDict  = 1 // number of the dictionary in a frame
)

// DeltaKey is where the difference of an image from an older one is.
func DeltaKey(id ID) string { return "d/" + id.String() }

// Delta is the wire form of what an image has and an older one, its base, has
// not, compressed against the base. It is a hint: whoever applies it checks
// every byte against the root and the map, so a wrong one costs time only.
type Delta struct {
	ID, Base ID
	body     []byte // sealed in a private image
}

// deltaHead is the head of a delta: what the frames behind it hold.
type deltaHead struct {
	_ struct{} `cbor:",toarray"`
	// Objects are the lengths of the frames of metadata, map, config and
	// executables; 0 stands for the object of the base as it is.
	Objects  []uint64
	Sections []deltaPart
}

// deltaPart is a section: a number of chunks of the image that the base lacks, in
// the order of the map.
type deltaPart struct {
	_      struct{} `cbor:",toarray"`
	Chunks uint64
	Runs   [][2]uint64 // first and count of the chunks of the base it refers to
	Length uint64      // of the frame
}

// ParseDelta reads the outer form of a delta: which image it makes of which.
func ParseDelta(b []byte) (*Delta, error) {
	if len(b) > MaxDelta || len(b) < deltaFixed+4 || string(b[:len(deltaMagic)]) != deltaMagic {
		return nil, fault.Errorf(fault.Invalid, "parse delta: the %d bytes are none; fetch the image without it", len(b))
	}
	d := &Delta{body: b[deltaFixed:]}
	copy(d.ID[:], b[len(deltaMagic):])
	copy(d.Base[:], b[len(deltaMagic)+len(d.ID):])
	if d.ID == d.Base {
		return nil, fault.Errorf(fault.Invalid, "parse delta: image %v is its own base", d.ID)
	}
	return d, nil
}

// Check reports whether the base lies in the bucket with all its packs. It reads
// root, map and locator of the base; a part that is missing is NotFound.
func (d *Delta) Check(ctx context.Context, in block.Bucket, dom block.Domain) error {
	_, err := loadBases(ctx, in, BuildOptions{Bases: []ID{d.Base}, Domain: dom})
	return err
}

// sealName is the name under which the body is sealed in a private image.
func (d *Delta) sealName(dom block.Domain) block.Name {
	return dom.Name(bytes.Join([][]byte{[]byte("zos.flist.delta.1"), d.ID[:], d.Base[:]}, nil))
}

// encode returns the published bytes.
func (d *Delta) encode(dom block.Domain, head deltaHead, frames []byte) ([]byte, error) {
	h, err := canon.Marshal(head)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "encode delta: %w", err)
	}
	body := binary.LittleEndian.AppendUint32(nil, uint32(len(h)))
	body = append(append(body, h...), frames...)
	if dom.Private() {
		body = dom.Seal(d.sealName(dom), block.Zstd|block.Sealed, len(body), body)
	}
	b := append([]byte(deltaMagic), d.ID[:]...)
	b = append(append(b, d.Base[:]...), body...)
	if len(b) > MaxDelta || len(h) > deltaHeader {
		return nil, fault.Errorf(fault.Exhausted, "encode delta: %d bytes; at most %d are possible", len(b), MaxDelta)
	}
	return b, nil
}

// open returns the head and the frames. Their lengths fit each other.
func (d *Delta) open(dom block.Domain) (head deltaHead, frames []byte, err error) {
	bad := func(what string) (deltaHead, []byte, error) {
		return deltaHead{}, nil, fault.Errorf(fault.Invalid, "read delta of image %v: %s; fetch the image without it", d.ID, what)
	}
	body := d.body
	if dom.Private() {
		if body, err = dom.Open(d.sealName(dom), block.Zstd|block.Sealed, len(body)-block.SealOverhead, body); err != nil {
			return head, nil, err
		}
	}
	if len(body) < 4 {
		return bad("it is cut off")
	}
	n := binary.LittleEndian.Uint32(body)
	body = body[4:]
	if n > deltaHeader || int(n) > len(body) {
		return bad("its head is longer than all of it")
	}
	if err := canon.Unmarshal(body[:n], &head); err != nil {
		return bad("its head is damaged")
	}
	frames = body[n:]
	left := uint64(len(frames))
	take := func(n uint64) bool {
		ok := n <= left
		left -= min(n, left)
		return ok
	}
	if len(head.Objects) != 3 && len(head.Objects) != 4 {
		return bad("it has not 3 or 4 objects")
	}
	for _, n := range head.Objects {
		if !take(n) {
			return bad("an object is cut off")
		}
	}
	for _, s := range head.Sections {
		if s.Length == 0 || s.Chunks == 0 || s.Chunks > deltaSection || !take(s.Length) {
			return bad("a section is empty or cut off")
		}
	}
	if left > 0 {
		return bad("bytes follow its sections")
	}
	return head, frames, nil
}

// squeeze compresses plain into one zstd frame that may refer to the bytes of
// ref, a raw dictionary.
func squeeze(plain, ref []byte) ([]byte, error) {
	// References reach back one window from the end of the content.
	window := max(1<<bits.Len(uint(len(plain)+len(ref))), zstd.MinWindowSize)
	opts := []zstd.EOption{zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(min(window, zstd.MaxWindowSize)), zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(true)}
	if len(ref) >= 8 {
		opts = append(opts, zstd.WithEncoderDictRaw(deltaDict, ref))
	}
	w, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	return w.EncodeAll(plain, nil), nil
}

// unsqueeze is the inverse of squeeze for a frame that must hold size bytes. It
// allocates no more than that and working memory of fixed size.
func unsqueeze(frame, ref []byte, size int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(frame); err != nil || !h.HasFCS || h.FrameContentSize != uint64(size) || h.Skippable {
		return nil, fault.Errorf(fault.Invalid, "the frame does not hold the %d bytes that it should", size)
	}
	opts := []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2 * deltaObject), zstd.WithDecodeAllCapLimit(true)}
	if len(ref) >= 8 {
		opts = append(opts, zstd.WithDecoderDictRaw(deltaDict, ref))
	}
	r, err := zstd.NewReader(nil, opts...)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	plain, err := r.DecodeAll(frame, make([]byte, 0, size))
	if err != nil || len(plain) != size {
		return nil, fault.Errorf(fault.Invalid, "a frame is damaged or refers to other bytes than the base has")
	}
	return plain, nil
}

// objects are the references to metadata, map, config and, if there is one,
// executables.
func (r *Root) objects() []Ref {
	refs := []Ref{r.Metadata, r.Map, r.Config}
	if r.Executables != nil {
		refs = append(refs, *r.Executables)
	}
	return refs
}
