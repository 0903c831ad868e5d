package identity

import (
	"context"
	"sync"

	"zos.internal/internal/fault"
)

// Directory knows the keys of parties. The chain's client is one; it believes
// only what is proven.
type Directory interface {
	// Lookup is what is recorded about a party now. It is NotFound for a party
	// that there isn't, and Unavailable when the answer can't be had or proven
	// now; the caller may try again later. The entry is the caller's.
	Lookup(ctx context.Context, p Party) (Entry, error)
}

// Entry is what a Directory knows about a party.
type Entry struct {
	Address Address
	Keys    []Key      // those that may sign now
	KEM     *KEMPublic // nil: nothing can be sealed to the party
	Relays  []Party    // at most 3, where the party listens
}

// Key is one of a party's keys.
type Key struct {
	Index uint32 // never used again for another key
	Role  Role
	Key   PublicKey
}

// Key is the key with an index; Denied when the party has none, or not any more.
func (e Entry) Key(index uint32) (Key, error) {
	for _, k := range e.Keys {
		if k.Index == index {
			return k, nil
		}
	}
	return Key{}, fault.Errorf(fault.Denied, "the party has no key %d; it was revoked or never there", index)
}

// Book is a Directory in memory, for tests and for grids without a chain. The
// zero Book is empty. It is safe for concurrent use.
type Book struct {
	mu      sync.RWMutex
	entries map[Party]Entry
}

var _ Directory = (*Book)(nil)

// Put records or replaces what is known about a party.
func (b *Book) Put(p Party, e Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.entries == nil {
		b.entries = make(map[Party]Entry)
	}
	b.entries[p] = e.clone()
}

// Lookup is what Put recorded.
func (b *Book) Lookup(_ context.Context, p Party) (Entry, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	e, ok := b.entries[p]
	if !ok {
		return Entry{}, fault.Errorf(fault.NotFound, "there is no party %d", p)
	}
	return e.clone(), nil
}

func (e Entry) clone() Entry {
	e.Keys = append([]Key(nil), e.Keys...)
	e.Relays = append([]Party(nil), e.Relays...)
	return e
}
