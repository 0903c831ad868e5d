package dataserver

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"zos.internal/internal/fault"
)

// persisted is what slots.json holds: what a keeper that takes over needs, and
// what an operator wants to see after a crash.
type persisted struct {
	Params   Params          `json:"params"`
	Next     uint64          `json:"next"`
	Restarts int             `json:"restarts"`
	Failures int64           `json:"failures"`
	Slots    []persistedSlot `json:"slots"`
}

type persistedSlot struct {
	Slot
	Handles  []uint64 `json:"handles"`
	Removing bool     `json:"removing"`
}

// persist writes the slot table. The caller holds mu, or is the only one.
func (k *keeper) persist() error {
	p := persisted{Params: k.params, Next: k.next, Restarts: k.restarts, Failures: k.failures}
	for _, s := range k.slots {
		ps := persistedSlot{Slot: s.slot, Removing: s.removing}
		for h := range s.handles {
			ps.Handles = append(ps.Handles, h)
		}
		slices.Sort(ps.Handles)
		p.Slots = append(p.Slots, ps)
	}
	b, err := json.Marshal(p)
	if err != nil {
		return fault.Errorf(fault.Internal, "encode the slot table: %w", err)
	}
	path := filepath.Join(k.cfg.RunDir, stateName)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fault.Errorf(fault.Of(err), "write the slot table: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fault.Errorf(fault.Of(err), "write the slot table: %w", err)
	}
	return nil
}

// restore reads the slot table of the keeper before.
func (k *keeper) restore() error {
	b, err := os.ReadFile(filepath.Join(k.cfg.RunDir, stateName))
	if err != nil {
		return fault.Errorf(fault.Of(err), "read the slot table: %w", err)
	}
	var p persisted
	if err := json.Unmarshal(b, &p); err != nil {
		return fault.Errorf(fault.Invalid, "read the slot table: %w", err)
	}
	k.params, k.next, k.restarts, k.failures = p.Params, p.Next, p.Restarts, p.Failures
	for _, ps := range p.Slots {
		if err := ps.check(); err != nil || ps.Num <= rootNode || ps.Num >= k.next {
			return fault.Errorf(fault.Invalid, "read the slot table: bad slot %q with the number %d", ps.Name, ps.Num)
		}
		s := newSlotState(ps.Slot)
		s.removing = ps.Removing
		for _, h := range ps.Handles {
			s.handles[h] = true
		}
		k.slots[ps.Name] = s
	}
	return nil
}
