package state

import (
	"slices"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Bounds of support requests.
const (
	maxSupport    = 64         // that have not ended, on a node
	maxRequests   = 4          // of them by one requester
	supportAhead  = 30 * 86400 // seconds that one may begin ahead
	supportMemory = 30 * 86400 // seconds that one is kept after its end
)

func (t *tx) requestSupport(by actor, m *chain.RequestSupport) error {
	n, err := t.node(m.Node)
	if err != nil {
		return err
	}
	if m.Until <= t.Time || m.From > t.Time+supportAhead {
		return fault.Errorf(fault.Invalid, "from %d until %d: it must end after now (%d) and begin within %d days", m.From, m.Until, t.Time, supportAhead/86400)
	}
	open := t.nodeSupport(n.ID)
	mine := 0
	for _, id := range open {
		if s := t.support(id); s.Requester == by.party {
			mine++
		}
	}
	if len(open) >= maxSupport || mine >= maxRequests {
		return fault.Errorf(fault.Exhausted, "node %d has %d open support requests, %d of them yours; at most %d and %d: revoke one", n.ID, len(open), mine, maxSupport, maxRequests)
	}
	needed, err := t.neededFor(n)
	if err != nil {
		return err
	}
	s := chain.Support{ID: t.newID(), Node: n.ID, Requester: by.party, Purpose: m.Purpose, Scope: m.Scope, From: m.From, Until: m.Until,
		Needed: needed, State: chain.SupportAsked}
	t.putNodeSupport(n.ID, append(open, s.ID))
	t.queueSupport(&s, s.Until)
	t.emit(chain.Event{Type: "support.requested", ID: s.ID, Node: n.ID, Farm: n.Farm, Party: by.party, Name: string(s.Scope), Reason: s.Purpose, From: s.From, Until: s.Until})
	if slices.Contains(needed, by.party) { // who asks agrees
		if err := t.room(int(t.load(n.ID).Contracts)); err != nil {
			return err
		}
		t.agree(&s, by.party)
	}
	put(t.l, chain.SupportKey(s.ID), &s)
	return nil
}

// neededFor is who has to consent to support access on a node: the owner of its
// farm and who rents it, rising.
func (w *work) neededFor(n *chain.Node) ([]identity.Party, error) {
	f, err := w.farm(n.Farm)
	if err != nil {
		return nil, err
	}
	needed := []identity.Party{f.Owner}
	if rent := w.load(n.ID).Rent; rent != 0 && rent.Owner() != f.Owner {
		needed = append(needed, rent.Owner())
		slices.Sort(needed)
	}
	return needed, nil
}

func (t *tx) consentSupport(by actor, m *chain.ConsentSupport) error {
	s, err := t.openSupport(m.Request)
	if err != nil {
		return err
	}
	if s.State != chain.SupportAsked {
		return fault.Errorf(fault.Conflict, "support request %d is granted already", s.ID)
	}
	n, err := t.node(s.Node)
	if err != nil {
		return err
	}
	// Who has to consent may have changed since it was asked for.
	if s.Needed, err = t.neededFor(n); err != nil {
		return err
	}
	if !slices.Contains(s.Needed, by.party) {
		return fault.Errorf(fault.Denied, "support request %d on node %d: party %d is neither the owner of farm %d nor the renter of the node", s.ID, n.ID, by.party, n.Farm)
	}
	if err := t.room(int(t.load(n.ID).Contracts)); err != nil {
		return err
	}
	t.emit(chain.Event{Type: "support.consented", ID: s.ID, Node: s.Node, Party: by.party})
	t.agree(s, by.party)
	put(t.l, chain.SupportKey(s.ID), s)
	return nil
}

// agree counts a consent, and grants the request when it was the last one that
// was needed. Every other owner of a contract on the node is told.
func (w *work) agree(s *chain.Support, p identity.Party) {
	s.Given = slices.DeleteFunc(s.Given, func(q identity.Party) bool { return q == p || !slices.Contains(s.Needed, q) })
	s.Given = append(s.Given, p)
	slices.Sort(s.Given)
	if !slices.Equal(s.Given, s.Needed) {
		return
	}
	s.State, s.Granted = chain.SupportGranted, w.Time
	w.emit(chain.Event{Type: "support.granted", ID: s.ID, Node: s.Node, Party: s.Requester, Name: string(s.Scope), From: s.From, Until: s.Until})
	var tenants []identity.Party
	entries := w.list(s.Node)
	w.lists += len(entries)
	for _, e := range entries {
		tenants = append(tenants, e.Contract.Owner())
	}
	slices.Sort(tenants)
	for _, p := range slices.Compact(tenants) {
		if !slices.Contains(s.Needed, p) {
			w.emit(chain.Event{Type: "support.tenant", ID: s.ID, Node: s.Node, Party: s.Requester, To: p, Name: string(s.Scope), From: s.From, Until: s.Until})
		}
	}
}

// revokeSupport ends a request or takes a consent back. The requester ends his
// own. One whose consent is needed takes it back while others are waited for,
// refuses when he hasn't given it, and ends what was granted.
func (t *tx) revokeSupport(by actor, m *chain.RevokeSupport) error {
	s, err := t.openSupport(m.Request)
	if err != nil {
		return err
	}
	if s.State == chain.SupportAsked {
		n, err := t.node(s.Node)
		if err != nil {
			return err
		}
		if s.Needed, err = t.neededFor(n); err != nil {
			return err
		}
	}
	given, needed := slices.Contains(s.Given, by.party), slices.Contains(s.Needed, by.party)
	switch {
	case by.party == s.Requester:
		t.endSupport(s, chain.SupportWithdrawn)
	case s.State == chain.SupportGranted && (given || needed || t.rents(by.party, s.Node)):
		t.endSupport(s, chain.SupportRevoked)
	case s.State == chain.SupportAsked && given:
		s.Given = without(s.Given, by.party)
		put(t.l, chain.SupportKey(s.ID), s)
		t.emit(chain.Event{Type: "support.revoked", ID: s.ID, Node: s.Node, Party: by.party})
	case s.State == chain.SupportAsked && needed:
		t.endSupport(s, chain.SupportRefused)
	default:
		return fault.Errorf(fault.Denied, "support request %d: party %d neither made it nor has to consent", s.ID, by.party)
	}
	return nil
}

func (w *work) rents(p, node identity.Party) bool {
	rent := w.load(node).Rent
	return rent != 0 && rent.Owner() == p
}

// reportSupport takes the hash of a session's transcript from the node. The
// report closes a session that is still open.
func (t *tx) reportSupport(by actor, m *chain.ReportSupport) error {
	s := t.support(m.Request)
	switch {
	case s == nil:
		return fault.Errorf(fault.NotFound, "support request %d does not exist, or ended more than %d days ago", m.Request, supportMemory/86400)
	case by.party != s.Node:
		return fault.Errorf(fault.Denied, "support request %d is on node %d, which reports its own sessions", s.ID, s.Node)
	case s.Granted == 0:
		return fault.Errorf(fault.Conflict, "support request %d was never granted", s.ID)
	case s.Transcript != (chain.Hash{}):
		return fault.Errorf(fault.Conflict, "support request %d has its transcript %s already", s.ID, s.Transcript)
	case m.Transcript == (chain.Hash{}):
		return fault.Errorf(fault.Invalid, "transcript: the hash of the session's transcript is needed")
	}
	s.Transcript = m.Transcript
	if s.State != chain.SupportEnded {
		t.endSupport(s, chain.SupportReported)
	}
	put(t.l, chain.SupportKey(s.ID), s)
	t.emit(chain.Event{Type: "support.reported", ID: s.ID, Node: s.Node, Party: s.Requester, Reason: s.Transcript.String()})
	return nil
}

// rentArrived ends what was granted on a node before its renter came, who hasn't
// consented, and makes his consent needed for what is still asked for.
func (w *work) rentArrived(node, renter identity.Party) {
	for _, id := range w.nodeSupport(node) {
		s := w.support(id)
		if slices.Contains(s.Given, renter) {
			continue
		}
		if s.State == chain.SupportGranted {
			w.endSupport(s, chain.SupportRented)
			continue
		}
		n, err := w.node(node)
		if err != nil {
			continue
		}
		if needed, err := w.neededFor(n); err == nil {
			s.Needed = needed
			put(w.l, chain.SupportKey(s.ID), s)
		}
	}
}

// nodeLeft ends all support on a node that is gone.
func (w *work) nodeLeft(node identity.Party) {
	for _, id := range w.nodeSupport(node) {
		w.endSupport(w.support(id), chain.SupportNode)
	}
}

// dueSupport ends a request whose time is over, and forgets one that ended long
// ago.
func (w *work) dueSupport(id uint64) {
	s := w.support(id)
	switch {
	case s == nil:
	case s.State == chain.SupportEnded:
		drop(w.l, chain.SupportKey(id))
	default:
		w.endSupport(s, chain.SupportExpired)
	}
}

// endSupport ends a request for good.
func (w *work) endSupport(s *chain.Support, why chain.SupportEnd) {
	s.State, s.Ended, s.Why = chain.SupportEnded, w.Time, why
	open := w.nodeSupport(s.Node)
	w.putNodeSupport(s.Node, slices.DeleteFunc(open, func(id uint64) bool { return id == s.ID }))
	w.queueSupport(s, w.Time+supportMemory)
	put(w.l, chain.SupportKey(s.ID), s)
	w.emit(chain.Event{Type: "support.ended", ID: s.ID, Node: s.Node, Party: s.Requester, Reason: string(why)})
}

// queueSupport moves a request to another moment of the queue.
func (w *work) queueSupport(s *chain.Support, at int64) {
	w.requeue(chain.SupportQueue, &s.Queued, at, s.ID)
}

func (w *work) support(id uint64) *chain.Support {
	return get[chain.Support](w.l, chain.SupportKey(id))
}

// openSupport reads a request that has not ended.
func (w *work) openSupport(id uint64) (*chain.Support, error) {
	s := w.support(id)
	switch {
	case s == nil:
		return nil, fault.Errorf(fault.NotFound, "support request %d does not exist, or ended more than %d days ago", id, supportMemory/86400)
	case s.State == chain.SupportEnded:
		return nil, fault.Errorf(fault.Conflict, "support request %d has ended (%s)", id, s.Why)
	case s.Until <= w.Time:
		return nil, fault.Errorf(fault.Expired, "support request %d ended %d s ago", id, w.Time-s.Until)
	}
	return s, nil
}

// nodeSupport are the requests on a node that have not ended, rising.
func (w *work) nodeSupport(node identity.Party) []uint64 {
	if ids := get[[]uint64](w.l, chain.NodeSupportKey(node)); ids != nil {
		return *ids
	}
	return nil
}

func (w *work) putNodeSupport(node identity.Party, ids []uint64) {
	putIDs(w.l, chain.NodeSupportKey(node), ids)
}

// putIDs stores a list of ids, or nothing when there are none.
func putIDs(l *layer, key []byte, ids []uint64) {
	if len(ids) == 0 {
		drop(l, key)
		return
	}
	put(l, key, &ids)
}

// newID is the next number of a proposal, support request or usage item.
func (w *work) newID() uint64 {
	meta := w.meta()
	meta.LastID++
	put(w.l, chain.MetaKey(), meta)
	return meta.LastID
}
