package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
	"zos.internal/internal/thread"
)

// pool holds the /30 networks of containers. It is private space that few
// sites use; a network that the host has a route to is never taken.
var pool = netip.MustParsePrefix("10.199.0.0/16")

// inNamespace runs f on a thread of its own in a new network namespace and
// throws the thread away.
func inNamespace(f func() error) error {
	return thread.Discard(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fault.Errorf(fault.Unavailable, "make a network namespace: %w; run on the host or in a privileged container", err)
		}
		return f()
	})
}

// pair makes the namespace and the veth pair with its addresses.
func (n *Net) pair(outside bool) error {
	// Two containers must not choose the same free addresses.
	lock, err := os.OpenFile(filepath.Join(n.dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fault.As(fault.Unavailable, err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	if n.host, n.inside, err = free(n.id); err != nil {
		return err
	}
	err = inNamespace(func() error {
		if n.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		return settle()
	})
	if err != nil {
		return fault.Errorf(fault.Unavailable, "make the namespace: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.link
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.ns)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fault.Errorf(fault.Unavailable, "make the veth pair: %w; load the module veth", err)
	}
	// The host must not be reachable by IPv6 addresses that nobody gave out.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+n.link+"/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.Errorf(fault.Unavailable, "set up the veth pair: %w", err)
	}
	// Loopback addresses may pass the pair: translating 127.0.0.1 needs it.
	n.local = os.WriteFile("/proc/sys/net/ipv4/conf/"+n.link+"/route_localnet", []byte("1"), 0) == nil
	here, err := netlink.NewHandle()
	if err != nil {
		return fault.As(fault.Unavailable, err)
	}
	defer here.Close()
	if err := up(here, n.link, n.host); err != nil {
		return err
	}
	there, err := netlink.NewHandleAt(netns.NsHandle(n.ns))
	if err != nil {
		return fault.As(fault.Unavailable, err)
	}
	defer there.Close()
	if err := up(there, "eth0", n.inside); err != nil {
		return err
	}
	if !outside {
		return nil
	}
	if !forwards() {
		return fault.Errorf(fault.Unsupported, "reach the outside: this host doesn't forward packets; set net.ipv4.ip_forward to 1")
	}
	if err := there.RouteAdd(&netlink.Route{Gw: n.host.AsSlice()}); err != nil {
		return fault.Errorf(fault.Unavailable, "add the default route: %w", err)
	}
	return nil
}

// settle prepares a new namespace from inside: loopback up, no IPv6 on the
// pair, and low ports open to any user, since the namespace belongs to the
// host's user namespace and not to the container's.
func settle() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for name, value := range map[string]string{"ipv6/conf/default/disable_ipv6": "1", "ipv4/ip_unprivileged_port_start": "0"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func up(h *netlink.Handle, name string, a netip.Addr) error {
	l, err := h.LinkByName(name)
	if err == nil {
		err = h.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(30, 32)}})
	}
	if err == nil {
		err = h.LinkSetUp(l)
	}
	if err != nil {
		return fault.Errorf(fault.Unavailable, "set up %s: %w", name, err)
	}
	return nil
}

// free finds a /30 of the pool that no route of the host touches.
func free(id string) (host, inside netip.Addr, err error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return host, inside, fault.Errorf(fault.Unavailable, "list routes: %w", err)
	}
	var taken []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		if p := netip.PrefixFrom(a.Unmap(), ones); ok && ones > 0 && p.Overlaps(pool) {
			taken = append(taken, p)
		}
	}
	const slots = 1 << 14
	first := binary.BigEndian.Uint32(pool.Addr().AsSlice())
	start := crc32.ChecksumIEEE([]byte(id))
next:
	for i := range uint32(slots) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], first+(start+i)%slots*4)
		p := netip.PrefixFrom(netip.AddrFrom4(b), 30)
		for _, t := range taken {
			if t.Overlaps(p) {
				continue next
			}
		}
		host = p.Addr().Next()
		return host, host.Next(), nil
	}
	return host, inside, fault.Errorf(fault.Exhausted, "find free addresses: every network of %s is in use or routed; stop containers or remove the route", pool)
}

func forwards() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	return err == nil && len(b) > 0 && b[0] == '1'
}

// remove deletes the kernel objects of a network; missing ones are fine.
func remove(link, table string) error {
	var errs []error
	if err := dropTable(table); err != nil {
		errs = append(errs, fmt.Errorf("remove the table %s: %w", table, err))
	}
	l, err := netlink.LinkByName(link)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
	case err == nil:
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove the link %s: %w", link, err))
		}
	default:
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
