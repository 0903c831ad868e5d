package state

import (
	"slices"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// A group may be a member of a group, which may not be a member itself. So a
// group of groups is never taken as a member, and where a member becomes one
// later its vote doesn't count any more. Rings can't arise: the membership that
// would close one takes in a group of groups.

func (t *tx) createGroup(by actor, m *chain.CreateGroup) error {
	creator, err := t.needParty(by.party)
	if err != nil {
		return err
	}
	g, err := t.newGroup(0, m.Name, m.Members, m.Policies)
	if err != nil {
		return err
	}
	a := t.account(by.party)
	a.Groups++
	put(t.l, chain.AccountKey(by.party), a)
	p := &chain.Party{Address: identity.GroupAddress(creator.Address, uint64(a.Groups)), Group: g}
	if err := t.addParty(p); err != nil {
		return err
	}
	t.emit(chain.Event{Type: "group.created", Party: p.ID, To: by.party, Name: g.Name})
	return nil
}

// newGroup checks the members of a group, which is self or, when that is 0, new.
func (w *work) newGroup(self identity.Party, name string, members []chain.Member, policies []chain.Policy) (*chain.Group, error) {
	g := &chain.Group{Name: name, Members: members, Policies: policies}
	for i, m := range members {
		p, err := w.needParty(m.Party)
		switch {
		case err != nil:
			return nil, fault.Errorf(fault.Of(err), "members[%d]: %w", i, err)
		case m.Party == self:
			return nil, fault.Errorf(fault.Invalid, "members[%d].party %d: a group can't be its own member", i, m.Party)
		case w.isNode(m.Party):
			return nil, fault.Errorf(fault.Invalid, "members[%d].party %d: a node can't be a member; take its owner", i, m.Party)
		case p.Group == nil:
			continue
		case len(p.Group.Groups) > 0:
			return nil, fault.Errorf(fault.Invalid, "members[%d].party %d: it is a group of groups (%d is in it); groups nest once", i, m.Party, p.Group.Groups[0])
		}
		g.Groups = append(g.Groups, m.Party)
	}
	return g, nil
}

// updateGroup changes the group that executes it. Its open proposals are looked
// at again when the next block begins; votes of those who left are gone.
func (t *tx) updateGroup(by actor, m *chain.UpdateGroup) error {
	p, err := t.group(by.party)
	if err != nil {
		return fault.Errorf(fault.Denied, "party %d is no group; a group is changed by its own proposal", by.party)
	}
	if p.Group, err = t.newGroup(by.party, m.Name, m.Members, m.Policies); err != nil {
		return err
	}
	put(t.l, chain.PartyKey(p.ID), p)
	t.emit(chain.Event{Type: "group.updated", Party: p.ID, Name: m.Name})
	proposals := t.proposals(p.ID)
	if err := t.room(len(proposals) * proposalWork); err != nil {
		return err
	}
	t.lists += len(proposals) * proposalWork
	for _, o := range proposals {
		open := t.proposal(o.ID)
		open.Votes = slices.DeleteFunc(open.Votes, func(b chain.Ballot) bool { return p.Group.Member(b.Party) == nil })
		t.requeue(chain.ProposalQueue, &open.Queued, t.Time, open.ID)
		put(t.l, chain.ProposalKey(open.ID), open)
	}
	return nil
}

// group reads a party that must be a group.
func (w *work) group(id identity.Party) (*chain.Party, error) {
	p, err := w.needParty(id)
	if err != nil {
		return nil, err
	}
	if p.Group == nil {
		return nil, fault.Errorf(fault.Invalid, "group %d: party %d is a twin, not a group", id, id)
	}
	return p, nil
}

// seat is the member of a group that a twin is, or through which it is in the
// group: the first member group that has it. 0: it is not in the group.
func (w *work) seat(g *chain.Group, p identity.Party) identity.Party {
	if g.Member(p) != nil {
		return p
	}
	for _, inner := range g.Groups {
		if in := w.party(inner); in.Group.Member(p) != nil {
			return inner
		}
	}
	return 0
}

// poll counts, with members and weights as they are now, whether a group agrees
// to act in some classes, and whether it can't any more whoever votes. Why says
// in words what is missing.
func (w *work) poll(g *chain.Group, classes []chain.Class, votes []chain.Ballot) (agreed, hopeless bool, why string) {
	const waits, yes, no = 0, 1, 2
	said := make([]int, len(g.Members))
	for i, m := range g.Members {
		at, voted := slices.BinarySearchFunc(votes, m.Party, byParty)
		switch {
		case !w.counts(g, m.Party) || voted && !votes[at].Approve:
			said[i] = no
		case voted:
			said[i] = yes
		}
	}
	agreed = true
	for _, class := range classes {
		policy := g.Policy(class)
		if policy == nil {
			return false, true, "there is no policy for " + string(class)
		}
		var approved, possible uint64
		for i, m := range g.Members {
			if said[i] == yes {
				approved += uint64(m.Weight)
			}
			if said[i] != no {
				possible += uint64(m.Weight)
			}
			if said[i] != yes && slices.Contains(policy.Must, m.Party) {
				why, agreed = phrase(why, "%s needs party %d", class, m.Party), false
				hopeless = hopeless || said[i] == no
			}
		}
		if approved < uint64(policy.Threshold) {
			why, agreed = phrase(why, "%s has %d of %d", class, approved, policy.Threshold), false
			hopeless = hopeless || possible < uint64(policy.Threshold)
		}
	}
	return agreed, hopeless, why
}

// counts says whether a member's vote counts: that of a group of groups doesn't.
func (w *work) counts(g *chain.Group, p identity.Party) bool {
	return !slices.Contains(g.Groups, p) || len(w.party(p).Group.Groups) == 0
}

func byParty(b chain.Ballot, p identity.Party) int { return int(b.Party) - int(p) }
