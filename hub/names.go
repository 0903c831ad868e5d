package hub

import (
	"bytes"
	"context"

	"zos.internal/flist"
	"zos.internal/hub/protocol"
	"zos.internal/internal/fault"
)

// putSignatures adds statements to those that are here. Only the key itself
// replaces what it said before.
func (s *Server) putSignatures(ctx context.Context, u *upload) error {
	id, unlock, err := s.besideImage(ctx, u)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := readAll(ctx, s.store, u.key.text, flist.MaxSignatures)
	if err != nil && fault.Of(err) != fault.NotFound {
		return err
	}
	all, err := mergeSignatures(old, u.bytes, id, u.signer)
	if err != nil {
		return err
	}
	return s.replace(ctx, u.key.text, bytes.NewReader(all))
}

// lockNames holds collections and other changes of names up.
func (s *Server) lockNames() (unlock func()) {
	s.collect.RLock()
	s.names.Lock()
	return func() {
		s.names.Unlock()
		s.collect.RUnlock()
	}
}

// besideImage takes those locks for a file that goes beside an image, which must
// be here.
func (s *Server) besideImage(ctx context.Context, u *upload) (id flist.ID, unlock func(), err error) {
	unlock = s.lockNames()
	if err := s.hasImage(ctx, u.key.name); err != nil {
		unlock()
		return id, nil, err
	}
	return u.key.name, unlock, nil
}

// hasImage is a Conflict that names the root if the image is not here.
func (s *Server) hasImage(ctx context.Context, id flist.ID) error {
	_, err := s.store.Stat(ctx, flist.RootKey(id))
	if fault.Of(err) == fault.NotFound {
		return protocol.Missing("image "+id.String(), []string{flist.RootKey(id)})
	}
	return err
}

// putTrace takes a recorded start. It is a hint, but a wrong one wastes what
// readers fetch: who published the image, or who signed the trace that is
// here, may replace it.
func (s *Server) putTrace(ctx context.Context, u *upload) error {
	id, unlock, err := s.besideImage(ctx, u)
	if err != nil {
		return err
	}
	defer unlock()
	_, signer, err := flist.OpenTrace(u.bytes, id)
	if err != nil {
		return err
	}
	if old, err := readAll(ctx, s.store, u.key.text, protocol.MaxTrace); err == nil && !s.published(ctx, u.by, flist.RootKey(id)) {
		if _, by, err := flist.OpenTrace(old, id); err == nil && by != signer {
			return fault.Errorf(fault.Denied, "the trace that is here is signed by %v; only that key and the publisher of the image replace it", by)
		}
	} else if err != nil && fault.Of(err) != fault.NotFound {
		return err
	}
	return s.replace(ctx, u.key.text, u.reader())
}

// published reports whether p uploaded what is at the key of an immutable file.
func (s *Server) published(ctx context.Context, p Publisher, text string) bool {
	k, err := parseKey(text)
	if err != nil {
		return false
	}
	size, err := s.store.Stat(ctx, text)
	if err != nil {
		return false
	}
	_, err = s.store.Stat(ctx, accountKey(p.Address, k, size))
	return err == nil
}

// putPointer moves a name or tag to an image. The sequence number only grows.
func (s *Server) putPointer(ctx context.Context, u *upload) error {
	p, by, err := flist.OpenPointer(u.bytes)
	switch {
	case err != nil:
		return err
	case p.Key() != u.key.text:
		return fault.Errorf(fault.Invalid, "the pointer is for %s", p.Key())
	case by != u.signer:
		return fault.Errorf(fault.Denied, "the pointer is signed by %v and the upload by %v; the owner of a name moves it", by, u.signer)
	case p.NotAfter != 0 && p.NotAfter <= s.clock.Now().Unix():
		return fault.Errorf(fault.Expired, "the pointer is not valid any more; sign a new one")
	}
	defer s.lockNames()()
	old, err := readAll(ctx, s.store, u.key.text, flist.MaxRoot)
	if err != nil && fault.Of(err) != fault.NotFound {
		return err
	}
	if err == nil {
		if bytes.Equal(old, u.bytes) {
			return nil
		}
		q, _, err := flist.OpenPointer(old)
		if err != nil {
			return fault.Errorf(fault.Internal, "the pointer in the store can't be read: %w", err)
		}
		if p.Seq <= q.Seq {
			return fault.Errorf(fault.Conflict, "version %d is not newer than version %d, which is published; sign version %d", p.Seq, q.Seq, q.Seq+1)
		}
	}
	if err := s.hasImage(ctx, p.ID); err != nil {
		return err
	}
	if err := s.rescueImage(ctx, p.ID); err != nil {
		return err
	}
	if p.Tag == "" {
		if err := s.replace(ctx, flist.HistoryKey(p.Owner, p.Name, p.Seq), u.reader()); err != nil {
			return err
		}
	}
	if err := s.store.Write(ctx, u.key.text, u.reader()); err != nil {
		return err
	}
	s.gallery.changed()
	// Again, since collections that did not see the name may have noted the image
	// meanwhile; nothing is deleted before collect is given back.
	return s.rescueImage(ctx, p.ID)
}
