package flist

import (
	"context"

	"github.com/klauspost/compress/zstd"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// EncodeObject returns the published bytes of an object (metadata, map, config
// or executables record): one zstd frame, sealed in a private domain.
func EncodeObject(dom block.Domain, plain []byte) (Ref, []byte, error) {
	ref := Ref{Size: uint64(len(plain)), Name: dom.Name(plain)}
	// A frame of a small object has its size only when it is a single segment.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithSingleSegment(len(plain) < 1<<20))
	if err != nil {
		return Ref{}, nil, err
	}
	defer enc.Close()
	stored := enc.EncodeAll(plain, make([]byte, 0, len(plain)/4+64))
	if dom.Private() {
		stored = dom.Seal(ref.Name, block.Zstd|block.Sealed, len(plain), stored)
	}
	return ref, stored, nil
}

// storedLimit bounds what a published object of that plain size may measure.
func storedLimit(size uint64) int64 { return int64(size + size/64 + 4096) }

// DecodeObject opens published bytes and checks them against the reference.
// It allocates no more than the size that ref promises.
func DecodeObject(dom block.Domain, ref Ref, stored []byte) ([]byte, error) {
	bad := func(why string) error {
		return fault.Errorf(fault.Invalid, "object %v: %s; fetch it from another source", ref.Name, why)
	}
	if ref.Size > MaxObject {
		return nil, bad("too large")
	}
	if dom.Private() {
		var err error
		if stored, err = dom.Open(ref.Name, block.Zstd|block.Sealed, int(ref.Size), stored); err != nil {
			return nil, fault.Errorf(fault.Denied, "object %v: it doesn't open with this tenant's secret: %w", ref.Name, err)
		}
	}
	var h zstd.Header
	if err := h.Decode(stored); err != nil || !h.HasFCS || h.FrameContentSize != ref.Size || h.Skippable {
		return nil, bad("it is not a zstd frame of the promised size")
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxObject), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	plain, err := dec.DecodeAll(stored, make([]byte, 0, ref.Size))
	if err != nil || uint64(len(plain)) != ref.Size {
		return nil, bad("its zstd frame is damaged")
	}
	if dom.Name(plain) != ref.Name {
		return nil, bad("its bytes have another hash")
	}
	return plain, nil
}

// ReadObject fetches and checks one object.
func ReadObject(ctx context.Context, from block.Bucket, dom block.Domain, ref Ref) ([]byte, error) {
	stored, err := from.Read(ctx, ObjectKey(ref.Name), 0, storedLimit(ref.Size))
	if err != nil {
		return nil, err
	}
	return DecodeObject(dom, ref, stored)
}
