package state

import (
	"slices"
	"strings"

	"zos.internal/chain"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

func (t *tx) createFarm(by actor, m *chain.CreateFarm) error {
	if by.joins != "" {
		return fault.Errorf(fault.Denied, "a farm needs an owner: create a twin first")
	}
	key := chain.FarmNameKey(m.Name)
	if t.l.Get(key) != nil {
		return fault.Errorf(fault.Conflict, "name %q: another farm has it", m.Name)
	}
	meta := t.meta()
	if meta.LastFarm == 1<<31 {
		return fault.Errorf(fault.Exhausted, "all numbers of farms are used")
	}
	meta.LastFarm++
	f := chain.Farm{ID: meta.LastFarm, Owner: by.party, Name: m.Name, Terms: m.Terms}
	put(t.l, chain.MetaKey(), meta)
	t.l.set(string(key), number(f.ID))
	put(t.l, chain.FarmKey(f.ID), &f)
	t.emit(chain.Event{Type: "farm.created", Farm: f.ID, Party: by.party, Name: m.Name})
	return nil
}

func (w *work) farm(id uint32) (*chain.Farm, error) {
	if f := get[chain.Farm](w.l, chain.FarmKey(id)); f != nil {
		return f, nil
	}
	return nil, fault.Errorf(fault.NotFound, "farm %d does not exist", id)
}

// ownFarm reads a farm that the actor owns.
func (t *tx) ownFarm(by actor, id uint32) (*chain.Farm, error) {
	f, err := t.farm(id)
	if err != nil {
		return nil, err
	}
	if by.party != f.Owner {
		return nil, fault.Errorf(fault.Denied, "farm %d belongs to party %d", id, f.Owner)
	}
	return f, nil
}

func (t *tx) updateFarm(by actor, m *chain.UpdateFarm) error {
	f, err := t.ownFarm(by, m.Farm)
	if err != nil {
		return err
	}
	f.Terms = m.Terms
	put(t.l, chain.FarmKey(f.ID), f)
	t.emit(chain.Event{Type: "farm.updated", Farm: f.ID, Party: by.party})
	return nil
}

func (t *tx) addIPs(by actor, m *chain.AddIPs) error {
	f, err := t.ownFarm(by, m.Farm)
	if err != nil {
		return err
	}
	for _, ip := range m.IPs {
		i, there := slices.BinarySearchFunc(f.IPs, ip.Address, byAddress)
		if there {
			return fault.Errorf(fault.Conflict, "ips: farm %d has %s already", f.ID, ip.Address)
		}
		alone, _, _ := strings.Cut(ip.Address, "/")
		if near := slices.IndexFunc(f.IPs, func(o chain.FarmIP) bool { return strings.HasPrefix(o.IP.Address, alone+"/") }); near >= 0 {
			return fault.Errorf(fault.Conflict, "ips: farm %d has %s already, as %s", f.ID, ip.Address, f.IPs[near].IP.Address)
		}
		f.IPs = slices.Insert(f.IPs, i, chain.FarmIP{IP: ip})
	}
	if len(f.IPs) > chain.MaxIPs {
		return fault.Errorf(fault.Exhausted, "ips: farm %d would have %d addresses, at most %d", f.ID, len(f.IPs), chain.MaxIPs)
	}
	put(t.l, chain.FarmKey(f.ID), f)
	t.emit(chain.Event{Type: "farm.ips", Farm: f.ID, Amount: uint64(len(f.IPs))})
	return nil
}

func byAddress(ip chain.FarmIP, address string) int { return strings.Compare(ip.IP.Address, address) }

func (t *tx) removeIPs(by actor, m *chain.RemoveIPs) error {
	f, err := t.ownFarm(by, m.Farm)
	if err != nil {
		return err
	}
	for _, a := range m.Addresses {
		i, there := slices.BinarySearchFunc(f.IPs, a, byAddress)
		if !there {
			return fault.Errorf(fault.NotFound, "addresses: farm %d has no %.50q", f.ID, a)
		}
		if c := f.IPs[i].Contract; c != 0 {
			return fault.Errorf(fault.Conflict, "addresses: %s is held by contract %s; reclaim it first", a, c)
		}
		f.IPs = slices.Delete(f.IPs, i, i+1)
	}
	put(t.l, chain.FarmKey(f.ID), f)
	t.emit(chain.Event{Type: "farm.ips", Farm: f.ID, Amount: uint64(len(f.IPs))})
	return nil
}

// holdIPs gives a contract n addresses of a farm.
func (w *work) holdIPs(f *chain.Farm, c *chain.Contract, n int) error {
	free := 0
	for _, ip := range f.IPs {
		if ip.Contract == 0 && !strings.Contains(ip.IP.Address, ":") {
			free++
		}
	}
	if free < n {
		return fault.Errorf(fault.Exhausted, "farm %d has %d public IPv4 addresses free, %d asked", f.ID, free, n)
	}
	for i := range f.IPs {
		ip := &f.IPs[i]
		if n == 0 {
			break
		}
		if ip.Contract == 0 && !strings.Contains(ip.IP.Address, ":") {
			ip.Contract = c.ID
			c.IPs = append(c.IPs, ip.IP.Address)
			n--
		}
	}
	put(w.l, chain.FarmKey(f.ID), f)
	return nil
}

// freeIPs gives back all but the first n addresses of a contract.
func (w *work) freeIPs(farm uint32, c *chain.Contract, n int) {
	if len(c.IPs) <= n {
		return
	}
	f := get[chain.Farm](w.l, chain.FarmKey(farm))
	for _, a := range c.IPs[n:] {
		if i, there := slices.BinarySearchFunc(f.IPs, a, byAddress); there {
			f.IPs[i].Contract = 0
		}
	}
	c.IPs = c.IPs[:n:n]
	put(w.l, chain.FarmKey(f.ID), f)
}

// useTicket checks that a farm's owner signed a ticket which has uses left.
func (t *tx) useTicket(m *chain.RegisterNode) (*chain.Farm, error) {
	var ticket chain.Ticket
	if err := canon.Unmarshal(m.Ticket, &ticket); err != nil {
		return nil, fault.Errorf(fault.Invalid, "ticket: %w", err)
	}
	if ticket.Chain != t.meta().Chain {
		return nil, fault.Errorf(fault.Denied, "ticket: it is for chain %.60q", ticket.Chain)
	}
	if ticket.NotAfter < t.Time {
		return nil, fault.Errorf(fault.Expired, "ticket: it ended %d s ago; the farmer must sign another", t.Time-ticket.NotAfter)
	}
	f, err := t.farm(ticket.Farm)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "ticket: %w", err)
	}
	signer := m.Signer
	if signer == 0 {
		signer = f.Owner
	}
	owner, err := t.needParty(f.Owner)
	if err != nil {
		return nil, err
	}
	if signer != f.Owner && (owner.Group == nil || !slices.ContainsFunc(owner.Group.Members, func(g chain.Member) bool { return g.Party == signer && g.Operator })) {
		return nil, fault.Errorf(fault.Denied, "ticket: party %d is neither the owner of farm %d nor an operator of the owning group", signer, f.ID)
	}
	by, err := t.keyOf(signer, m.Signature, identity.TagTicket, m.Ticket)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "ticket: %w", err)
	}
	if by.role != identity.RoleFull {
		return nil, fault.Errorf(fault.Denied, "ticket: key %d is a %s key, a full key must sign", by.key.Index, by.role)
	}
	// What has ended can't be used any more, so it need not be counted.
	f.Tickets = slices.DeleteFunc(f.Tickets, func(u chain.TicketUse) bool { return u.NotAfter < t.Time })
	i, there := slices.BinarySearchFunc(f.Tickets, ticket.Serial, func(u chain.TicketUse, s uint32) int { return int(int64(u.Serial) - int64(s)) })
	if !there {
		if len(f.Tickets) == 256 {
			return nil, fault.Errorf(fault.Exhausted, "ticket: farm %d has 256 tickets in use; let some end", f.ID)
		}
		f.Tickets = slices.Insert(f.Tickets, i, chain.TicketUse{Serial: ticket.Serial, NotAfter: ticket.NotAfter})
	}
	u := &f.Tickets[i]
	u.NotAfter = max(u.NotAfter, ticket.NotAfter)
	if u.Uses >= ticket.Uses {
		return nil, fault.Errorf(fault.Exhausted, "ticket: all its %d uses are taken; the farmer must sign another", ticket.Uses)
	}
	u.Uses++
	return f, nil
}
