package network

import (
	"encoding/binary"
	"errors"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// translate makes the container's nftables table: published ports lead in,
// nothing else does, and the container opens no connection to the host.
func (n *Net) translate(ports []Publish, outside bool) error {
	c, err := nftables.New()
	if err != nil {
		return fault.Errorf(fault.Unavailable, "open nftables: %w", err)
	}
	dnat := forwards() && !foreignDrop(c)
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: n.table})
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: t, Type: kind, Hooknum: hook, Priority: prio})
	}
	rule := func(to *nftables.Chain, exprs ...[]expr.Any) {
		var all []expr.Any
		for _, e := range exprs {
			all = append(all, e...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: to, Exprs: all})
	}
	output := chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	post := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	in := chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	forward := chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	var inner []*nftables.Chain
	if n.local {
		inner = append(inner, output)
	}
	if dnat {
		inner = append(inner, chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest))
	}
	for _, p := range ports {
		if p.Address.Is6() {
			continue // the proxy's
		}
		for _, ch := range inner {
			rule(ch, n.toPort(p))
		}
	}
	rule(post, link(expr.MetaKeyOIFNAME, n.link), []expr.Any{&expr.Masq{}})
	for _, ch := range []*nftables.Chain{in, forward} {
		rule(ch, link(expr.MetaKeyIIFNAME, n.link), answers(), verdict(expr.VerdictAccept))
		if ch == forward && outside {
			continue
		}
		rule(ch, link(expr.MetaKeyIIFNAME, n.link), verdict(expr.VerdictDrop))
	}
	if outside {
		rule(post, n.fromInside(), []expr.Any{&expr.Masq{}})
	}
	if err := c.Flush(); err != nil {
		return fault.Errorf(fault.Unavailable, "make the table: %w", err)
	}
	switch {
	case len(ports) == 0:
	case n.local && dnat:
		n.mode = "nftables"
	case n.local || dnat:
		n.mode = "nftables+proxy"
	default:
		n.mode = "proxy"
	}
	return nil
}

// foreignDrop reports whether somebody else's firewall drops what is
// forwarded unless it allows it.
func foreignDrop(c *nftables.Conn) bool {
	chains, err := c.ListChains()
	if err != nil {
		return true
	}
	for _, ch := range chains {
		if ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward && ch.Type == nftables.ChainTypeFilter &&
			ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			return true
		}
	}
	return false
}

// toPort matches packets to a published port of any address of the host, or
// of the one that was asked for, and leads them to the container.
func (n *Net) toPort(p Publish) []expr.Any {
	proto := byte(unix.IPPROTO_TCP)
	if p.Proto == "udp" {
		proto = unix.IPPROTO_UDP
	}
	var es []expr.Any
	if p.Address.IsValid() && !p.Address.IsUnspecified() {
		es = append(es,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Address.AsSlice()})
	} else {
		es = append(es,
			&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)})
	}
	return append(es,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, p.Host)},
		&expr.Immediate{Register: 1, Data: n.inside.AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, p.Container)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2})
}

func (n *Net) fromInside() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: n.inside.AsSlice()},
	}
}

func link(key expr.MetaKey, name string) []expr.Any {
	var padded [unix.IFNAMSIZ]byte
	copy(padded[:], name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded[:]}}
}

// answers matches packets of connections that were opened from the other side.
func answers() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

// dropTable removes a table; one that is not there is fine, and so is a
// kernel without nftables.
func dropTable(name string) error {
	c, err := nftables.New()
	if err != nil {
		return nil
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name})
	err = c.Flush()
	for _, fine := range []error{unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EINVAL} {
		if errors.Is(err, fine) {
			return nil
		}
	}
	return err
}
