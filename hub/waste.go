package hub

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"

	"zos.internal/block"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// waste remembers since which epoch files are unused. Whatever a push was told
// to be here leaves it, and so has two whole epochs again.
type waste struct {
	mu    sync.Mutex
	epoch uint64
	since map[string]uint64 // key → epoch in which nothing needed it first
}

type wasteEntry struct {
	_     struct{} `cbor:",toarray"`
	Key   string
	Since uint64
}

type wasteFile struct {
	Epoch uint64       `cbor:"1,keyasint"`
	Files []wasteEntry `cbor:"2,keyasint"`
}

func (g *waste) load(ctx context.Context, store block.Bucket) error {
	g.since = make(map[string]uint64)
	b, err := readAll(ctx, store, wasteKey, maxWaste)
	if fault.Of(err) == fault.NotFound {
		return nil
	}
	var f wasteFile
	if err == nil {
		err = canon.Unmarshal(b, &f)
	}
	if err != nil {
		return fault.Errorf(fault.Of(err), "read the list of unused files at %s (it may be deleted, that only delays collection): %w", wasteKey, err)
	}
	g.epoch = f.Epoch
	for _, e := range f.Files {
		g.since[e.Key] = e.Since
	}
	return nil
}

// save is called with mu held.
func (g *waste) save(ctx context.Context, store block.Bucket) error {
	f := wasteFile{Epoch: g.epoch, Files: []wasteEntry{}}
	for _, k := range slices.Sorted(maps.Keys(g.since)) {
		f.Files = append(f.Files, wasteEntry{Key: k, Since: g.since[k]})
	}
	return store.Write(ctx, wasteKey, bytes.NewReader(canon.MustMarshal(f)))
}

// rescue takes keys out of the waste, durably: they are about to be needed.
func (g *waste) rescue(ctx context.Context, store block.Bucket, keys map[string]bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	found := false
	for k := range keys {
		if _, ok := g.since[k]; ok {
			delete(g.since, k)
			found = true
		}
	}
	if !found {
		return nil
	}
	return g.save(ctx, store)
}
