package hub

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/config"
	"zos.internal/hub/protocol"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// gallery knows what the pages show. It reads names, roots, metadata and maps,
// never content, and remembers a bounded part of it.
type gallery struct {
	s     *Server
	pages *pages

	mu        sync.Mutex
	gen       uint64 // grows when a name moves
	namesGen  uint64
	names     []named // sorted by time, newest first; nil if not known
	summaries map[flist.ID]*summary
	opened    []*opened // latest use last

	opening sync.Mutex // one image is opened at a time
}

const (
	maxSummaries   = 4096
	maxOpened      = 8
	maxOpenedBytes = 128 << 20 // of metadata and maps, as opened
	maxBrowsable   = 64 << 20  // bytes of metadata and map of one image
)

// named is a name with its tags.
type named struct {
	flist.Pointer
	Tags []flist.Pointer // sorted by name
}

func newGallery(s *Server) (*gallery, error) {
	g := &gallery{s: s, gen: 1, summaries: make(map[flist.ID]*summary)}
	var err error
	g.pages, err = newPages(g)
	return g, err
}

// changed says that a name moved.
func (g *gallery) changed() {
	g.mu.Lock()
	g.gen++
	g.mu.Unlock()
}

// all is every name, the one that moved last first.
func (g *gallery) all(ctx context.Context) ([]named, error) {
	g.mu.Lock()
	gen := g.gen
	if g.namesGen == gen {
		defer g.mu.Unlock()
		return g.names, nil
	}
	g.mu.Unlock()
	at := make(map[string]int)
	names := []named{}
	for k, err := range g.s.store.List(ctx, "f/") {
		if err != nil {
			return nil, err
		}
		p, err := g.s.pointer(ctx, k)
		if err != nil {
			g.s.log.ErrorContext(ctx, "a pointer in the store can't be read", "key", k, "error", err)
			continue
		}
		names = append(names, named{Pointer: p})
	}
	slices.SortStableFunc(names, func(a, b named) int {
		return cmp.Or(cmp.Compare(b.Time, a.Time), cmp.Compare(a.Name, b.Name))
	})
	for i, n := range names {
		at[n.Key()] = i
	}
	for k, err := range g.s.store.List(ctx, "g/") {
		if err != nil {
			return nil, err
		}
		p, err := g.s.pointer(ctx, k)
		if err != nil {
			continue
		}
		if i, ok := at[flist.PointerKey(p.Owner, p.Name)]; ok {
			names[i].Tags = append(names[i].Tags, p)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.names, g.namesGen = names, gen
	return names, nil
}

// search is the names that contain every word of q in their name, tag, owner's
// address or alias. An empty q finds all.
func (g *gallery) search(ctx context.Context, q string) ([]named, error) {
	all, err := g.all(ctx)
	words := strings.Fields(strings.ToLower(q))
	if err != nil || len(words) == 0 {
		return all, err
	}
	alias := make(map[identity.Address]string)
	for _, p := range g.s.pubs.all() {
		alias[p.Address] = p.Alias
	}
	found := []named{}
	for _, n := range all {
		text := alias[n.Owner] + "/" + n.Name + " " + n.Owner.String() + " " + n.ID.String()
		for _, t := range n.Tags {
			text += " " + t.Tag
		}
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) }) {
			found = append(found, n)
		}
	}
	return found, nil
}

// name is one name, or NotFound.
func (g *gallery) name(ctx context.Context, owner identity.Address, name string) (named, error) {
	all, err := g.all(ctx)
	if err != nil {
		return named{}, err
	}
	for _, n := range all {
		if n.Owner == owner && n.Name == name {
			return n, nil
		}
	}
	return named{}, fault.Errorf(fault.NotFound, "this hub has no image %q of %v", name, owner)
}

// owner finds a publisher by address or alias.
func (g *gallery) owner(s string) (identity.Address, error) {
	for _, p := range g.s.pubs.all() {
		if p.Alias == s {
			return p.Address, nil
		}
	}
	a, err := identity.ParseAddress(s)
	if err != nil {
		return a, fault.Errorf(fault.NotFound, "%.80q is neither an address nor a publisher of this hub", s)
	}
	return a, nil
}

// history is the versions of a name below seq (0: all), newest first, at most n.
func (g *gallery) history(ctx context.Context, owner identity.Address, name string, below uint64, n int) (ps []flist.Pointer, more bool, err error) {
	var seqs []uint64
	for k, err := range g.s.store.List(ctx, "h/"+owner.String()+"/"+name+"/") {
		if err != nil {
			return nil, false, err
		}
		if h, err := parseKey(k); err == nil && (below == 0 || h.seq < below) {
			seqs = append(seqs, h.seq)
		}
	}
	slices.SortFunc(seqs, func(a, b uint64) int { return cmp.Compare(b, a) })
	if more = len(seqs) > n; more {
		seqs = seqs[:n]
	}
	for _, seq := range seqs {
		p, err := g.s.pointer(ctx, flist.HistoryKey(owner, name, seq))
		if err != nil {
			return nil, false, err
		}
		ps = append(ps, p)
	}
	return ps, more, nil
}

// summary is what can be said of an image without its metadata.
type summary struct {
	ID     flist.ID
	Root   *flist.Root
	Config *config.Config // nil if private
	Stored int64          // bytes of its chunks as stored
	Chunks int
	Packs  int
}

func (g *gallery) summary(ctx context.Context, id flist.ID) (*summary, error) {
	g.mu.Lock()
	x := g.summaries[id]
	g.mu.Unlock()
	if x != nil {
		return x, nil
	}
	b, err := readAll(ctx, g.s.store, flist.RootKey(id), flist.MaxRoot)
	if err != nil {
		if fault.Of(err) == fault.NotFound {
			err = fault.Errorf(fault.NotFound, "this hub has no image %v", id)
		}
		return nil, err
	}
	x = &summary{ID: id}
	if x.Root, err = flist.ParseRoot(b); err != nil {
		return nil, err
	}
	if b, err = readAll(ctx, g.s.store, flist.LocatorKey(id), protocol.MaxLocator); err != nil {
		return nil, err
	}
	loc, err := protocol.ParseLocator(b)
	if err != nil {
		return nil, err
	}
	for _, w := range loc.Where {
		x.Stored += int64(w.Stored)
	}
	x.Chunks, x.Packs = len(loc.Where), len(loc.Packs)
	if !x.Root.Private() {
		if b, err = flist.ReadObject(ctx, g.s.store, block.Domain{}, x.Root.Config); err != nil {
			return nil, err
		}
		if x.Config, err = config.Parse(b); err != nil {
			return nil, err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.summaries) >= maxSummaries {
		clear(g.summaries)
	}
	g.summaries[id] = x
	return x, nil
}

// opened is an image with its locator.
type opened struct {
	*flist.Image
	loc  block.Locator
	cost int64
}

// open is the image with its tree. Private images can't be opened, and very
// large ones aren't.
func (g *gallery) open(ctx context.Context, id flist.ID) (*opened, error) {
	if o := g.cached(id); o != nil {
		return o, nil
	}
	sum, err := g.summary(ctx, id)
	if err != nil {
		return nil, err
	}
	if sum.Root.Private() {
		return nil, fault.Errorf(fault.Denied, "image %v is private: the hub can't read its tree, only its tenant can", id)
	}
	if size := sum.Root.Metadata.Size + sum.Root.Map.Size; size > maxBrowsable {
		return nil, fault.Errorf(fault.Exhausted, "image %v has %d bytes of metadata, too much to browse here; use zos flist ls", id, size)
	}
	g.opening.Lock()
	defer g.opening.Unlock()
	if o := g.cached(id); o != nil {
		return o, nil
	}
	img, err := g.s.openImage(ctx, id)
	if err != nil {
		return nil, err
	}
	loc, err := flist.ReadLocator(ctx, g.s.store, img)
	if err != nil {
		return nil, err
	}
	o := &opened{Image: img, loc: loc, cost: int64(len(img.Metadata))*3 + int64(len(img.MapBytes))*3}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = append(g.opened, o)
	var cost int64
	for _, o := range g.opened {
		cost += o.cost
	}
	for len(g.opened) > 1 && (len(g.opened) > maxOpened || cost > maxOpenedBytes) {
		cost -= g.opened[0].cost
		g.opened = slices.Delete(g.opened, 0, 1)
	}
	return o, nil
}

func (g *gallery) cached(id flist.ID) *opened {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.opened, func(o *opened) bool { return o.ID == id })
	if i < 0 {
		return nil
	}
	o := g.opened[i]
	g.opened = append(slices.Delete(g.opened, i, i+1), o)
	return o
}

// signers is who vouches for an image.
func (g *gallery) signers(ctx context.Context, id flist.ID) ([]flist.Statement, error) {
	b, err := readAll(ctx, g.s.store, flist.SignaturesKey(id), flist.MaxSignatures)
	if fault.Of(err) == fault.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return flist.OpenSignatures(b, id)
}

// moved is what a reader of a fetches to have b.
type moved struct {
	Stored, Total int64 // bytes as stored: moved, and all of b
}

// Share is the part of b that a reader of a has already, in percent.
func (m moved) Share() int {
	if m.Total == 0 {
		return 100
	}
	return int(100 * (m.Total - m.Stored) / m.Total)
}

func compareImages(a, b *opened) moved {
	have := make(map[block.Name]bool, len(a.Map.Chunks))
	for _, c := range a.Map.Chunks {
		have[c.Name] = true
	}
	var m moved
	for i, c := range b.Map.Chunks {
		n := int64(b.loc.Where[i].Stored)
		m.Total += n
		if !have[c.Name] {
			m.Stored += n
		}
	}
	return m
}
