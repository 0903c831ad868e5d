package dataserver

import (
	"slices"
	"strings"
	"sync"

	"zos.internal/internal/fault"
)

// maxSlots bounds the images that one keeper serves.
const maxSlots = 1 << 16

// Table is the set of slots. Its zero value is empty and ready.
type Table struct {
	mu     sync.RWMutex
	byNum  map[uint64]Slot
	byName map[string]uint64
}

// Add puts s into the table; its number must be new, its name unused.
func (t *Table) Add(s Slot) error {
	if err := s.check(); err != nil {
		return err
	}
	if s.Num <= rootNode {
		return fault.Errorf(fault.Invalid, "add slot %q: the number %d is reserved", s.Name, s.Num)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.byNum[s.Num]; ok {
		return fault.Errorf(fault.Conflict, "add slot %q: the number %d is in use", s.Name, s.Num)
	}
	if _, ok := t.byName[s.Name]; ok {
		return fault.Errorf(fault.Conflict, "add slot %q: the name is in use", s.Name)
	}
	if len(t.byNum) >= maxSlots {
		return fault.Errorf(fault.Exhausted, "add slot %q: %d images are mounted; unmount some", s.Name, maxSlots)
	}
	if t.byNum == nil {
		t.byNum, t.byName = make(map[uint64]Slot), make(map[string]uint64)
	}
	t.byNum[s.Num], t.byName[s.Name] = s, s.Num
	return nil
}

// Remove takes the slot num out; it reports whether it was there.
func (t *Table) Remove(num uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.byNum[num]
	if ok {
		delete(t.byNum, num)
		delete(t.byName, s.Name)
	}
	return ok
}

// Get is the slot with that number.
func (t *Table) Get(num uint64) (Slot, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	s, ok := t.byNum[num]
	return s, ok
}

// Lookup is the slot with that name.
func (t *Table) Lookup(name string) (Slot, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	s, ok := t.byNum[t.byName[name]]
	return s, ok
}

// Slots are all slots, by number.
func (t *Table) Slots() []Slot {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]Slot, 0, len(t.byNum))
	for _, s := range t.byNum {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Slot) int { return int(min(1, max(-1, int64(a.Num)-int64(b.Num)))) })
	return out
}

const nameChars = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-"

func (s Slot) check() error {
	switch {
	case s.Name == "" || len(s.Name) > 128 || s.Name[0] == '.' || strings.Trim(s.Name, nameChars) != "":
		return fault.Errorf(fault.Invalid, "add slot %.140q: a name has 1 to 128 of %s and no dot in front", s.Name, "[0-9a-zA-Z._-]")
	case s.Size < 0 || s.Size > 1<<44:
		return fault.Errorf(fault.Invalid, "add slot %q: the size %d is not within 0 and 16 TiB", s.Name, s.Size)
	case len(s.Spec) > maxMessage/2:
		return fault.Errorf(fault.Invalid, "add slot %q: the spec has %d bytes, %d are allowed", s.Name, len(s.Spec), maxMessage/2)
	}
	return nil
}
