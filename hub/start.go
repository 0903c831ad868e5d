package hub

import (
	"bytes"
	"context"
	"net/http"
	"strings"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/internal/fault"
)

// inStart reports whether files of that kind are parts of start files that are
// replaced.
func inStart(kind byte) bool { return strings.IndexByte("rlst", kind) >= 0 }

// serveStart answers a start file. One that isn't there yet, as of an image that
// was published before there were any, is made.
func (s *Server) serveStart(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	id, err := block.ParseName(r.PathValue("id"))
	if err == nil {
		_, err = s.store.Stat(ctx, flist.StartKey(id))
		if fault.Of(err) == fault.NotFound {
			err = s.makeStart(ctx, id)
		}
	}
	if fault.Of(err) == fault.NotFound {
		err = fault.Errorf(fault.NotFound, "this hub has no image %v", id)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.serveKey(w, r)
}

// makeStart writes the start file of an image, of what is in the store now.
func (s *Server) makeStart(ctx context.Context, id flist.ID) error {
	release, err := s.slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	s.collect.RLock()
	defer s.collect.RUnlock()
	s.starts.Lock()
	defer s.starts.Unlock()
	b, err := flist.MakeStart(ctx, s.store, id)
	if err != nil {
		return err
	}
	return s.replace(ctx, flist.StartKey(id), bytes.NewReader(b))
}

// renewStart makes the start file anew after one of its parts changed. Without
// one readers ask for the parts, so an error is only logged, and the next reader
// makes it.
func (s *Server) renewStart(ctx context.Context, id flist.ID) {
	ctx = context.WithoutCancel(ctx)
	err := s.makeStart(ctx, id)
	if err == nil || fault.Of(err) == fault.NotFound {
		return // NotFound: the image is not there yet
	}
	s.log.WarnContext(ctx, "start file not made", "image", id.String(), "error", err)
	if err := s.store.Delete(ctx, flist.StartKey(id)); err != nil && fault.Of(err) != fault.NotFound {
		s.log.ErrorContext(ctx, "start file is old", "image", id.String(), "error", err)
	}
}
