package state

import (
	"slices"

	"github.com/fxamacker/cbor/v2"

	"zos.internal/internal/canon"
)

// getter is what a layer lies on.
type getter interface{ Get(key []byte) []byte }

// layer keeps writes back until they are merged into what lies below, or
// dropped. Keys are remembered in a list, so that no map is ranged over.
type layer struct {
	below  getter
	writes map[string][]byte // nil: deleted
	order  []string          // keys of writes, in the order of their first write
}

func newLayer(below getter) *layer {
	return &layer{below: below, writes: make(map[string][]byte)}
}

// Get reads a record.
func (l *layer) Get(key []byte) []byte {
	if v, ok := l.writes[string(key)]; ok {
		return v
	}
	return l.below.Get(key)
}

func (l *layer) set(key string, value []byte) {
	if _, ok := l.writes[key]; !ok {
		l.order = append(l.order, key)
	}
	l.writes[key] = value
}

// merge puts the writes into the layer below.
func (l *layer) merge() {
	below := l.below.(*layer)
	for _, key := range l.order {
		below.set(key, l.writes[key])
	}
}

// flush puts the writes into a tree, in the order of the keys. Bytes that are
// there already are not written again, so that a block that changes nothing
// leaves the root alone.
func (l *layer) flush(t Tree) {
	slices.Sort(l.order)
	for _, key := range l.order {
		value, old := l.writes[key], t.Get([]byte(key))
		switch {
		case value == nil && old != nil:
			t.Delete([]byte(key))
		case value != nil && (old == nil || string(value) != string(old)):
			t.Set([]byte(key), value)
		}
	}
}

// get decodes a record, or returns nil when there is none. What the machine
// wrote itself can always be decoded.
func get[T any](l *layer, key []byte) *T {
	b := l.Get(key)
	if b == nil {
		return nil
	}
	v := new(T)
	if err := cbor.Unmarshal(b, v); err != nil {
		panic("state: record " + string(key[:1]) + " can't be decoded: " + err.Error())
	}
	return v
}

// put encodes a record.
func put[T any](l *layer, key []byte, v *T) { l.set(string(key), canon.MustMarshal(v)) }

// drop removes a record.
func drop(l *layer, key []byte) { l.set(string(key), nil) }
