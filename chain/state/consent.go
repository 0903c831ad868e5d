package state

import (
	"fmt"
	"slices"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Bounds of consent.
const (
	maxOpen        = 64         // open proposals of a group
	proposalMemory = 30 * 86400 // seconds that a proposal is kept after its end
	maxNesting     = 2          // a group that acts within a group
)

// groupSpent is the key in Account.Spent of what a group spent.
const groupSpent = 0xffffffff

// classOf is the class in which a group needs consent for a message. To fund the
// contract of another is to give money away.
func classOf(group identity.Party, m chain.Message) chain.Class {
	if top, ok := m.(*chain.TopUp); ok && top.ID.Owner() != group {
		return chain.ClassSpend
	}
	class, _ := chain.ClassOf(m.Code())
	return class
}

func classesOf(group identity.Party, ms []chain.Message) []chain.Class {
	var classes []chain.Class
	for _, m := range ms {
		classes = append(classes, classOf(group, m))
	}
	slices.Sort(classes)
	return slices.Compact(classes)
}

// terms are the longest delay and the shortest expiry of some classes.
func terms(id identity.Party, g *chain.Group, classes []chain.Class) (delay, expiry int64, err error) {
	var slow, short chain.Class
	for i, class := range classes {
		p := g.Policy(class)
		if p == nil {
			return 0, 0, fault.Errorf(fault.Denied, "group %d has no policy for %s, so it can't do this", id, class)
		}
		if d := int64(p.MinDelay); i == 0 || d > delay {
			delay, slow = d, class
		}
		if e := int64(p.Expiry); i == 0 || e < expiry {
			expiry, short = e, class
		}
	}
	if delay >= expiry {
		return 0, 0, fault.Errorf(fault.Invalid, "group %d: %s waits %d s and %s expires after %d s, so both together never happen; propose them one by one", id, slow, delay, short, expiry)
	}
	return delay, expiry, nil
}

func (t *tx) propose(by actor, m *chain.Propose) error {
	party, err := t.group(m.Group)
	if err != nil {
		return err
	}
	g := party.Group
	seat := t.seat(g, by.party)
	if seat == 0 {
		return fault.Errorf(fault.Denied, "party %d is not a member of group %d", by.party, m.Group)
	}
	if m.Approve && seat != by.party {
		return fault.Errorf(fault.Denied, "approve: party %d is in group %d through group %d, which votes by its own proposal", by.party, m.Group, seat)
	}
	ms, err := chain.Unpack(m.Messages)
	if err != nil {
		return err
	}
	classes := classesOf(m.Group, ms)
	delay, expiry, err := terms(m.Group, g, classes)
	if err != nil {
		return err
	}
	// One member can't take the places of the others.
	open, mine := t.proposals(m.Group), 0
	for _, o := range open {
		if o.Seat == seat {
			mine++
		}
	}
	if most := max(1, maxOpen/len(g.Members)); len(open) >= maxOpen || mine >= most {
		return fault.Errorf(fault.Exhausted, "group %d has %d open proposals, %d of them from member %d; at most %d and %d: withdraw one, or execute with signed approvals", m.Group, len(open), mine, seat, maxOpen, most)
	}
	reserved, err := t.reserve(m.Group, ms)
	if err != nil {
		return err
	}
	p := &chain.Proposal{ID: t.newID(), Group: m.Group, By: by.party, Messages: m.Messages, Note: m.Note, Classes: classes, Reserved: reserved,
		Created: t.Time, Ready: t.Time + delay, Expires: t.Time + expiry, State: chain.ProposalOpen}
	t.putProposals(m.Group, append(open, chain.OpenProposal{ID: p.ID, Seat: seat}))
	t.emit(chain.Event{Type: "proposal.created", ID: p.ID, Party: by.party, To: m.Group, From: p.Ready, Until: p.Expires, Reason: m.Note})
	if m.Approve {
		t.ballot(p, by.party, true)
	}
	t.weigh(p, by.depth)
	return nil
}

// reserve uses up the serials of the contracts that a proposal creates, so that
// the documents, which contain the ids, stay true however long the votes take.
// They are the group's next ones without gaps: one member can't use them all up.
func (t *tx) reserve(group identity.Party, ms []chain.Message) ([]identity.ContractID, error) {
	var ids []identity.ContractID
	for _, m := range ms {
		switch m := m.(type) {
		case *chain.CreateNetworkContract:
			ids = append(ids, m.ID)
		case *chain.CreateNodeContract:
			ids = append(ids, m.ID)
		case *chain.CreateNameContract:
			ids = append(ids, m.ID)
		case *chain.CreateRentContract:
			ids = append(ids, m.ID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	slices.Sort(ids)
	a := t.account(group)
	for _, id := range ids {
		switch next := a.Serial + 1; {
		case id.Owner() != group:
			return nil, fault.Errorf(fault.Denied, "id %s: group %d can only use its own numbers, %d/…", id, group, group)
		case id.Serial() < next:
			return nil, fault.Errorf(fault.Conflict, "id %s: serial %d already used, next is %d", id, id.Serial(), next)
		case id.Serial() > next:
			return nil, fault.Errorf(fault.Invalid, "id %s: a proposal takes the group's next serials without gaps, next is %d", id, next)
		}
		a.Serial++
	}
	put(t.l, chain.AccountKey(group), a)
	return ids, nil
}

func (t *tx) vote(by actor, m *chain.Vote) error {
	p, err := t.openProposal(m.Proposal)
	if err != nil {
		return err
	}
	party, err := t.group(p.Group)
	if err != nil {
		return err
	}
	g := party.Group
	switch {
	case g.Member(by.party) == nil:
		if seat := t.seat(g, by.party); seat != 0 {
			return fault.Errorf(fault.Denied, "party %d is in group %d through group %d, which votes by its own proposal", by.party, p.Group, seat)
		}
		return fault.Errorf(fault.Denied, "party %d is not a member of group %d", by.party, p.Group)
	case !t.counts(g, by.party) || by.depth >= maxNesting:
		return fault.Errorf(fault.Denied, "party %d is a group of groups, whose vote doesn't count in group %d", by.party, p.Group)
	}
	t.lists += proposalWork
	t.ballot(p, by.party, m.Approve)
	t.weigh(p, by.depth)
	return nil
}

// ballot notes a member's vote in place of an earlier one.
func (t *tx) ballot(p *chain.Proposal, member identity.Party, approve bool) {
	b := chain.Ballot{Party: member, Approve: approve}
	i, voted := slices.BinarySearchFunc(p.Votes, member, byParty)
	if voted {
		p.Votes[i] = b
	} else {
		p.Votes = slices.Insert(p.Votes, i, b)
	}
	word := "reject"
	if approve {
		word = "approve"
	}
	t.emit(chain.Event{Type: "proposal.voted", ID: p.ID, Party: member, To: p.Group, Reason: word})
}

func (t *tx) withdraw(by actor, m *chain.Withdraw) error {
	p, err := t.openProposal(m.Proposal)
	if err != nil {
		return err
	}
	if p.By != by.party {
		return fault.Errorf(fault.Denied, "proposal %d was made by party %d, who alone may withdraw it; vote against it instead", p.ID, p.By)
	}
	t.end(p, chain.ProposalWithdrawn)
	t.emit(chain.Event{Type: "proposal.withdrawn", ID: p.ID, Party: by.party, To: p.Group})
	return nil
}

// weigh looks at an open proposal: it is over, it can't succeed, it has to wait,
// or it is carried out. Delay and expiry are those of the time when it was made,
// unless the group has become stricter.
func (t *tx) weigh(p *chain.Proposal, depth int) {
	party := t.party(p.Group)
	for _, class := range p.Classes {
		if policy := party.Group.Policy(class); policy != nil {
			p.Ready = max(p.Ready, p.Created+int64(policy.MinDelay))
			p.Expires = min(p.Expires, p.Created+int64(policy.Expiry))
		}
	}
	agreed, hopeless, why := t.poll(party.Group, p.Classes, p.Votes)
	switch {
	case p.Expires <= t.Time:
		t.end(p, chain.ProposalExpired)
		t.emit(chain.Event{Type: "proposal.expired", ID: p.ID, Party: p.By, To: p.Group, Reason: why})
	case hopeless:
		t.end(p, chain.ProposalRejected)
		t.emit(chain.Event{Type: "proposal.rejected", ID: p.ID, Party: p.By, To: p.Group, Reason: why})
	case agreed && p.Ready <= t.Time:
		t.carryOut(p, depth)
	default:
		at := p.Expires
		if agreed {
			at = min(at, p.Ready)
		}
		t.requeue(chain.ProposalQueue, &p.Queued, at, p.ID)
		put(t.l, chain.ProposalKey(p.ID), p)
	}
}

// carryOut does what a group agreed to. It is over before it begins, so nothing
// in it can carry it out again. When a message fails nothing is applied and only
// that is recorded; the sentence, which may be reworded, is in the event alone.
func (t *tx) carryOut(p *chain.Proposal, depth int) {
	t.end(p, chain.ProposalExecuted)
	at := 0
	err := t.within(func() error {
		return t.perform(actor{party: p.Group, role: identity.RoleFull, depth: depth + 1, reserved: p.Reserved}, p.Messages, &at)
	})
	if err == nil {
		t.emit(chain.Event{Type: "proposal.executed", ID: p.ID, Party: p.By, To: p.Group})
		return
	}
	p.State = chain.ProposalFailed
	p.Why = fmt.Sprintf("messages[%d]: %s", at, fault.Of(err))
	put(t.l, chain.ProposalKey(p.ID), p)
	t.emit(chain.Event{Type: "proposal.failed", ID: p.ID, Party: p.By, To: p.Group, Reason: fmt.Sprintf("messages[%d]: %v", at, err)})
}

// perform carries out messages of a group, counting in *at.
func (t *tx) perform(by actor, packed []chain.Packed, at *int) error {
	ms, err := chain.Unpack(packed)
	if err != nil {
		return err
	}
	for i, m := range ms {
		*at = i
		if err := t.withinLimit(by, m); err != nil {
			return err
		}
		if err := t.do(by, m); err != nil {
			return fault.Errorf(fault.Of(err), "%s: %w", m.Code(), err)
		}
	}
	return nil
}

// withinLimit counts what a group spends under the limit of its policy.
func (t *tx) withinLimit(by actor, m chain.Message) error {
	if classOf(by.party, m) != chain.ClassSpend {
		return nil
	}
	var nano uint64
	switch m := m.(type) {
	case *chain.Send:
		nano = m.Amount
	case *chain.TopUp:
		nano = m.Amount
	}
	party, err := t.group(by.party)
	if err != nil {
		return err
	}
	policy := party.Group.Policy(chain.ClassSpend)
	if policy == nil {
		return fault.Errorf(fault.Denied, "group %d has no policy for %s any more", by.party, chain.ClassSpend)
	}
	if policy.Limit == 0 {
		return nil
	}
	a := t.account(by.party)
	if err := t.count(a, groupSpent, nano, policy.Limit); err != nil {
		return fault.Errorf(fault.Of(err), "group %d: %w", by.party, err)
	}
	put(t.l, chain.AccountKey(by.party), a)
	return nil
}

// execute carries out messages of a group with approvals that its members signed
// elsewhere. It fails as a whole, so the approvals stay good until they expire.
func (t *tx) execute(by actor, m *chain.Execute) error {
	party, err := t.group(m.Group)
	if err != nil {
		return err
	}
	g, a := party.Group, t.account(m.Group)
	if t.seat(g, by.party) == 0 {
		return fault.Errorf(fault.Denied, "party %d is not a member of group %d", by.party, m.Group)
	}
	if m.Sequence != a.Sequence+1 {
		return fault.Errorf(fault.Conflict, "sequence %d of group %d: the next is %d; the members have to sign that", m.Sequence, m.Group, a.Sequence+1)
	}
	ms, err := chain.Unpack(m.Messages)
	if err != nil {
		return err
	}
	classes := classesOf(m.Group, ms)
	delay, expiry, err := terms(m.Group, g, classes)
	switch {
	case err != nil:
		return err
	case delay > 0:
		return fault.Errorf(fault.Denied, "group %d waits %d s before %v; propose it instead", m.Group, delay, classes)
	case m.Expires <= t.Time:
		return fault.Errorf(fault.Expired, "the approvals expired %d s ago", t.Time-m.Expires)
	case m.Expires > t.Time+expiry:
		return fault.Errorf(fault.Invalid, "expires %d: %d s ahead, the policies of group %d allow %d", m.Expires, m.Expires-t.Time, m.Group, expiry)
	}
	signed := chain.Approval{Chain: t.meta().Chain, Group: m.Group, Sequence: m.Sequence, Expires: m.Expires, Messages: m.Messages}.Encode()
	votes := make([]chain.Ballot, len(m.Consents))
	for i, c := range m.Consents {
		switch {
		case g.Member(c.Party) == nil:
			return fault.Errorf(fault.Denied, "consents[%d]: party %d is not a member of group %d", i, c.Party, m.Group)
		case slices.Contains(g.Groups, c.Party):
			return fault.Errorf(fault.Denied, "consents[%d]: party %d is a group, which can't sign; it votes on a proposal", i, c.Party)
		}
		member, err := t.keyOf(c.Party, c.Signature, identity.TagApprove, signed)
		if err != nil {
			return fault.Errorf(fault.Of(err), "consents[%d]: %w", i, err)
		}
		if member.role != identity.RoleFull {
			return fault.Errorf(fault.Denied, "consents[%d]: key %d of party %d is a %s key, a full key is needed", i, c.Signature.Key, c.Party, member.role)
		}
		votes[i] = chain.Ballot{Party: c.Party, Approve: true}
	}
	if agreed, _, why := t.poll(g, classes, votes); !agreed {
		return fault.Errorf(fault.Denied, "the consents are not enough for group %d: %s", m.Group, why)
	}
	a.Sequence++
	put(t.l, chain.AccountKey(m.Group), a)
	at := 0
	if err := t.perform(actor{party: m.Group, role: identity.RoleFull, depth: by.depth + 1}, m.Messages, &at); err != nil {
		return fault.Errorf(fault.Of(err), "messages[%d]: %w", at, err)
	}
	t.emit(chain.Event{Type: "group.executed", Party: m.Group, To: by.party, ID: m.Sequence})
	return nil
}

// dueProposal acts on a proposal that became ready, expired, belongs to a group
// that was changed, or ended long ago.
func (w *work) dueProposal(id uint64) {
	p := w.proposal(id)
	switch {
	case p == nil:
	case p.State != chain.ProposalOpen:
		drop(w.l, chain.ProposalKey(id))
	default:
		t := &tx{work: work{block: w.block, l: w.l}, Tx: &chain.Tx{Body: chain.Body{Chain: w.meta().Chain}}, most: w.mostLists()}
		t.weigh(p, 0)
		w.events = append(w.events, t.events...)
	}
}

// end closes a proposal.
func (w *work) end(p *chain.Proposal, s chain.ProposalState) {
	p.State, p.Ended = s, w.Time
	w.putProposals(p.Group, slices.DeleteFunc(w.proposals(p.Group), func(o chain.OpenProposal) bool { return o.ID == p.ID }))
	w.requeue(chain.ProposalQueue, &p.Queued, w.Time+proposalMemory, p.ID)
	put(w.l, chain.ProposalKey(p.ID), p)
}

func (w *work) proposal(id uint64) *chain.Proposal {
	return get[chain.Proposal](w.l, chain.ProposalKey(id))
}

func (w *work) openProposal(id uint64) (*chain.Proposal, error) {
	p := w.proposal(id)
	switch {
	case p == nil:
		return nil, fault.Errorf(fault.NotFound, "proposal %d does not exist, or ended more than %d days ago", id, proposalMemory/86400)
	case p.State != chain.ProposalOpen:
		return nil, fault.Errorf(fault.Conflict, "proposal %d is %s", id, p.State)
	case p.Expires <= w.Time:
		return nil, fault.Errorf(fault.Expired, "proposal %d expired %d s ago", id, w.Time-p.Expires)
	}
	return p, nil
}

// proposals are the open proposals of a group, in the order they were made.
func (w *work) proposals(group identity.Party) []chain.OpenProposal {
	if open := get[[]chain.OpenProposal](w.l, chain.GroupProposalsKey(group)); open != nil {
		return *open
	}
	return nil
}

func (w *work) putProposals(group identity.Party, open []chain.OpenProposal) {
	if len(open) == 0 {
		drop(w.l, chain.GroupProposalsKey(group))
		return
	}
	put(w.l, chain.GroupProposalsKey(group), &open)
}

// phrase adds to a list in words.
func phrase(list, format string, args ...any) string {
	if list != "" {
		list += ", "
	}
	return list + fmt.Sprintf(format, args...)
}
