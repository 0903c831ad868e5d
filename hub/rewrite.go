package hub

import (
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"strings"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub/protocol"
	"zos.internal/internal/fault"
)

// sparse is the live part of a pack below which it is written anew, in percent.
const sparse = 50

// use is what live images need of one pack.
type use struct {
	size   int64
	live   int64           // bytes
	places map[uint64]bool // offsets
	images []flist.ID
}

// rewrite makes small packs of the live chunks of packs that are mostly unused,
// and points the locators of the images there. No id changes; the old packs are
// then unused and wait for their epochs, so readers with an old locator go on.
func (s *Server) rewrite(ctx context.Context, ids map[flist.ID]string) (n int, err error) {
	uses, err := s.uses(ctx, ids)
	if err != nil {
		return 0, err
	}
	for pack, u := range uses {
		if u.live == 0 || u.live*100 >= u.size*sparse {
			continue
		}
		moved, err := s.rewritePack(ctx, pack, u)
		if fault.Of(err) == fault.Invalid {
			s.log.ErrorContext(ctx, "a pack is damaged and stays as it is", "pack", pack, "error", err)
			continue
		}
		if err == nil {
			err = s.relocate(ctx, pack, moved, u.images)
		}
		if err != nil {
			return n, fault.Errorf(fault.Of(err), "rewrite pack %v: %w", pack, err)
		}
		n++
	}
	return n, nil
}

// uses reads the locators of the images.
func (s *Server) uses(ctx context.Context, ids map[flist.ID]string) (map[block.Name]*use, error) {
	uses := make(map[block.Name]*use)
	for id := range ids {
		l, err := s.locator(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, p := range l.Packs {
			if uses[p.Name] == nil {
				uses[p.Name] = &use{size: p.Size, places: make(map[uint64]bool)}
			}
			u := uses[p.Name]
			u.images = append(u.images, id)
		}
		for _, w := range l.Where {
			u := uses[l.Packs[w.Pack].Name]
			if !u.places[w.Off] {
				u.places[w.Off] = true
				u.live += int64(w.Stored)
			}
		}
	}
	return uses, nil
}

func (s *Server) locator(ctx context.Context, id flist.ID) (block.Locator, error) {
	b, err := readAll(ctx, s.store, flist.LocatorKey(id), protocol.MaxLocator)
	if err != nil {
		return block.Locator{}, err
	}
	return protocol.ParseLocator(b)
}

// movedPack is where the live chunks of a pack went: old offset → new place.
type movedPack struct {
	ref   block.PackRef
	where map[uint64]uint64
}

// rewritePack writes a pack of the live chunks, checked again as they pass.
func (s *Server) rewritePack(ctx context.Context, pack block.Name, u *use) (movedPack, error) {
	var m movedPack
	d, err := s.index.dir(ctx, pack)
	if err != nil {
		return m, err
	}
	f, err := os.CreateTemp(s.cfg.Temp, "zos-hub-*")
	if err != nil {
		return m, fault.As(fault.Unavailable, err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return m, err
	}
	w := block.NewPackWriter(f)
	old := make(map[block.Name]uint64)
	var dec block.Decoder
	for _, e := range d.entries {
		if !u.places[uint64(e.Off)] {
			continue
		}
		body, err := s.store.Read(ctx, flist.PackPrefix+pack.String(), e.Off, int64(e.Stored))
		if err != nil {
			return m, err
		}
		if _, err := dec.Chunk(block.Domain{}, e.Name, e.Enc, e.Plain, body); err != nil && fault.Of(err) != fault.Denied {
			return m, err
		}
		if err := w.Add(e.Name, e.Enc, e.Plain, body); err != nil {
			return m, err
		}
		old[e.Name] = uint64(e.Off)
	}
	name, size, entries, err := w.Close()
	if err != nil {
		return m, err
	}
	m = movedPack{block.PackRef{Name: name, Size: size}, make(map[uint64]uint64, len(entries))}
	for _, e := range entries {
		m.where[old[e.Name]] = uint64(e.Off)
	}
	return m, s.keepRewritten(ctx, pack, u.size, m.ref, io.NewSectionReader(f, 0, size), entries)
}

// keepRewritten stores a new pack and counts it for whom the old one counts.
func (s *Server) keepRewritten(ctx context.Context, old block.Name, oldSize int64, ref block.PackRef, body io.Reader, entries []block.PackEntry) error {
	s.collect.RLock()
	defer s.collect.RUnlock()
	key := flist.PackPrefix + ref.Name.String()
	if err := s.waste.rescue(ctx, s.store, map[string]bool{key: true}); err != nil {
		return err
	}
	if _, err := s.store.Stat(ctx, key); fault.Of(err) != fault.NotFound {
		return err
	}
	oldKey, err := parseKey(flist.PackPrefix + old.String())
	if err != nil {
		return err
	}
	newKey, err := parseKey(key)
	if err != nil {
		return err
	}
	for rec, err := range s.store.List(ctx, "a/") {
		if err != nil {
			return err
		}
		if a, of, size, ok := parseAccount(rec); ok && of == oldKey.text && size == oldSize {
			if err := s.store.Write(ctx, accountKey(a, newKey, ref.Size), strings.NewReader("")); err != nil {
				return err
			}
			s.pubs.release(a, -ref.Size)
			break
		}
	}
	if err := s.store.Write(ctx, key, body); err != nil {
		return err
	}
	s.index.add(ref.Name, ref.Size, entries)
	return nil
}

// relocate points the locators of images from an old pack to the new one. A
// locator that somebody replaced meanwhile is read again here.
func (s *Server) relocate(ctx context.Context, old block.Name, m movedPack, ids []flist.ID) error {
	for _, id := range ids {
		if err := s.relocateImage(ctx, old, m, id); err != nil {
			return fault.Errorf(fault.Of(err), "locator of image %v: %w", id, err)
		}
		s.renewStart(ctx, id)
	}
	return nil
}

func (s *Server) relocateImage(ctx context.Context, old block.Name, m movedPack, id flist.ID) error {
	s.collect.RLock()
	defer s.collect.RUnlock()
	l, err := s.locator(ctx, id)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(l.Packs, func(p block.PackRef) bool { return p.Name == old })
	if i < 0 {
		return nil
	}
	// The new pack may be in the list already, from an interrupted collection.
	to := slices.IndexFunc(l.Packs, func(p block.PackRef) bool { return p.Name == m.ref.Name })
	if to < 0 {
		l.Packs[i], to = m.ref, i
	}
	for k, w := range l.Where {
		if int(w.Pack) != i {
			continue
		}
		off, ok := m.where[w.Off]
		if !ok {
			return nil // it is another locator now, which uses more of the old pack
		}
		l.Where[k].Pack, l.Where[k].Off = uint32(to), off
	}
	b, err := l.Marshal()
	if err != nil {
		return err
	}
	return s.store.Write(ctx, flist.LocatorKey(id), bytes.NewReader(b))
}
