package state

import (
	"slices"

	"zos.internal/chain"
	"zos.internal/identity"
)

// consent checks that each open proposal and each support request that has not
// ended is in the list of its group or node, and in its queue exactly once.
func (a *audit) consent() {
	w := &work{block: &block{base: a.l}, l: a.l}
	listed := 0
	each(a, "G", 5, func(key []byte, open *[]chain.OpenProposal) {
		for _, o := range *open {
			p := w.proposal(o.ID)
			if p == nil || p.State != chain.ProposalOpen || string(chain.GroupProposalsKey(p.Group)) != string(key) {
				a.found("group list %x has proposal %d, which is not so", key, o.ID)
			}
			listed++
		}
	})
	queued := 0
	each(a, "g", 9, func(_ []byte, p *chain.Proposal) {
		queued++
		if a.t.Get(chain.QueueKey(chain.ProposalQueue, p.Queued, p.ID)) == nil {
			a.found("proposal %d is not in its queue at %d", p.ID, p.Queued)
		}
		if p.State == chain.ProposalOpen {
			listed--
		}
	})
	if listed != 0 {
		a.found("open proposals and the lists of groups differ by %d", listed)
	}
	a.entries(chain.ProposalQueue, queued)
	queued = 0
	each(a, "s", 9, func(_ []byte, s *chain.Support) {
		queued++
		if a.t.Get(chain.QueueKey(chain.SupportQueue, s.Queued, s.ID)) == nil {
			a.found("support request %d is not in its queue at %d", s.ID, s.Queued)
		}
		if open := slices.Contains(w.nodeSupport(s.Node), s.ID); open != (s.State != chain.SupportEnded) {
			a.found("support request %d is %s, listed by its node: %v", s.ID, s.State, open)
		}
		granted := s.State == chain.SupportGranted
		if granted && !containsAll(s.Given, s.Needed) {
			a.found("support request %d is granted without a consent: %v of %v", s.ID, s.Given, s.Needed)
		}
		if rent := w.load(s.Node).Rent; granted && rent != 0 && !slices.Contains(s.Given, rent.Owner()) {
			a.found("support request %d is granted without the renter %d", s.ID, rent.Owner())
		}
	})
	a.entries(chain.SupportQueue, queued)
}

// entries wants a number of entries in a queue.
func (a *audit) entries(queue string, want int) {
	n := 0
	a.t.Ascend([]byte(queue), chain.QueueKey(queue, never+1, 0), func(_, _ []byte) bool { n++; return true })
	if n != want {
		a.found("queue %s has %d entries, want %d", queue, n, want)
	}
}

func containsAll(all, some []identity.Party) bool {
	for _, p := range some {
		if !slices.Contains(all, p) {
			return false
		}
	}
	return true
}
