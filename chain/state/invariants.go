package state

import (
	"slices"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// Audit reads the whole state and says what doesn't add up: the supply, the
// capacity reserved on nodes, the entries of the queues, the pages of the nodes'
// lists, and who holds names and addresses. It is slow, and meant for tests and
// for a full node that wants to be sure. Nil: everything adds up.
func Audit(t Tree) error {
	a := audit{t: t, l: newLayer(t), reserved: make(map[identity.Party]chain.Capacity), listed: make(map[identity.Party]int)}
	for _, check := range []func(){a.contracts, a.queues, a.nodes, a.names, a.consent, a.supply} {
		check()
	}
	if len(a.wrong) == 0 {
		return nil
	}
	return fault.Errorf(fault.Internal, "the state doesn't add up: %v", a.wrong)
}

type audit struct {
	t        Tree
	l        *layer
	wrong    []string
	money    uint64
	live     int
	reserved map[identity.Party]chain.Capacity
	listed   map[identity.Party]int
}

func (a *audit) found(format string, args ...any) {
	if len(a.wrong) < 20 {
		a.wrong = append(a.wrong, fault.Errorf(fault.Internal, format, args...).Error())
	}
}

// each decodes the records of a prefix with keys of one length.
func each[T any](a *audit, prefix string, length int, f func(key []byte, v *T)) {
	end := []byte(prefix)
	end[len(end)-1]++
	a.t.Ascend([]byte(prefix), end, func(key, _ []byte) bool {
		if len(key) == length {
			f(key, get[T](a.l, key))
		}
		return true
	})
}

func (a *audit) contracts() {
	each(a, "c", 9, func(_ []byte, c *chain.Contract) {
		a.money += c.Money.Sum()
		if !c.Live() {
			if c.Money.Sum() != 0 || c.Queued != 0 || c.Dated != 0 {
				a.found("closed contract %s holds %d or is queued", c.ID, c.Money.Sum())
			}
			return
		}
		a.live++
		for _, q := range []struct {
			name string
			at   int64
		}{{chain.BillingQueue, c.Queued}, {chain.DateQueue, c.Dated}} {
			if a.t.Get(chain.QueueKey(q.name, q.at, uint64(c.ID))) == nil {
				a.found("contract %s is not in queue %s at %d", c.ID, q.name, q.at)
			}
		}
		if c.Kind == chain.KindNode {
			a.reserved[c.Node] = a.reserved[c.Node].Add(onNode(c.Held))
		}
		for _, n := range nodesOf(c) {
			a.listed[n]++
		}
	})
	each(a, "u", 9, func(_ []byte, u *chain.Usage) { a.money += u.Amount })
	each(a, "b", 5, func(_ []byte, acc *chain.Account) { a.money += acc.Balance })
}

func (a *audit) queues() {
	for _, q := range []string{chain.BillingQueue, chain.DateQueue} {
		n := 0
		a.t.Ascend([]byte(q), chain.QueueKey(q, never+1, 0), func(_, _ []byte) bool { n++; return true })
		if n != a.live {
			a.found("queue %s has %d entries for %d live contracts", q, n, a.live)
		}
	}
}

func (a *audit) nodes() {
	w := &work{block: &block{base: a.l}, l: a.l}
	each(a, "n", 5, func(_ []byte, n *chain.Node) {
		l := w.load(n.ID)
		if !l.Reserved.Equal(a.reserved[n.ID]) {
			a.found("node %d reserves %+v, its contracts hold %+v", n.ID, l.Reserved, a.reserved[n.ID])
		}
		if missing := lacks(n.Machine.Capacity, l.Reserved); missing != "" {
			a.found("node %d is overbooked: %s", n.ID, missing)
		}
		entries := w.list(n.ID)
		if len(entries) != a.listed[n.ID] || len(entries) != int(l.Contracts) {
			a.found("node %d lists %d contracts and counts %d, there are %d", n.ID, len(entries), l.Contracts, a.listed[n.ID])
		}
		networks := 0
		for _, e := range entries {
			c := w.contract(e.Contract)
			if c != nil && c.Kind == chain.KindNetwork {
				networks++
			}
			if c == nil || !slices.Contains(nodesOf(c), n.ID) || entryOf(c) != e {
				a.found("node %d lists %+v, which is not so", n.ID, e)
			}
		}
		if networks != int(l.Networks) {
			a.found("node %d lists %d networks and counts %d", n.ID, networks, l.Networks)
		}
		if l.Rent != 0 {
			if c := w.contract(l.Rent); c == nil || !c.Live() || c.Kind != chain.KindRent || c.Node != n.ID {
				a.found("node %d is rented by contract %s, which is not so", n.ID, l.Rent)
			}
		}
	})
}

func (a *audit) names() {
	w := &work{block: &block{base: a.l}, l: a.l}
	end := []byte("n")
	a.t.Ascend([]byte("m"), end, func(key, _ []byte) bool {
		h := get[chain.NameHolder](a.l, key)
		if h.Contract != 0 {
			if c := w.contract(h.Contract); c == nil || !c.Live() || c.Name != string(key[1:]) {
				a.found("name %s is held by contract %s, which is not so", key[1:], h.Contract)
			}
		}
		return true
	})
	each(a, "f", 5, func(_ []byte, f *chain.Farm) {
		for _, ip := range f.IPs {
			if ip.Contract == 0 {
				continue
			}
			if c := w.contract(ip.Contract); c == nil || !c.Live() || !slices.Contains(c.IPs, ip.IP.Address) {
				a.found("address %s is held by contract %s, which is not so", ip.IP.Address, ip.Contract)
			}
		}
	})
}

func (a *audit) supply() {
	if s := metaOf(a.l).Supply; s != a.money {
		a.found("the supply is %d, balances and contracts hold %d", s, a.money)
	}
}
