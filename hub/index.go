package hub

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/internal/fault"
)

// index finds chunks in packs. It is made from the directories of the packs
// when it is first needed and kept up to date by uploads. It holds eight bytes
// of each name and the number of a pack; the directory of the pack has the
// last word, so a collision costs a miss and never a wrong answer.
type index struct {
	store block.Bucket

	once  sync.Mutex // held while the index is being made
	mu    sync.Mutex
	ready bool
	packs []block.Name
	num   map[block.Name]uint32
	where map[uint64]uint32 // first bytes of a name → pack, sealedBit
	dirs  map[block.Name]*packDir
	order []block.Name // of dirs, oldest use first
	held  int          // entries in dirs
}

// sealedBit marks chunks that only their tenant can open. An open chunk always
// takes the place of a sealed one: it was checked.
const sealedBit = 1 << 31

// maxDirEntries bounds the memory of directories (about 64 bytes an entry).
const maxDirEntries = 1 << 19

type packDir struct {
	size    int64
	entries []block.PackEntry // in body order
	byName  []int32           // indexes of entries, sorted by name
}

func newIndex(store block.Bucket) *index {
	return &index{store: store, num: make(map[block.Name]uint32), where: make(map[uint64]uint32), dirs: make(map[block.Name]*packDir)}
}

func prefix(n block.Name) uint64 { return binary.BigEndian.Uint64(n[:8]) }

// load makes the index unless it is there. A failure is tried again next time.
func (x *index) load(ctx context.Context) error {
	x.once.Lock()
	defer x.once.Unlock()
	x.mu.Lock()
	ready := x.ready
	x.mu.Unlock()
	if ready {
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	var failed error
	for k, err := range x.store.List(ctx, flist.PackPrefix) {
		if err != nil {
			failed = err
			break
		}
		pk, err := parseKey(k)
		if err != nil {
			continue
		}
		g.Go(func() error {
			_, err := x.dir(gctx, pk.name)
			if kind := fault.Of(err); kind == fault.NotFound || kind == fault.Invalid {
				return nil // deleted meanwhile, or not a pack: not found through the index
			}
			return err
		})
	}
	if err := g.Wait(); err != nil || failed != nil {
		if err == nil {
			err = failed
		}
		return fault.Errorf(fault.Unavailable, "read the directories of the packs: %w", err)
	}
	x.mu.Lock()
	x.ready = true
	x.mu.Unlock()
	return nil
}

// dir is the directory of a pack, from memory or the store.
func (x *index) dir(ctx context.Context, pack block.Name) (*packDir, error) {
	x.mu.Lock()
	d := x.dirs[pack]
	if d != nil && x.order[len(x.order)-1] != pack {
		if i := slices.Index(x.order, pack); i >= 0 {
			x.order = append(slices.Delete(x.order, i, i+1), pack)
		}
	}
	x.mu.Unlock()
	if d != nil {
		return d, nil
	}
	key := flist.PackPrefix + pack.String()
	size, err := x.store.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	entries, err := block.ReadPackDir(bucketAt{ctx, x.store, key}, size)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "pack %v: %w", pack, err)
	}
	return x.add(pack, size, entries), nil
}

// add records a pack that is in the store.
func (x *index) add(pack block.Name, size int64, entries []block.PackEntry) *packDir {
	d := &packDir{size: size, entries: entries, byName: make([]int32, len(entries))}
	for i := range d.byName {
		d.byName[i] = int32(i)
	}
	slices.SortFunc(d.byName, func(a, b int32) int { return compare(entries[a].Name, entries[b].Name) })
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, ok := x.num[pack]; !ok {
		n := uint32(len(x.packs))
		x.packs = append(x.packs, pack)
		x.num[pack] = n
		for _, e := range entries {
			v := n
			if e.Enc&block.Sealed != 0 {
				v |= sealedBit
			}
			old, ok := x.where[prefix(e.Name)]
			if !ok || old&sealedBit != 0 && v&sealedBit == 0 {
				x.where[prefix(e.Name)] = v
			}
		}
	}
	if x.dirs[pack] == nil {
		x.dirs[pack] = d
		x.order = append(x.order, pack)
		x.held += len(entries)
		for x.held > maxDirEntries && len(x.order) > 1 {
			old := x.order[0]
			x.order = x.order[1:]
			x.held -= len(x.dirs[old].entries)
			delete(x.dirs, old)
		}
	}
	return d
}

// reset forgets everything, after packs were deleted. The next load makes the
// index again, so chunks that another pack holds too are found there.
func (x *index) reset() {
	x.once.Lock()
	defer x.once.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ready, x.packs, x.order, x.held = false, nil, nil, 0
	clear(x.num)
	clear(x.where)
	clear(x.dirs)
}

// find is the place of a chunk, or NotFound.
func (x *index) find(ctx context.Context, name block.Name) (block.Name, block.PackEntry, *packDir, error) {
	absent := fault.Errorf(fault.NotFound, "this hub has no chunk %v", name)
	x.mu.Lock()
	v, ok := x.where[prefix(name)]
	var pack block.Name
	if ok {
		pack = x.packs[v&^sealedBit]
	}
	x.mu.Unlock()
	if !ok {
		return pack, block.PackEntry{}, nil, absent
	}
	d, err := x.dir(ctx, pack)
	if err != nil {
		if fault.Of(err) == fault.NotFound {
			err = absent
		}
		return pack, block.PackEntry{}, nil, err
	}
	if e, ok := d.lookup(name); ok {
		return pack, e, d, nil
	}
	return pack, block.PackEntry{}, nil, absent
}

func (d *packDir) lookup(name block.Name) (block.PackEntry, bool) {
	i, ok := slices.BinarySearchFunc(d.byName, name, func(i int32, n block.Name) int { return compare(d.entries[i].Name, n) })
	if !ok {
		return block.PackEntry{}, false
	}
	return d.entries[d.byName[i]], true
}

// at is the entry whose body starts at off.
func (d *packDir) at(off uint64) (block.PackEntry, bool) {
	i, ok := slices.BinarySearchFunc(d.entries, off, func(e block.PackEntry, o uint64) int {
		switch {
		case uint64(e.Off) < o:
			return -1
		case uint64(e.Off) > o:
			return 1
		}
		return 0
	})
	if !ok {
		return block.PackEntry{}, false
	}
	return d.entries[i], true
}

func compare(a, b block.Name) int { return slices.Compare(a[:], b[:]) }
