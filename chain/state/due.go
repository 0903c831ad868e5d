package state

import (
	"zos.internal/chain"
	"zos.internal/identity"
)

// MaxDue is the most things that are done at the begin of a block. The rest waits
// for the next block; settlement cuts at the moment that was due, so it costs
// nobody. When more are due each queue has an equal part, so that none waits for
// another.
const MaxDue = 500

type dueEntry struct {
	at    int64
	id    uint64
	value []byte
}

// due does what has come due. Nothing in it can fail: what hits a bug is undone,
// taken from its queue and told in an event.
func (b *block) due() []chain.Event {
	w := &work{block: b, l: b.base}
	queues := []struct {
		name    string
		now     int64
		act     func(id uint64, at int64, value []byte)
		entries []dueEntry
		most    int
	}{
		{chain.BillingQueue, b.clock, func(id uint64, at int64, _ []byte) { w.dueBilling(id, at) }, nil, 0},
		{chain.DateQueue, b.Time, func(id uint64, _ int64, _ []byte) { w.dueDate(id) }, nil, 0},
		{chain.UsageQueue, b.Time, func(id uint64, at int64, _ []byte) { w.dueUsage(id, at) }, nil, 0},
		{chain.ProposalQueue, b.Time, func(id uint64, _ int64, _ []byte) { w.dueProposal(id) }, nil, 0},
		{chain.SupportQueue, b.Time, func(id uint64, _ int64, _ []byte) { w.dueSupport(id) }, nil, 0},
		{chain.ClosedQueue, b.Time, func(id uint64, _ int64, _ []byte) { drop(w.l, chain.ContractKey(identity.ContractID(id))) }, nil, 0},
		{chain.NameQueue, b.Time, func(_ uint64, _ int64, name []byte) { drop(w.l, chain.NameKey(string(name))) }, nil, 0},
	}
	tree, left := b.base.below.(Tree), MaxDue
	for i := range queues {
		q := &queues[i]
		tree.Ascend([]byte(q.name), chain.QueueKey(q.name, q.now+1, 0), func(key, value []byte) bool {
			if at, id, ok := chain.ParseQueueKey(key); ok {
				q.entries = append(q.entries, dueEntry{at, id, value})
			}
			return len(q.entries) < MaxDue
		})
		q.most = min(len(q.entries), MaxDue/len(queues))
		left -= q.most
	}
	for i := range queues {
		q := &queues[i]
		more := min(left, len(q.entries)-q.most)
		left -= more
		lists := b.lists
		for _, e := range q.entries[:q.most+more] {
			if b.lists-lists > maxLists {
				break // the end of a rent or a proposal was more than one thing
			}
			key := chain.QueueKey(q.name, e.at, e.id)
			if w.l.Get(key) == nil {
				continue // what was done before it has moved it
			}
			if err := w.within(func() error {
				q.act(e.id, e.at, e.value)
				return nil
			}); err != nil {
				w.emit(chain.Event{Type: "chain.bug", ID: e.id, Name: q.name, Reason: err.Error()})
			}
			if q.name != chain.BillingQueue && q.name != chain.DateQueue || w.stale(q.name, e.at, e.id) {
				drop(w.l, key)
			}
		}
	}
	return w.events
}

// stale says whether an entry of a queue is still there although its contract
// isn't at that place any more, which only a bug can cause.
func (w *work) stale(queue string, at int64, id uint64) bool {
	c := w.contract(identity.ContractID(id))
	if c == nil {
		return true
	}
	if queue == chain.BillingQueue {
		return c.Queued != at
	}
	return c.Dated != at
}

// dueDate acts on a contract at a date: a deadline, its end, a reclaim.
func (w *work) dueDate(id uint64) {
	c := w.contract(identity.ContractID(id))
	w.settle(c, w.clock)
	switch {
	case c.Agreed.Expires != 0 && c.Agreed.Expires <= w.Time:
		w.close(c, chain.ReasonExpired, w.clock)
		return
	case c.Reclaim != 0 && c.Reclaim <= w.Time:
		w.close(c, chain.ReasonReclaimed, w.clock)
		return
	case c.Deadline != 0 && c.Deadline <= w.Time && c.State == chain.StateCreated:
		w.close(c, chain.ReasonDeadline, w.clock)
		return
	case c.Deadline != 0 && c.Deadline <= w.Time && c.Next != nil:
		if err := w.restore(c); err != nil {
			panic("state: " + err.Error())
		}
	case c.Deadline != 0 && c.Deadline <= w.Time:
		c.Deadline = 0
	}
	w.relist(c)
	w.schedule(c)
	w.putContract(c)
}
