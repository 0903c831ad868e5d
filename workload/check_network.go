package workload

import (
	"net/netip"

	"zos.internal/identity"
)

func (c *checker) privateNetwork(where []any, d *PrivateNetwork) {
	if d.Range4 != "" {
		p, err := netip.ParsePrefix(d.Range4)
		if err != nil || p.Bits() != 16 || p.Masked() != p || p.String() != d.Range4 {
			c.bad(in(where, "range4"), "%s: must be a /16 inside 10.0.0.0/8", short(d.Range4))
		}
	}
	members := make(map[identity.Party]bool)
	indices := make(map[uint32]identity.Party)
	for i, n := range d.Nodes {
		here := in(where, "nodes", i)
		if members[n.Node] {
			c.bad(in(here, "node"), "node %d stands twice", n.Node)
		}
		members[n.Node] = true
		if other, used := indices[n.Index]; used {
			c.bad(in(here, "index"), "index %d belongs to node %d already", n.Index, other)
		}
		indices[n.Index] = n.Node
	}
	hosts, names := make(map[uint32]string), make(map[string]bool)
	host := func(at []any, h uint32, who string) {
		if other, used := hosts[h]; used {
			c.bad(at, "host %d belongs to %s already", h, other)
		}
		hosts[h] = who
	}
	for i, a := range d.Access {
		here := in(where, "access", i)
		if names[a.Name] {
			c.bad(in(here, "name"), "access %s stands twice", a.Name)
		}
		names[a.Name] = true
		host(in(here, "host"), a.Host, "access "+a.Name)
		for j, n := range a.Via {
			if !members[n] {
				c.bad(in(here, "via", j), "node %d is not a member of the network", n)
			}
		}
		if len(a.Sealed) > 0 && len(a.Sealed) != len(a.Via) {
			c.bad(in(here, "psk_sealed"), "there are %d sealed keys for %d nodes in via; each node needs its own", len(a.Sealed), len(a.Via))
		}
		for j, s := range a.Sealed {
			c.secret(in(here, "psk_sealed", j), s)
		}
	}
	c.netGateways(where, d, host)
	if d.Egress == nil {
		return
	}
	for i, n := range d.Egress.Nodes {
		if !members[n] {
			c.bad(in(where, "egress", "nodes", i), "node %d is not a member of the network", n)
		}
	}
	for i, s := range d.Egress.DNS {
		c.address(in(where, "egress", "dns", i), s)
	}
}

func (c *checker) netGateways(where []any, d *PrivateNetwork, host func([]any, uint32, string)) {
	seen := make(map[identity.Party]bool)
	for i, g := range d.Gateways {
		here := in(where, "gateways", i)
		if seen[g.Node] {
			c.bad(in(here, "node"), "gateway %d stands twice", g.Node)
		}
		seen[g.Node] = true
		host(in(here, "host"), g.Host, "another gateway")
		tuples := make(map[Tuple]bool)
		for j, t := range g.Allow {
			c.address(in(here, "allow", j, "addr"), t.Addr)
			if tuples[t] {
				c.bad(in(here, "allow", j), "%s %s/%d stands twice", t.Addr, t.Proto, t.Port)
			}
			tuples[t] = true
		}
	}
}
