package workload

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// checker does the checks that need more than one place of a document. It runs
// only when every place is right by itself.
type checker struct {
	doc  *Document
	root *value
	rep  *report

	workloads map[string]*Workload // by name
	networks  map[string]bool      // by name
	cards     map[string]string    // graphics card to the machine that has it
}

func check(d *Document, root *value, rep *report) {
	c := &checker{doc: d, root: root, rep: rep, workloads: make(map[string]*Workload), networks: make(map[string]bool), cards: make(map[string]string)}
	c.header()
	c.requirement()
	c.names()
	c.addresses()
	disks := make(map[string]string)
	for i := range d.Workloads {
		c.workload(i, disks)
	}
}

// bad reports a problem at a path: names and indices, as in
// "workloads", 3, "data". The last step that exists gives the place.
func (c *checker) bad(where []any, format string, args ...any) {
	v, at := c.root, c.root.at
	steps := make([]step, len(where))
	for i, w := range where {
		var next *value
		switch w := w.(type) {
		case int:
			steps[i] = step{index: w}
			if v != nil && w < len(v.items) {
				next = &v.items[w]
			}
		case string:
			steps[i] = step{w, -1}
			for j := 0; v != nil && j < len(v.members); j++ {
				if v.members[j].name == w {
					next = &v.members[j].value
				}
			}
		}
		if v = next; v != nil {
			at = v.at
		}
	}
	c.rep.add(at, pathText(steps), format, args...)
}

func in(where []any, more ...any) []any {
	return append(append(make([]any, 0, len(where)+len(more)), where...), more...)
}

func (c *checker) header() {
	d := c.doc
	c.bytes(nil, d.Description, d.Metadata)
	if d.ContractID != 0 {
		if err := d.ContractID.Check(); err != nil {
			c.bad([]any{"contract_id"}, "%v", err)
		} else if d.TwinID != 0 && d.ContractID.Owner() != d.TwinID {
			c.bad([]any{"contract_id"}, "%d belongs to party %d, but twin_id is %d; a contract id is twin_id x 16777216 + a serial number", uint64(d.ContractID), d.ContractID.Owner(), d.TwinID)
		}
	}
	networks := 0
	for i := range d.Workloads {
		if d.Workloads[i].Type == TypeNetwork {
			networks++
		}
	}
	switch {
	case networks > 0 && len(d.Workloads) > 1:
		c.bad([]any{"workloads"}, "a network needs a document of its own: it is the only workload there, and the same document goes to every member node")
	case networks > 0 && d.NodeID != 0:
		c.bad([]any{"node_id"}, "a network document goes to every member node; leave node_id out")
	case networks == 0 && d.NodeID == 0 && !d.draft:
		c.bad(nil, "node_id is missing")
	}
	if networks > 0 && len(d.Networks) > 0 {
		c.bad([]any{"networks"}, "a network document uses no other networks; leave networks out")
	}
	ids := make(map[uint64]string)
	for i, n := range d.Networks {
		where := []any{"networks", i}
		if c.networks[n.Name] {
			c.bad(in(where, "name"), "%s stands twice in networks", short(n.Name))
		}
		c.networks[n.Name] = true
		if n.ContractID == 0 {
			continue
		}
		if err := n.ContractID.Check(); err != nil {
			c.bad(in(where, "contract_id"), "%v", err)
		} else if d.TwinID != 0 && n.ContractID.Owner() != d.TwinID {
			c.bad(in(where, "contract_id"), "network %s belongs to party %d, but the owner is %d; only networks of the same owner can be used", n.Name, n.ContractID.Owner(), d.TwinID)
		}
		if other, twice := ids[uint64(n.ContractID)]; twice {
			c.bad(in(where, "contract_id"), "networks %s and %s are the same contract", other, n.Name)
		}
		ids[uint64(n.ContractID)] = n.Name
	}
}

// bytes checks what JSON Schema can't say: lengths in bytes.
func (c *checker) bytes(where []any, description, metadata string) {
	if len(description) > 512 {
		c.bad(in(where, "description"), "has %d bytes; at most 512 are allowed", len(description))
	}
	if len(metadata) > 4096 {
		c.bad(in(where, "metadata"), "has %d bytes; at most 4096 are allowed", len(metadata))
	}
}

func (c *checker) requirement() {
	q := c.doc.Requirement
	if q == nil {
		return
	}
	sum, must := uint32(0), uint32(0)
	seen := make(map[uint32]bool)
	for i, r := range q.Requests {
		if seen[uint32(r.TwinID)] {
			c.bad([]any{"signature_requirement", "requests", i, "twin_id"}, "twin %d stands twice; one twin signs once", r.TwinID)
		}
		seen[uint32(r.TwinID)] = true
		sum += r.Weight
		if r.Required {
			must += r.Weight
		}
	}
	if q.WeightRequired > sum {
		c.bad([]any{"signature_requirement", "weight_required"}, "%d can never be reached: all signatures together weigh %d", q.WeightRequired, sum)
	}
}

func (c *checker) names() {
	for i := range c.doc.Workloads {
		w := &c.doc.Workloads[i]
		where := []any{"workloads", i}
		c.bytes(where, w.Description, w.Metadata)
		if c.workloads[w.Name] != nil {
			c.bad(in(where, "name"), "%s is the name of another workload; names are unique in a document", short(w.Name))
			continue
		}
		c.workloads[w.Name] = w
		if c.doc.Version != 0 && w.Version > c.doc.Version {
			c.bad(in(where, "version"), "%d is higher than the document's version %d", w.Version, c.doc.Version)
		}
	}
}

// addresses checks the interfaces of machines against each other: one /24 per
// network on this node, no address twice.
func (c *checker) addresses() {
	used := make(map[string]string)
	subnet := make(map[string]netip.Prefix)
	for i := range c.doc.Workloads {
		w := &c.doc.Workloads[i]
		m, ok := machineOf(w.Data)
		if !ok || m.network == nil {
			continue
		}
		mine := make(map[string]bool)
		for j, n := range m.network.Interfaces {
			where := []any{"workloads", i, "data", "network", "interfaces", j}
			c.network(in(where, "network"), n.Network)
			if mine[n.Network] {
				c.bad(in(where, "network"), "network %s stands twice; a machine has one interface in a network", n.Network)
			}
			mine[n.Network] = true
			if n.IP == "" {
				continue
			}
			ip, err := netip.ParseAddr(n.IP)
			if err != nil || !ip.Is4() || ip.String() != n.IP {
				c.bad(in(where, "ip"), "%s is not an IPv4 address; the IPv6 address has the same last number", short(n.IP))
				continue
			}
			b := ip.As4()
			if b[0] != 10 || b[3] < 2 || b[3] > 250 || b[2] == 0 || b[2] == 255 {
				c.bad(in(where, "ip"), "%s: must be the node's own 10.x.y.2 to 10.x.y.250 (y 1 to 254)", n.IP)
				continue
			}
			here := netip.PrefixFrom(ip, 24).Masked()
			if other, ok := subnet[n.Network]; ok && other != here {
				c.bad(in(where, "ip"), "%s is not in %v, the range of network %s on this node", n.IP, other, n.Network)
				continue
			}
			subnet[n.Network] = here
			key := n.Network + " " + n.IP
			if other, ok := used[key]; ok {
				c.bad(in(where, "ip"), "%s is the address of workload %s already", n.IP, other)
			}
			used[key] = w.Name
		}
	}
}

func (c *checker) network(where []any, name string) {
	if !c.networks[name] {
		c.bad(where, "network %s is not listed in networks of the document%s", name, didYouMean(name, c.networks))
	}
}

// target finds a workload of one of the types, or reports what is there.
func (c *checker) target(where []any, name string, types ...Type) {
	w := c.workloads[name]
	if w == nil {
		known := make(map[string]bool)
		for n := range c.workloads {
			known[n] = true
		}
		c.bad(where, "there is no workload %s%s", name, didYouMean(name, known))
		return
	}
	for _, t := range types {
		if w.Type == t {
			return
		}
	}
	c.bad(where, "workload %s is a %s; here must be a %s", name, w.Type, joinTypes(types))
}

func joinTypes(types []Type) string {
	s := make([]string, len(types))
	for i, t := range types {
		s[i] = string(t)
	}
	return strings.Join(s, " or ")
}

func didYouMean(name string, known map[string]bool) string {
	best := ""
	for k := range known {
		if n := nearest(name, []string{k}); n != "" && (best == "" || n < best) {
			best = n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

func (c *checker) workload(i int, disks map[string]string) {
	w := &c.doc.Workloads[i]
	where := []any{"workloads", i, "data"}
	switch d := w.Data.(type) {
	case *Container:
		c.container(where, d)
	case *VM:
		for j, name := range d.Disks {
			c.target(in(where, "disks", j), name, TypeZMount)
			if other, used := disks[name]; used && other != w.Name {
				c.bad(in(where, "disks", j), "disk %s belongs to vm %s already; a zmount has one user", name, other)
			}
			disks[name] = w.Name
		}
	case *QSFS:
		c.qsfs(where, d)
	case *ZDB:
		c.secret(in(where, "password"), d.Password)
	case *PrivateNetwork:
		c.privateNetwork(where, d)
	case *IP:
		c.target(in(where, "target"), d.Target, TypeContainer, TypeVM)
		c.ports(in(where, "ports"), d.Ports)
	case *GatewayName:
		if strings.HasPrefix(d.Name, "xn--") {
			c.bad(in(where, "name"), "%s: names in punycode (xn--) are not given out", short(d.Name))
		}
		c.backends(where, d.Backends)
	case *GatewayFQDN:
		c.backends(where, d.Backends)
	case *ZLogs:
		c.target(in(where, "target"), d.Target, TypeContainer, TypeVM)
		c.output(in(where, "output"), d.Output)
	}
	if m, ok := machineOf(w.Data); ok {
		c.machine(where, m)
		for j, card := range m.gpu {
			if other, used := c.cards[card]; used {
				c.bad(in(where, "gpu", j), "graphics card %s belongs to %s already; a card has one user", card, other)
			}
			c.cards[card] = w.Name
		}
	}
}

func (c *checker) secret(where []any, s Secret) {
	n := 0
	for _, x := range []string{s.Sealed, s.Env, s.File} {
		if x != "" {
			n++
		}
	}
	if n != 1 {
		c.bad(where, "a secret is exactly one of sealed, env or file")
	}
}

func (c *checker) ports(where []any, ports []string) {
	for i, p := range ports {
		_, n, _ := strings.Cut(p, "/")
		if v, err := strconv.Atoi(n); err != nil || v > 65535 {
			c.bad(in(where, i), "%s: a port is 1 to 65535", short(p))
		}
	}
}

func (c *checker) backends(where []any, bs []WebBackend) {
	seen := make(map[WebBackend]bool)
	for i, b := range bs {
		here := in(where, "backends", i)
		c.network(in(here, "network"), b.Network)
		c.address(in(here, "addr"), b.Addr)
		if seen[b] {
			c.bad(here, "this backend stands twice")
		}
		seen[b] = true
	}
}

// address wants an address with one spelling.
func (c *checker) address(where []any, s string) {
	ip, err := netip.ParseAddr(s)
	if err != nil || ip.String() != s || ip.Is4In6() {
		c.bad(where, "%s is not an address in its usual spelling, such as 10.7.3.20 or fd12::7", short(s))
	}
}

func (c *checker) output(where []any, s string) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Hostname() == "" {
		c.bad(where, "%s is not a URL with a host", short(s))
		return
	}
	if u.User != nil {
		c.bad(where, "a password in the URL would be readable by everybody who reads the document; leave it out")
	}
	if u.Scheme == "wss" {
		return
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if err != nil || !ip.IsPrivate() {
		c.bad(where, "%s:// is not encrypted: it may lead to an address in a private network only (10.x.y.z or fd…); use wss:// else", u.Scheme)
	}
}
