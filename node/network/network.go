// Package network gives one container of the local machine a private network
// and publishes its ports.
//
// A container gets a network namespace with loopback and one end of a veth
// pair in a free private /30. It can't reach the host or the world: it has no
// route beyond the pair, and new connections towards the host are dropped.
// Published ports lead in, for TCP and UDP, from the host's own addresses
// (127.0.0.1 included) and from outside.
//
// Ports are translated by nftables in a table of the container's own. A small
// proxy in this process reserves each port, so that a port in use is an error
// and not a surprise, and carries the traffic that nftables can't: from
// outside where the host doesn't forward or another firewall drops forwarded
// packets, over IPv6, and all of it where nftables is missing. Mode tells.
//
// The namespace is held by a descriptor, not by a mount: if the process is
// killed it vanishes with the container, and the pair with it. The table is
// then found through its record and removed by Clean. No other interface,
// table or sysctl is touched.
//
//	net, err := network.Attach(ctx, network.Options{ID: "web", Dir: "/run/zos/net", Publish: ports})
//	defer net.Close()
//	spec.NetNS = net.NetNS()
package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// Publish leads a port of the host to a port of the container.
type Publish struct {
	Address   netip.Addr // of the host; the zero Addr is every one
	Host      uint16
	Container uint16
	Proto     string // "tcp" or "udp"
}

// String is the form that ParsePublish reads.
func (p Publish) String() string {
	s := fmt.Sprintf("%d:%d/%s", p.Host, p.Container, p.Proto)
	switch {
	case p.Address.Is6():
		return "[" + p.Address.String() + "]:" + s
	case p.Address.IsValid():
		return p.Address.String() + ":" + s
	}
	return s
}

// ParsePublish reads [ADDRESS:]HOST:CONTAINER[/tcp|/udp]; an IPv6 address is
// in brackets.
func ParsePublish(s string) (Publish, error) {
	bad := func(why string) (Publish, error) {
		return Publish{}, fault.Errorf(fault.Invalid, "publish %.80q: %s; write [ADDRESS:]HOST:CONTAINER[/udp], such as 8080:80", s, why)
	}
	p := Publish{Proto: "tcp"}
	rest, proto, ok := strings.Cut(s, "/")
	if ok {
		if proto != "tcp" && proto != "udp" {
			return bad("the protocol is neither tcp nor udp")
		}
		p.Proto = proto
	}
	last := strings.LastIndexByte(rest, ':')
	if last < 0 {
		return bad("it has one port and needs two")
	}
	left, container := rest[:last], rest[last+1:]
	host := left
	if i := strings.LastIndexByte(left, ':'); i >= 0 {
		text := left[:i]
		if inner, ok := strings.CutPrefix(text, "["); ok {
			text, ok = strings.CutSuffix(inner, "]")
			if !ok {
				return bad("the bracket is not closed")
			}
		} else if strings.Contains(text, ":") {
			return bad("an IPv6 address needs brackets")
		}
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return bad("the address is not an IP address")
		}
		host, p.Address = left[i+1:], a.Unmap()
	}
	for _, f := range []struct {
		text string
		to   *uint16
	}{{host, &p.Host}, {container, &p.Container}} {
		n, err := strconv.ParseUint(f.text, 10, 16)
		if err != nil || n == 0 {
			return bad("a port must be a number from 1 to 65535")
		}
		*f.to = uint16(n)
	}
	return p, nil
}

// Options say what Attach makes.
type Options struct {
	ID      string // of the container: [a-z0-9-], at most 36
	Dir     string // directory of the records, the same for Clean
	Publish []Publish
	Outside bool         // a default route and address translation to the outside
	Log     *slog.Logger // nil discards

	plain bool // tests only: as if there were no nftables
}

// Net is one container's network. The process that made it must live as long
// as the container runs.
type Net struct {
	id, dir, link, table string
	ns                   int
	lock                 *os.File
	host, inside         netip.Addr
	mode                 string
	local                bool // loopback addresses may be translated
	proxies              []*proxy
}

// NetNS is the path of the namespace, valid while this process lives.
func (n *Net) NetNS() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.ns) }

// Address is the container's address, reachable from the host only.
func (n *Net) Address() netip.Addr { return n.inside }

// Mode says how published ports work: "none" (there are none), "nftables",
// "nftables+proxy" (the proxy serves what comes from outside) or "proxy".
func (n *Net) Mode() string { return n.mode }

var idForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,34}[a-z0-9])?$`)

// names derives the names of a container's kernel objects from its id.
func names(id string) (link, table string) {
	h := sha256.Sum256([]byte("zos network " + id))
	s := hex.EncodeToString(h[:5])
	return "zv" + s, "zos_" + s
}

// Attach makes the network of a container. Errors leave nothing behind: a
// port in use is a Conflict, a missing right Denied or Unavailable.
func Attach(ctx context.Context, o Options) (n *Net, err error) {
	if !idForm.MatchString(o.ID) || !filepath.IsAbs(o.Dir) {
		return nil, fault.Errorf(fault.Invalid, "network %.40q: it needs an id of 1 to 36 of a-z, 0-9 and inner dashes, and an absolute directory", o.ID)
	}
	if os.Geteuid() != 0 {
		return nil, fault.Errorf(fault.Denied, "network %s: it needs root; run it with sudo", o.ID)
	}
	if err := checkPublish(o); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := ctx.Err(); err != nil {
		return nil, fault.Errorf(fault.Unavailable, "network %s: %w", o.ID, err)
	}
	n = &Net{id: o.ID, dir: o.Dir, ns: -1, mode: "none"}
	n.link, n.table = names(o.ID)
	defer func() {
		if err != nil {
			err = errors.Join(fault.Errorf(fault.Of(err), "network %s: %w", o.ID, err), n.Close())
			n = nil
		}
	}()
	if err := n.claim(); err != nil {
		return n, err
	}
	// Ports first: a port in use is the most likely error.
	for _, p := range o.Publish {
		x, err := listen(ctx, p)
		if err != nil {
			return n, err
		}
		n.proxies = append(n.proxies, x)
	}
	if err := n.pair(o.Outside); err != nil {
		return n, err
	}
	var terr error
	if o.plain {
		terr = fault.Errorf(fault.Unsupported, "left out")
	} else {
		terr = n.translate(o.Publish, o.Outside)
	}
	switch {
	case terr == nil:
	case o.Outside:
		return n, terr
	default:
		o.Log.Warn("nftables can't be used; a proxy publishes the ports", "id", o.ID, "err", terr)
		if len(o.Publish) > 0 {
			n.mode = "proxy"
		}
	}
	for _, x := range n.proxies {
		x.serve(n.inside)
	}
	return n, nil
}

func checkPublish(o Options) error {
	if len(o.Publish) > 256 {
		return fault.Errorf(fault.Invalid, "network %s: more than 256 published ports", o.ID)
	}
	for _, p := range o.Publish {
		if p.Host == 0 || p.Container == 0 || p.Proto != "tcp" && p.Proto != "udp" {
			return fault.Errorf(fault.Invalid, "network %s: publish %s: it needs two ports and tcp or udp", o.ID, p)
		}
	}
	return nil
}

// record is what Clean needs to know of a network.
type record struct {
	V     int    `json:"v"`
	ID    string `json:"id"`
	Link  string `json:"link"`
	Table string `json:"table"`
}

func (n *Net) path() string { return filepath.Join(n.dir, n.id+".json") }

// claim writes the record and holds its lock for the life of the network.
func (n *Net) claim() error {
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	f, err := os.OpenFile(n.path(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fault.As(fault.Unavailable, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return fault.Errorf(fault.Conflict, "the id is in use; take another one")
	}
	n.lock = f
	if err := remove(n.link, n.table); err != nil { // of a dead owner
		return err
	}
	b, err := json.Marshal(record{1, n.id, n.link, n.table})
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(append(b, '\n'), 0)
	}
	return fault.As(fault.Unavailable, err)
}

// Close removes the network and ends the proxies.
func (n *Net) Close() error {
	var errs []error
	for _, x := range n.proxies {
		x.close()
	}
	n.proxies = nil
	if n.lock != nil {
		errs = append(errs, remove(n.link, n.table))
		if err := os.Remove(n.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		errs = append(errs, n.lock.Close())
		n.lock = nil
	}
	if n.ns >= 0 {
		errs = append(errs, unix.Close(n.ns))
		n.ns = -1
	}
	if err := errors.Join(errs...); err != nil {
		return fault.Errorf(fault.Unavailable, "network %s: remove it: %w", n.id, err)
	}
	return nil
}

// Clean removes the networks recorded in dir whose owner is dead and returns
// their ids.
func Clean(ctx context.Context, dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Errorf(fault.Unavailable, "clean networks: %w", err)
	}
	var cleaned []string
	var errs []error
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !idForm.MatchString(id) {
			continue
		}
		if err := ctx.Err(); err != nil {
			errs = append(errs, err)
			break
		}
		switch done, err := clean(dir, id); {
		case err != nil:
			errs = append(errs, err)
		case done:
			cleaned = append(cleaned, id)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return cleaned, fault.Errorf(fault.Unavailable, "clean networks: %w", err)
	}
	return cleaned, nil
}

func clean(dir, id string) (bool, error) {
	p := filepath.Join(dir, id+".json")
	f, err := os.Open(p)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false, nil // its owner lives
	}
	// The names follow from the id; what the file says is for people.
	if err := remove(names(id)); err != nil {
		return false, err
	}
	return true, os.Remove(p)
}
