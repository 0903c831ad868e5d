package state

import (
	"zos.internal/chain"
	"zos.internal/internal/fault"
)

// registerPublisher takes a name, or replaces the keys of one's own.
func (t *tx) registerPublisher(by actor, m *chain.RegisterPublisher) error {
	key, event := chain.PublisherKey(m.Name), "publisher.registered"
	if p := get[chain.Publisher](t.l, key); p != nil {
		if p.Owner != by.party {
			return fault.Errorf(fault.Conflict, "name %q: publisher of party %d", m.Name, p.Owner)
		}
		event = "publisher.keys"
	}
	put(t.l, key, &chain.Publisher{Name: m.Name, Owner: by.party, Keys: m.Keys})
	t.emit(chain.Event{Type: event, Party: by.party, Name: m.Name})
	return nil
}

// publishRelease records a release of a publisher's. Its version rises, so that
// neither a hub nor a thief of an old signature can bring an old one back.
func (t *tx) publishRelease(by actor, m *chain.PublishRelease) error {
	p := get[chain.Publisher](t.l, chain.PublisherKey(m.Publisher))
	if p == nil {
		return fault.Errorf(fault.NotFound, "publisher %q does not exist; register it first", m.Publisher)
	}
	if p.Owner != by.party {
		return fault.Errorf(fault.Denied, "publisher %q belongs to party %d", m.Publisher, p.Owner)
	}
	if m.Root == (chain.Hash{}) {
		return fault.Errorf(fault.Invalid, "root: the root hash of the image is needed")
	}
	key := chain.ReleaseKey(m.Publisher, m.Name)
	if r := get[chain.Release](t.l, key); r != nil && m.Version <= r.Version {
		return fault.Errorf(fault.Conflict, "version %d of %s/%s: version %d is published; versions rise", m.Version, m.Publisher, m.Name, r.Version)
	}
	put(t.l, key, &chain.Release{Version: m.Version, Root: m.Root, Time: t.Time})
	t.emit(chain.Event{Type: "release.published", Party: by.party, Name: m.Publisher + "/" + m.Name, Version: m.Version, Reason: m.Root.String()})
	return nil
}
