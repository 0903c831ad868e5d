package state

import (
	"fmt"
	"strings"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// A node's list is kept in pages. A new entry goes to the end, and the last one
// takes the place of one that leaves, so that pages stay full.

// Bounds of the changes of lists, the only work that isn't bounded by the length
// of a transaction: an end of a rent or a vote can do a lot. What began is ended,
// which is at most chain.MaxOnNode more.
const (
	maxLists      = 2 * chain.MaxOnNode // in a transaction, a proposal that is due, and a queue of a block
	maxBlockLists = 20_000              // in a block, after which only small transactions succeed
	smallLists    = 64
	proposalWork  = 8 // for a proposal that is looked at, which has up to 16 KiB
)

// mostLists is the count of changes in the block after which a transaction or a
// proposal that begins now does no more.
func (b *block) mostLists() int {
	if b.lists > maxBlockLists {
		return b.lists + smallLists
	}
	return b.lists + maxLists
}

// room says whether a message may change some more lists.
func (t *tx) room(more int) error {
	if t.lists+more > t.most {
		return fault.Errorf(fault.Exhausted, "too many lists of nodes change in this transaction or block (%d and %d more); split it, or send it again", t.lists, more)
	}
	return nil
}

func (w *work) page(n identity.Party, page int) []chain.ListEntry {
	p := get[[]chain.ListEntry](w.l, chain.ListKey(n, uint32(page)))
	if p == nil {
		return nil
	}
	return *p
}

func (w *work) putPage(n identity.Party, page int, entries []chain.ListEntry) {
	if len(entries) == 0 {
		drop(w.l, chain.ListKey(n, uint32(page)))
		return
	}
	put(w.l, chain.ListKey(n, uint32(page)), &entries)
}

// list reads all entries of a node.
func (w *work) list(n identity.Party) []chain.ListEntry {
	var all []chain.ListEntry
	for page := range int(w.load(n).Pages) {
		all = append(all, w.page(n, page)...)
	}
	return all
}

// enlist adds a contract to a node's list.
func (w *work) enlist(n identity.Party, c *chain.Contract) error {
	w.lists++
	l := w.load(n)
	if c.Kind == chain.KindNetwork {
		if l.Networks >= chain.MaxNetworks {
			return fault.Errorf(fault.Exhausted, "node %d has %d networks, no more are possible", n, l.Networks)
		}
		l.Networks++
	}
	if l.Contracts >= chain.MaxOnNode {
		return fault.Errorf(fault.Exhausted, "node %d has %d live contracts, no more are possible", n, l.Contracts)
	}
	page := int(l.Contracts) / chain.PageSize
	w.putPage(n, page, append(w.page(n, page), entryOf(c)))
	l.Contracts++
	l.Pages = pages(l.Contracts)
	w.putLoad(n, l)
	return nil
}

func pages(entries uint32) uint32 { return (entries + chain.PageSize - 1) / chain.PageSize }

// find is the place of a contract in a node's list.
func (w *work) find(n identity.Party, id identity.ContractID) (page, at int, entries []chain.ListEntry) {
	w.lists++
	name := string(canon.MustMarshal(id))
	for page := int(w.load(n).Pages) - 1; page >= 0; page-- { // what is new changes most
		// A page that has the id nowhere among its bytes need not be decoded.
		if !strings.Contains(string(w.l.Get(chain.ListKey(n, uint32(page)))), name) {
			continue
		}
		entries := w.page(n, page)
		for at, e := range entries {
			if e.Contract == id {
				return page, at, entries
			}
		}
	}
	panic(fmt.Sprintf("state: contract %s is not in the list of node %d", id, n))
}

// relist writes the version and state of a contract into its nodes' lists.
func (w *work) relist(c *chain.Contract) {
	for _, n := range nodesOf(c) {
		page, at, entries := w.find(n, c.ID)
		e := entryOf(c)
		if entries[at] != e {
			entries[at] = e
			w.putPage(n, page, entries)
		}
	}
}

// unlist takes a contract from a node's list.
func (w *work) unlist(n identity.Party, c *chain.Contract) {
	page, at, entries := w.find(n, c.ID)
	l := w.load(n)
	if c.Kind == chain.KindNetwork {
		l.Networks--
	}
	l.Contracts--
	last := int(l.Contracts) / chain.PageSize
	tail := entries
	if last != page {
		tail = w.page(n, last)
	}
	entries[at] = tail[len(tail)-1]
	if last != page {
		w.putPage(n, page, entries)
	}
	w.putPage(n, last, tail[:len(tail)-1])
	l.Pages = pages(l.Contracts)
	w.putLoad(n, l)
}

// nodesOf is the nodes in whose lists a contract is.
func nodesOf(c *chain.Contract) []identity.Party {
	switch c.Kind {
	case chain.KindNode, chain.KindRent:
		return []identity.Party{c.Node}
	case chain.KindNetwork:
		return c.Agreed.Members
	}
	return nil
}

// entryOf is what a node is told of a contract: the version to run.
func entryOf(c *chain.Contract) chain.ListEntry {
	e := chain.ListEntry{Contract: c.ID, Version: c.Agreed.Version, State: c.State}
	if c.Next != nil {
		e.Version = c.Next.Version
	}
	return e
}

// lacks says what of a need isn't there, in words, or "".
func lacks(have, need chain.Capacity) string {
	s := ""
	add := func(format string, args ...any) {
		if s != "" {
			s += ", "
		}
		s += fmt.Sprintf(format, args...)
	}
	if need.CPU > have.CPU {
		add("%s vCPU missing", milli(need.CPU-have.CPU))
	}
	for _, r := range []struct {
		name       string
		need, have uint64
	}{{"memory", need.Memory, have.Memory}, {"SSD", need.SSD, have.SSD}, {"HDD", need.HDD, have.HDD}} {
		if r.need > r.have {
			add("%d bytes of %s missing", r.need-r.have, r.name)
		}
	}
	if need.IPv4 > have.IPv4 {
		add("%d IPv4 missing", need.IPv4-have.IPv4)
	}
	for _, g := range need.GPU {
		found := false
		for _, h := range have.GPU {
			found = found || g == h
		}
		if !found {
			add("GPU %s missing", g)
		}
	}
	return s
}

func milli(n uint64) string {
	if n%1000 == 0 {
		return fmt.Sprint(n / 1000)
	}
	return fmt.Sprintf("%d.%03d", n/1000, n%1000)
}

// hold reserves another capacity for a contract on its node, or says what is
// missing. Public addresses are the farm's, not the node's.
func (w *work) hold(c *chain.Contract, want chain.Capacity) error {
	if c.Node == 0 || c.Kind != chain.KindNode || want.Equal(c.Held) {
		c.Held = want
		return nil
	}
	n, err := w.node(c.Node)
	if err != nil {
		return err
	}
	l := w.load(c.Node)
	others := l.Reserved.Sub(onNode(c.Held))
	if missing := lacks(n.Machine.Capacity.Sub(others), onNode(want)); missing != "" {
		return fault.Errorf(fault.Exhausted, "node %d: %s", c.Node, missing)
	}
	l.Reserved = others.Add(onNode(want))
	w.putLoad(c.Node, l)
	c.Held = want
	return nil
}

// onNode is a capacity without what the farm provides.
func onNode(c chain.Capacity) chain.Capacity {
	c.IPv4, c.IPv6 = 0, 0
	return c
}
