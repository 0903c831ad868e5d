package block

import (
	"context"
	"io"
	"iter"

	"github.com/zeebo/blake3"

	"zos.internal/internal/fault"
)

// BlobsIn keeps blobs in b, each at prefix followed by the text form of its
// name. Packs of a hub are BlobsIn(b, "p/"). Policy such as a retry or a limit
// is put around b.
func BlobsIn(b Bucket, prefix string) Blobs { return blobs{b, prefix} }

type blobs struct {
	b      Bucket
	prefix string
}

var _ Blobs = blobs{}

func (s blobs) key(n Name) string { return s.prefix + n.String() }

func (s blobs) Read(ctx context.Context, n Name, off, size int64) ([]byte, error) {
	b, err := s.b.Read(ctx, s.key(n), off, size)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != size {
		return nil, fault.Errorf(fault.Invalid, "read %d bytes at %d of blob %v: got %d; the blob is truncated or the range is wrong", size, off, n, len(b))
	}
	return b, nil
}

// Put hands the bytes through a reader that fails at the end if they have
// another name; a Bucket makes nothing visible of a reader that fails.
func (s blobs) Put(ctx context.Context, n Name, r io.Reader) error {
	v := &nameReader{r: r, want: n, hash: blake3.New()}
	var w io.Reader = v
	if seeker, ok := r.(io.Seeker); ok {
		if start, err := seeker.Seek(0, io.SeekCurrent); err == nil {
			w = &nameSeeker{nameReader: v, s: seeker, start: start}
		}
	}
	if err := s.b.Write(ctx, s.key(n), w); err != nil {
		return err
	}
	if !v.done {
		return fault.Errorf(fault.Internal, "put blob %v: the bucket did not read it to the end", n)
	}
	return nil
}

func (s blobs) Stat(ctx context.Context, n Name) (int64, error) { return s.b.Stat(ctx, s.key(n)) }

// List yields only keys that are names; other files may lie beside them.
func (s blobs) List(ctx context.Context) iter.Seq2[Name, error] {
	return func(yield func(Name, error) bool) {
		for key, err := range s.b.List(ctx, s.prefix) {
			if err != nil {
				yield(Name{}, err)
				return
			}
			n, err := ParseName(key[len(s.prefix):])
			if err != nil {
				continue
			}
			if !yield(n, nil) {
				return
			}
		}
	}
}

func (s blobs) Delete(ctx context.Context, n Name) error { return s.b.Delete(ctx, s.key(n)) }

// nameReader passes bytes on and replaces the end of the stream by an error if
// they don't have the wanted name.
type nameReader struct {
	r    io.Reader
	want Name
	hash *blake3.Hasher
	done bool
}

func (v *nameReader) Read(b []byte) (int, error) {
	n, err := v.r.Read(b)
	v.hash.Write(b[:n])
	if err == io.EOF {
		var got Name
		v.hash.Sum(got[:0])
		if got != v.want {
			return n, fault.Errorf(fault.Invalid, "put blob %v: the bytes have the name %v; make the blob again", v.want, got)
		}
		v.done = true
	}
	return n, err
}

// nameSeeker is a nameReader that a retry can rewind to its start.
type nameSeeker struct {
	*nameReader
	s          io.Seeker
	start, pos int64
}

func (v *nameSeeker) Read(b []byte) (int, error) {
	n, err := v.nameReader.Read(b)
	v.pos += int64(n)
	return n, err
}

// Seek tells the position and goes back to the start; the hash can't go
// elsewhere.
func (v *nameSeeker) Seek(off int64, whence int) (int64, error) {
	switch {
	case off == 0 && whence == io.SeekCurrent:
		return v.pos, nil
	case off != 0 || whence != io.SeekStart:
		return 0, fault.Errorf(fault.Unsupported, "seek in blob: only to its start")
	}
	if _, err := v.s.Seek(v.start, io.SeekStart); err != nil {
		return 0, err
	}
	v.hash.Reset()
	v.pos, v.done = 0, false
	return 0, nil
}
