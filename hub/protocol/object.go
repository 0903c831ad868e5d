package protocol

import (
	"bytes"
	"io"

	"github.com/klauspost/compress/zstd"
	"lukechampine.com/blake3"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// IsFrame reports whether stored starts like an object that is not sealed. A
// sealed one starts with a nonce; that it looks like a frame happens once in
// 2^32 and is then refused, which another encoding of the object cures.
func IsFrame(stored []byte) bool {
	return len(stored) >= 4 && string(stored[:4]) == "\x28\xb5\x2f\xfd"
}

// CheckObject checks that the zstd frame holds bytes of that name, with little
// memory: the bytes are hashed as they come.
func CheckObject(stored []byte, name block.Name, limit int64) error {
	var h zstd.Header
	if err := h.Decode(stored); err != nil || !h.HasFCS || h.Skippable || h.DictionaryID != 0 {
		return fault.Errorf(fault.Invalid, "the object is not one zstd frame with its size")
	}
	if h.FrameContentSize > uint64(limit) {
		return fault.Errorf(fault.Exhausted, "the object has %d plain bytes and %d are taken; split the image, or ask the hub's operator", h.FrameContentSize, limit)
	}
	d, err := zstd.NewReader(bytes.NewReader(stored), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(limit)+1<<20), zstd.WithDecoderMaxWindow(max(8<<20, h.FrameContentSize)))
	if err != nil {
		return err
	}
	defer d.Close()
	sum := blake3.New(32, nil)
	n, err := io.Copy(sum, io.LimitReader(d, int64(h.FrameContentSize)+1))
	if err != nil || uint64(n) != h.FrameContentSize {
		return fault.Errorf(fault.Invalid, "the object's zstd frame is damaged")
	}
	var got block.Name
	sum.Sum(got[:0])
	if got != name {
		return fault.Errorf(fault.Invalid, "the object's bytes have the name %v", got)
	}
	return nil
}
