// Package tar reads tar archives into file trees and writes trees as archives.
//
// Read takes plain, gzip, zstd and xz archives in every dialect of
// archive/tar: ustar, GNU, pax with nanosecond times, extended attributes and
// ACLs, GNU sparse files, hard links, devices. Contents go to a spool, so a
// stream is enough. Names that leave the archive, links to nothing, archives
// that end early and sizes beyond the limits are refused with the name of the
// entry. Of equal names the last one counts.
//
// Write is the inverse: a sorted pax archive in which everything the tree
// holds survives, byte for byte the same for the same tree. The mapping is
// specified in docs/reference/conversion.md.
//
//	res, err := tar.Read(ctx, "root.tar.zst", convert.Options{})
//	if err != nil {
//		return err
//	}
//	defer res.Close()
//	err = tar.Write(ctx, w, res.Root, convert.WriteOptions{})
package tar

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"

	"zos.internal/flist/convert"
	"zos.internal/internal/fault"
)

var _ convert.Opener = Read

// Read reads the archive at path; "-" is opts.Stdin. The provenance of the
// result is "tar:sha256:" and the digest of the bytes of the file.
func Read(ctx context.Context, path string, opts convert.Options) (*convert.Result, error) {
	if path == "-" {
		if opts.Stdin == nil {
			return nil, fault.Errorf(fault.Invalid, "read the archive \"-\": there is no standard input here; name a file")
		}
		return ReadFrom(ctx, opts.Stdin, 0, opts)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read the archive: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read the archive: %w", err)
	}
	if st.IsDir() {
		return nil, fault.Errorf(fault.Invalid, "read the archive %q: it is a directory; write dir:%s", path, path)
	}
	res, err := ReadFrom(ctx, f, st.Size(), opts)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "archive %q: %w", path, err)
	}
	return res, nil
}

// ReadFrom reads an archive of size bytes (0: unknown, for the progress only)
// to its end.
func ReadFrom(ctx context.Context, r io.Reader, size int64, opts convert.Options) (*convert.Result, error) {
	spool, err := convert.NewSpool(opts.TempDir, opts.Limits)
	if err != nil {
		return nil, err
	}
	res := &convert.Result{}
	res.OnClose(spool)
	if err := readInto(ctx, res, r, size, spool, opts); err != nil {
		res.Close()
		return nil, err
	}
	return convert.Finish(res, opts)
}

func readInto(ctx context.Context, res *convert.Result, r io.Reader, size int64, spool *convert.Spool, opts convert.Options) error {
	sum := sha256.New()
	in := &meter{r: io.TeeReader(r, sum), ctx: ctx, report: func(n int64) { opts.Progress.Report("read", n, size) }}
	plain, _, err := Decompress(in)
	if err != nil {
		return err
	}
	defer plain.Close()
	b := NewBuilder(spool, opts.Limits)
	if err := b.Apply(ctx, plain, Archive); err != nil {
		return err
	}
	// What follows the compressed stream belongs to the digest.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return fault.Errorf(fault.Of(err), "read the archive: %w", err)
	}
	in.flush()
	res.Root = b.Root()
	res.Source = "tar:sha256:" + hex.EncodeToString(sum.Sum(nil))
	return nil
}

// meter counts what is read, reports it now and then and stops when the
// context is done.
type meter struct {
	r      io.Reader
	ctx    context.Context // of the one operation that made the meter
	report func(int64)
	n      int64
	told   int64
}

func (m *meter) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	m.n += int64(n)
	if m.n-m.told >= 512<<10 {
		m.flush()
	}
	return n, err
}

func (m *meter) flush() {
	m.told = m.n
	if m.report != nil {
		m.report(m.n)
	}
}
