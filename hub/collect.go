package hub

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub/protocol"
	"zos.internal/internal/fault"
)

// Keep says which versions of a name collection leaves besides the current one
// and the tagged ones. A version is kept if either field keeps it; the zero
// value keeps all.
type Keep struct {
	Versions int           // the newest so many of each name
	For      time.Duration // those not older than this
}

// Collected says what one collection did.
type Collected struct {
	Epoch   uint64 // number of this run
	Images  int    // that a name, tag, version or pin needs
	Waiting int    // unused files that wait for their second epoch
	Deleted int    // files
	Bytes   int64  // of the deleted files
	// Rewritten packs were mostly unused; what is needed of them was copied.
	Rewritten int
}

const (
	wasteKey       = "e/waste"
	pinDir         = "k/"
	patienceEpochs = 2
	maxWaste       = 1 << 30
)

// Pin keeps an image that no name points to.
func (s *Server) Pin(ctx context.Context, id flist.ID) error {
	s.collect.RLock()
	defer s.collect.RUnlock()
	if err := s.hasImage(ctx, id); err != nil {
		return err
	}
	if err := s.rescueImage(ctx, id); err != nil {
		return err
	}
	if err := s.store.Write(ctx, pinDir+id.String(), strings.NewReader("")); err != nil {
		return err
	}
	return s.rescueImage(ctx, id) // as in putPointer
}

// Unpin is the opposite of Pin.
func (s *Server) Unpin(ctx context.Context, id flist.ID) error {
	return s.store.Delete(ctx, pinDir+id.String())
}

// rescueImage takes everything that an image needs out of the waste.
func (s *Server) rescueImage(ctx context.Context, id flist.ID) error {
	used := make(map[string]bool)
	err := s.markImage(ctx, id, used)
	if fault.Of(err) == fault.NotFound {
		// A collection took the locator while the push was under way: the
		// publisher sends it again.
		return protocol.Missing("image "+id.String(), []string{flist.LocatorKey(id)})
	}
	if err != nil {
		return err
	}
	if err := s.waste.rescue(ctx, s.store, used); err != nil {
		return err
	}
	// What was gone already was not rescued. From here on nothing of it goes.
	var missing []string
	for _, k := range slices.Sorted(maps.Keys(used)) {
		_, err := s.store.Stat(ctx, k)
		switch {
		case err == nil || k == flist.TraceKey(id) || k == flist.SignaturesKey(id) || k == flist.StartKey(id) || k == flist.DeltaKey(id):
		case fault.Of(err) == fault.NotFound:
			missing = append(missing, k)
		default:
			return err
		}
	}
	return protocol.Missing("image "+id.String(), missing)
}

// markImage adds the keys that the image needs to live.
func (s *Server) markImage(ctx context.Context, id flist.ID, live map[string]bool) error {
	if live[flist.RootKey(id)] {
		return nil
	}
	b, err := readAll(ctx, s.store, flist.RootKey(id), flist.MaxRoot)
	if err != nil {
		return err
	}
	root, err := flist.ParseRoot(b)
	if err != nil {
		return err
	}
	b, err = readAll(ctx, s.store, flist.LocatorKey(id), protocol.MaxLocator)
	if err != nil {
		return err
	}
	packs, err := packsOf(b)
	if err != nil {
		return fault.Errorf(fault.Of(err), "locator of image %v: %w", id, err)
	}
	for _, p := range packs {
		live[flist.PackPrefix+p.String()] = true
	}
	for _, ref := range []flist.Ref{root.Metadata, root.Map, root.Config} {
		live[flist.ObjectKey(ref.Name)] = true
	}
	if root.Executables != nil {
		live[flist.ObjectKey(root.Executables.Name)] = true
	}
	for _, k := range []string{flist.RootKey(id), flist.LocatorKey(id), flist.TraceKey(id), flist.SignaturesKey(id), flist.StartKey(id), flist.DeltaKey(id)} {
		live[k] = true
	}
	return nil
}

// mark lists the keys that names, tags, kept versions and pins need, and the
// versions themselves. An image that a name needs and that can't be read ends
// the collection: what it needs is not known.
func (s *Server) mark(ctx context.Context) (live map[string]bool, ids map[flist.ID]string, err error) {
	live = make(map[string]bool)
	ids = make(map[flist.ID]string) // with the key that needs the image
	for _, prefix := range []string{"f/", "g/"} {
		for k, err := range s.store.List(ctx, prefix) {
			if err != nil {
				return nil, nil, err
			}
			p, err := s.pointer(ctx, k)
			if err != nil {
				return nil, nil, err
			}
			ids[p.ID] = k
		}
	}
	history := make(map[string][]flist.Pointer) // OWNER/NAME → versions
	for k, err := range s.store.List(ctx, "h/") {
		if err != nil {
			return nil, nil, err
		}
		p, err := s.pointer(ctx, k)
		if err != nil {
			return nil, nil, err
		}
		name := k[:strings.LastIndexByte(k, '/')]
		history[name] = append(history[name], p)
	}
	young := s.clock.Now().Add(-s.cfg.Keep.For).Unix()
	for _, ps := range history {
		slices.SortFunc(ps, func(a, b flist.Pointer) int { return cmp.Compare(b.Seq, a.Seq) })
		for i, p := range ps {
			k := s.cfg.Keep
			if i == 0 || k == (Keep{}) || i < k.Versions || k.For > 0 && p.Time >= young {
				key := flist.HistoryKey(p.Owner, p.Name, p.Seq)
				live[key] = true
				ids[p.ID] = key
			}
		}
	}
	for k, err := range s.store.List(ctx, pinDir) {
		if err != nil {
			return nil, nil, err
		}
		if id, err := block.ParseName(k[len(pinDir):]); err == nil {
			ids[id] = k
		}
	}
	for id, why := range ids {
		if err := s.markImage(ctx, id, live); err != nil {
			return nil, nil, fault.Errorf(fault.Of(err), "collect: %s needs image %v, which can't be read; repair or remove it: %w", why, id, err)
		}
	}
	return live, ids, nil
}

// pointer reads the pointer at a key of the store.
func (s *Server) pointer(ctx context.Context, key string) (flist.Pointer, error) {
	b, err := readAll(ctx, s.store, key, flist.MaxRoot)
	if err != nil {
		return flist.Pointer{}, err
	}
	p, _, err := flist.OpenPointer(b)
	if err != nil {
		return p, fault.Errorf(fault.Of(err), "%s: %w", key, err)
	}
	return p, nil
}

// Collect runs one epoch: what nothing needs is noted, and what nothing needed
// for two whole epochs is deleted. Uploads and reads go on meanwhile; only the
// deletion itself holds up what would make files visible. Runs must be further
// apart than the longest push takes.
func (s *Server) Collect(ctx context.Context) (Collected, error) {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	var c Collected
	_, ids, err := s.mark(ctx)
	if err != nil {
		return c, err
	}
	if c.Rewritten, err = s.rewrite(ctx, ids); err != nil {
		return c, fault.Errorf(fault.Of(err), "collect: %w", err)
	}
	live, ids, err := s.mark(ctx) // what was rewritten needs other packs now
	if err != nil {
		return c, err
	}
	c.Images = len(ids)
	due, err := s.sweep(ctx, live)
	if err != nil {
		return c, err
	}
	c.Deleted, c.Bytes, err = s.remove(ctx, due)
	s.waste.mu.Lock()
	c.Epoch, c.Waiting = s.waste.epoch, len(s.waste.since)
	s.waste.mu.Unlock()
	if err != nil {
		return c, err
	}
	s.log.InfoContext(ctx, "collected unused files", "epoch", c.Epoch, "images", c.Images, "waiting", c.Waiting, "rewritten", c.Rewritten, "deleted", c.Deleted, "bytes", c.Bytes)
	return c, nil
}

// sweep notes what is not live, and returns what is due.
func (s *Server) sweep(ctx context.Context, live map[string]bool) (due []string, err error) {
	// Roots first: an image disappears before its parts.
	var unused []string
	for _, prefix := range []string{"h/", "b/", "d/", "r/", "s/", "t/", "l/", "o/", "p/"} {
		for k, err := range s.store.List(ctx, prefix) {
			if err != nil {
				return nil, fault.Errorf(fault.Of(err), "collect: %w", err)
			}
			if _, err := parseKey(k); err == nil && !live[k] {
				unused = append(unused, k)
			}
		}
	}
	g := &s.waste
	g.mu.Lock()
	defer g.mu.Unlock()
	g.epoch++
	since := make(map[string]uint64, len(unused))
	for _, k := range unused {
		first, ok := g.since[k]
		if !ok {
			first = g.epoch
		}
		since[k] = first
		if g.epoch-first >= patienceEpochs {
			due = append(due, k)
		}
	}
	g.since = since
	return due, g.save(ctx, s.store)
}

// remove deletes what is due and was not rescued since, in small steps, so that
// uploads wait for little.
func (s *Server) remove(ctx context.Context, due []string) (n int, size int64, err error) {
	accounts := make(map[string][]string) // key → its accounts
	for k, err := range s.store.List(ctx, "a/") {
		if err != nil {
			return 0, 0, fault.Errorf(fault.Of(err), "collect: %w", err)
		}
		if _, of, _, ok := parseAccount(k); ok {
			accounts[of] = append(accounts[of], k)
		}
	}
	packs := false
	defer func() {
		if packs {
			s.index.reset()
		}
	}()
	for step := range slices.Chunk(due, 64) {
		m, sz, err := s.removeStep(ctx, step, accounts)
		n, size = n+m, size+sz
		for _, k := range step {
			packs = packs || k[0] == 'p'
		}
		if err != nil {
			return n, size, fault.Errorf(fault.Of(err), "collect: %w", err)
		}
	}
	// Accounts of files that never came to be, because of a crash.
	for of, ks := range accounts {
		if _, err := s.store.Stat(ctx, of); fault.Of(err) == fault.NotFound {
			s.collect.Lock()
			err = s.closeAccounts(ctx, of, ks)
			s.collect.Unlock()
			if err != nil {
				return n, size, fault.Errorf(fault.Of(err), "collect: %w", err)
			}
		}
	}
	return n, size, nil
}

func (s *Server) removeStep(ctx context.Context, keys []string, accounts map[string][]string) (n int, size int64, err error) {
	s.collect.Lock()
	defer s.collect.Unlock()
	g := &s.waste
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range keys {
		if _, ok := g.since[k]; !ok {
			continue // needed again
		}
		sz, err := s.store.Stat(ctx, k)
		if err == nil {
			err = s.store.Delete(ctx, k)
		}
		if err != nil && fault.Of(err) != fault.NotFound {
			return n, size, err
		}
		n, size = n+1, size+sz
		delete(g.since, k)
		if err := s.closeAccounts(ctx, k, accounts[k]); err != nil {
			return n, size, err
		}
		delete(accounts, k)
	}
	return n, size, g.save(ctx, s.store)
}

// closeAccounts gives the bytes of a file that is gone back to its publisher. It
// is called with collect held for writing.
func (s *Server) closeAccounts(ctx context.Context, of string, records []string) error {
	if _, err := s.store.Stat(ctx, of); fault.Of(err) != fault.NotFound {
		return err
	}
	for _, rec := range records {
		if err := s.store.Delete(ctx, rec); err != nil {
			return err
		}
		if a, _, size, ok := parseAccount(rec); ok {
			s.pubs.release(a, size)
		}
	}
	return nil
}
