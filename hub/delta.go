package hub

import (
	"context"
	"io"

	"zos.internal/flist"
	"zos.internal/hub/protocol"
	"zos.internal/internal/fault"
)

// putDelta takes the difference of an image from an older one. It is a hint that
// whoever uses it checks, but a wrong one wastes what readers fetch: only who
// published the image puts it. It may not be longer than what the publisher
// stored for the image, so that the quota bounds it, too.
func (s *Server) putDelta(ctx context.Context, u *upload) error {
	id, unlock, err := s.besideImage(ctx, u)
	if err != nil {
		return err
	}
	defer unlock()
	if !s.published(ctx, u.by, flist.RootKey(id)) {
		return fault.Errorf(fault.Denied, "only who published image %v puts a delta of it", id)
	}
	b, err := io.ReadAll(io.LimitReader(u.reader(), 4096)) // more than says what it is
	if err != nil {
		return err
	}
	d, err := flist.ParseDelta(b)
	if err != nil {
		return err
	}
	if d.ID != id {
		return fault.Errorf(fault.Invalid, "the delta is of image %v", d.ID)
	}
	whole, err := s.imageSize(ctx, id)
	if err != nil {
		return err
	}
	if u.size > whole {
		return fault.Errorf(fault.Invalid, "a delta of %d bytes is longer than the image with %d; readers fetch the image", u.size, whole)
	}
	return s.replace(ctx, u.key.text, u.reader())
}

// imageSize is the size of the packs and of the root of an image.
func (s *Server) imageSize(ctx context.Context, id flist.ID) (int64, error) {
	b, err := readAll(ctx, s.store, flist.LocatorKey(id), protocol.MaxLocator)
	if err != nil {
		return 0, err
	}
	l, err := protocol.ParseLocator(b)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, p := range l.Packs {
		n += p.Size
	}
	return n + int64(len(b)), nil
}
