package hub

import (
	"context"
	"io"
	"slices"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub/protocol"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// putLocator takes a locator whose packs are here. Before the image is there it
// can't be compared with the map; the upload of the root does that.
func (s *Server) putLocator(ctx context.Context, u *upload) error {
	release, err := s.slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	b, err := io.ReadAll(u.reader())
	if err != nil {
		return err
	}
	s.collect.RLock()
	defer s.collect.RUnlock()
	id := u.key.name
	root, err := readAll(ctx, s.store, flist.RootKey(id), flist.MaxRoot)
	if err == nil {
		r, err := flist.ParseRoot(root)
		if err != nil {
			return err
		}
		if r.Private() && !s.published(ctx, u.by, flist.RootKey(id)) {
			return fault.Errorf(fault.Denied, "the image is private; only who published it replaces its locator")
		}
		if err := s.checkLocator(ctx, id, r, b); err != nil {
			return err
		}
	} else if fault.Of(err) == fault.NotFound {
		if _, err := s.locatorPacks(ctx, id, b); err != nil {
			return err
		}
	} else {
		return err
	}
	return s.replace(ctx, u.key.text, u.reader())
}

// locatorPacks parses a locator for as many chunks as it has and checks that
// its packs are here.
func (s *Server) locatorPacks(ctx context.Context, id flist.ID, b []byte) (block.Locator, error) {
	l, err := protocol.ParseLocator(b)
	if err != nil {
		return l, err
	}
	var missing []string
	used := make(map[string]bool)
	for _, p := range l.Packs {
		key := flist.PackPrefix + p.Name.String()
		size, err := s.store.Stat(ctx, key)
		switch {
		case fault.Of(err) == fault.NotFound:
			missing = append(missing, key)
		case err != nil:
			return l, err
		case size != p.Size:
			return l, fault.Errorf(fault.Invalid, "the locator says that pack %v has %d bytes; it has %d", p.Name, p.Size, size)
		default:
			used[key] = true
		}
	}
	if err := protocol.Missing("the locator of image "+id.String(), missing); err != nil {
		return l, err
	}
	return l, s.waste.rescue(ctx, s.store, used)
}

// packsOf is the packs that a locator names.
func packsOf(b []byte) ([]block.Name, error) {
	l, err := protocol.ParseLocator(b)
	if err != nil {
		return nil, err
	}
	names := make([]block.Name, len(l.Packs))
	for i, p := range l.Packs {
		names[i] = p.Name
	}
	return names, nil
}

// checkLocator checks that every place of the locator is a chunk in its pack
// and, where the map can be read, the right chunk.
func (s *Server) checkLocator(ctx context.Context, id flist.ID, root *flist.Root, b []byte) error {
	l, err := s.locatorPacks(ctx, id, b)
	if err != nil {
		return err
	}
	var names []block.Name
	if !root.Private() {
		img, err := s.openImage(ctx, id)
		if err != nil {
			return err
		}
		for _, c := range img.Map.Chunks {
			names = append(names, c.Name)
		}
		if len(names) != len(l.Where) {
			return fault.Errorf(fault.Invalid, "the locator has %d places and the map %d chunks", len(l.Where), len(names))
		}
	}
	return s.checkPlaces(ctx, l, names)
}

// checkPlaces compares the locator with the directories of its packs. names may
// be nil.
func (s *Server) checkPlaces(ctx context.Context, l block.Locator, names []block.Name) error {
	// Pack by pack, so that each directory is read once.
	order := make([]int, len(l.Where))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(l.Where[a].Pack) - int(l.Where[b].Pack) })
	var d *packDir
	last := -1
	for _, i := range order {
		w := l.Where[i]
		if w.Stored == 0 {
			return fault.Errorf(fault.Invalid, "the locator doesn't say where chunk %d is", i)
		}
		if int(w.Pack) != last {
			var err error
			if d, err = s.index.dir(ctx, l.Packs[w.Pack].Name); err != nil {
				return err
			}
			last = int(w.Pack)
		}
		e, ok := d.at(w.Off)
		switch {
		case !ok || e.Stored != int(w.Stored), names != nil && (e.Name != names[i] || e.Enc&block.Sealed != 0), !derivable(e):
			return fault.Errorf(fault.Invalid, "the locator's place of chunk %d holds another chunk or none", i)
		}
	}
	return nil
}

// derivable reports whether readers that know only the lengths of the entry
// decode it right, as those of a locator do.
func derivable(e block.PackEntry) bool {
	return e.Enc == block.DeriveEnc(e.Plain, e.Stored, e.Enc&block.Sealed != 0)
}

// putRoot makes an image visible once everything that it names is here.
func (s *Server) putRoot(ctx context.Context, u *upload) (kept bool, err error) {
	id := u.key.name
	if u.digest != id {
		return false, fault.Errorf(fault.Invalid, "the bytes are the root of image %v", u.digest)
	}
	root, err := flist.ParseRoot(u.bytes)
	if err != nil {
		return false, err
	}
	refs := []flist.Ref{root.Metadata, root.Map, root.Config}
	if root.Executables != nil {
		refs = append(refs, *root.Executables)
	}
	release, err := s.slot(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	s.collect.RLock()
	defer s.collect.RUnlock()
	used := map[string]bool{u.key.text: true, flist.LocatorKey(id): true}
	var missing []string
	for _, ref := range refs {
		key := flist.ObjectKey(ref.Name)
		if int64(ref.Size) > s.cfg.MaxMetadata {
			return false, fault.Errorf(fault.Exhausted, "object %v has %d plain bytes and this hub takes %d; split the image, or ask the hub's operator", ref.Name, ref.Size, s.cfg.MaxMetadata)
		}
		_, err := s.store.Stat(ctx, key)
		if err == nil && !root.Private() {
			_, err = flist.ReadObject(ctx, s.store, block.Domain{}, ref)
			if fault.Of(err) == fault.Invalid {
				err = fault.As(fault.NotFound, err) // a sealed object under this name: send the right one
			}
		}
		if fault.Of(err) == fault.NotFound {
			missing = append(missing, key)
		} else if err != nil {
			return false, err
		}
		used[key] = true
	}
	locator, err := readAll(ctx, s.store, flist.LocatorKey(id), protocol.MaxLocator)
	if fault.Of(err) == fault.NotFound {
		missing = append(missing, flist.LocatorKey(id))
	} else if err != nil {
		return false, err
	}
	if err := protocol.Missing(u.key.what(), missing); err != nil {
		return false, err
	}
	if err := s.waste.rescue(ctx, s.store, used); err != nil {
		return false, err
	}
	l, err := s.locatorPacks(ctx, id, locator)
	if err != nil {
		return false, err
	}
	var names []block.Name
	if !root.Private() {
		img, err := flist.Open(ctx, withFile{s.store, u.key.text, u.bytes}, id, flist.OpenOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range img.Map.Chunks {
			names = append(names, c.Name)
		}
	}
	if names != nil && len(names) != len(l.Where) || s.checkPlaces(ctx, l, names) != nil {
		// Somebody put another locator here: send the right one again.
		return false, protocol.Missing(u.key.what(), []string{flist.LocatorKey(id)})
	}
	if _, err := s.store.Stat(ctx, u.key.text); err == nil {
		return false, nil
	}
	if err := s.keep(ctx, u); err != nil {
		return false, err
	}
	return true, nil
}

// withFile is a bucket with one more file in it.
type withFile struct {
	block.Bucket
	key   string
	bytes []byte
}

func (f withFile) Read(ctx context.Context, key string, off, size int64) ([]byte, error) {
	if key == f.key {
		b := f.bytes[min(off, int64(len(f.bytes))):]
		return b[:min(size, int64(len(b)))], nil
	}
	return f.Bucket.Read(ctx, key, off, size)
}

// mergeSignatures adds the statements of add to those of old. A key that is in
// both keeps its old statement unless it sent the new one itself.
func mergeSignatures(old, add []byte, id flist.ID, sender identity.PublicKey) ([]byte, error) {
	if _, err := flist.OpenSignatures(add, id); err != nil {
		return nil, err
	}
	var have, more []flist.Signed
	if len(old) > 0 {
		if _, err := flist.OpenSignatures(old, id); err != nil {
			return nil, fault.Errorf(fault.Internal, "the signatures in the store can't be read: %w", err)
		}
		if err := canon.Unmarshal(old, &have); err != nil {
			return nil, err
		}
	}
	if err := canon.Unmarshal(add, &more); err != nil {
		return nil, err
	}
	for _, m := range more {
		i := slices.IndexFunc(have, func(h flist.Signed) bool { return string(h.Key) == string(m.Key) })
		switch {
		case i < 0:
			have = append(have, m)
		case string(m.Key) == string(sender):
			have[i] = m
		}
	}
	b, err := canon.Marshal(have)
	if err == nil && len(b) > flist.MaxSignatures {
		err = fault.Errorf(fault.Exhausted, "the signatures have %d bytes together, %d are allowed", len(b), flist.MaxSignatures)
	}
	return b, err
}
