package tar

import (
	"bufio"
	"bytes"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"zos.internal/internal/fault"
)

// maxWindow bounds the memory of one zstd or xz decoder, in bytes. It admits
// everything that zstd --long and xz -9 write by default.
const maxWindow = 128 << 20

// Decompress detects gzip, zstd and xz by their first bytes and delivers the
// plain stream, which ends with an error if the compressed one is damaged or
// cut. Anything else is delivered as it is; bzip2 and others that would only
// look like a damaged archive are Unsupported. The name is "gzip", "zstd",
// "xz" or "".
func Decompress(r io.Reader) (plain io.ReadCloser, name string, err error) {
	br := bufio.NewReaderSize(r, 256<<10)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, "", fault.Errorf(fault.Of(err), "read the archive: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, "", damaged("gzip", err)
		}
		return &decoder{r: z, name: "gzip", close: z.Close}, "gzip", nil
	case isZstd(head):
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, "", damaged("zstd", err)
		}
		return &decoder{r: z, name: "zstd", close: func() error { z.Close(); return nil }}, "zstd", nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		z, err := newXZ(br)
		if err != nil {
			return nil, "", damaged("xz", err)
		}
		return &decoder{r: z, name: "xz"}, "xz", nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return nil, "", unsupported("bzip2")
	case bytes.HasPrefix(head, []byte("\x04\x22\x4d\x18")):
		return nil, "", unsupported("lz4")
	case bytes.HasPrefix(head, []byte("\x5d\x00\x00")):
		return nil, "", unsupported("lzma")
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return nil, "", unsupported("zip")
	}
	return &decoder{r: br}, "", nil
}

// isZstd accepts a frame and a skippable frame.
func isZstd(head []byte) bool {
	return bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
}

func unsupported(name string) error {
	return fault.Errorf(fault.Unsupported, "the archive is compressed with %s, which is not read; recompress it with gzip, zstd or xz", name)
}

func damaged(name string, err error) error {
	if k := fault.Of(err); k != fault.Internal {
		return err
	}
	return fault.Errorf(fault.Invalid, "the %s stream is damaged or cut: %w", name, err)
}

type decoder struct {
	r     io.Reader
	name  string
	close func() error
}

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != nil && err != io.EOF && d.name != "" {
		err = damaged(d.name, err)
	}
	return n, err
}

func (d *decoder) Close() error {
	if d.close == nil {
		return nil
	}
	return d.close()
}
