package compose

import (
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"zos.internal/workload"
)

// mounts are the volumes and scratch directories of a service.
func (c *converter) mounts(out *draft, at string, s types.ServiceConfig) []fields {
	var ms []fields
	var points []string
	add := func(where, target string, f fields) {
		p := path.Clean("/" + target)
		if why := forbidden(p, points); why != "" {
			c.note(Dropped, where, "%s: %s", target, why)
			return
		}
		points = append(points, p)
		f.add("mountpoint", quoted(p))
		ms = append(ms, f)
	}
	for i, v := range s.Volumes {
		where := fmt.Sprintf("%s.volumes[%d]", at, i)
		f := fields{}
		switch v.Type {
		case types.VolumeTypeVolume:
			key := v.Source
			if key == "" { // anonymous: it belongs to this service alone
				key = s.Name + " " + v.Target
				c.note(Changed, where, "the volume without a name is called %s", c.name("volume", key))
			}
			if v.Volume != nil && v.Volume.Subpath != "" {
				c.note(Dropped, where, "a part of a volume cannot be mounted")
				continue
			}
			f.add("name", c.volume(out, key))
		case types.VolumeTypeTmpfs:
			room := uint64(64 << 20)
			if v.Tmpfs != nil && v.Tmpfs.Size > 0 {
				room = max(uint64(v.Tmpfs.Size), 1<<20)
			}
			f.add("scratch", size(room))
		default:
			c.note(Dropped, where, "%s %s is on the machine that compose runs on; put the files into the image or a volume", v.Type, v.Source)
			continue
		}
		if v.ReadOnly {
			f.add("ro", true)
		}
		add(where, v.Target, f)
	}
	for i, t := range s.Tmpfs {
		target, _, _ := strings.Cut(t, ":")
		f := fields{}
		f.add("scratch", size(64<<20))
		add(fmt.Sprintf("%s.tmpfs[%d]", at, i), target, f)
	}
	return ms
}

// forbidden says why nothing can be mounted at p.
func forbidden(p string, points []string) string {
	if p == "/" {
		return "nothing can be mounted over the root"
	}
	for _, sys := range []string{"/proc", "/sys", "/dev"} {
		if p == sys || strings.HasPrefix(p, sys+"/") {
			return "nothing can be mounted on or below " + sys
		}
	}
	for _, o := range points {
		if p == o || strings.HasPrefix(p, o+"/") || strings.HasPrefix(o, p+"/") {
			return "it and " + o + " are one inside the other"
		}
	}
	return ""
}

// volume adds a volume once and returns its name.
func (c *converter) volume(out *draft, key string) string {
	name := c.name("volume", key)
	if out.volumes[name] {
		return name
	}
	out.volumes[name] = true
	data := fields{}
	data.add("size", size(c.options.VolumeSize))
	out.workload(name, "volume", data)
	at := "volumes." + key
	c.note(Assumed, at, "no size is given; %v", workload.Size(c.options.VolumeSize))
	if name != key && !strings.Contains(key, " ") {
		c.note(Changed, at, "the volume is called %s", name)
	}
	return name
}

// network is the interfaces of a service.
func (c *converter) network(at string, s types.ServiceConfig) fields {
	switch s.NetworkMode {
	case "", "bridge", "default":
	case "none":
		return nil
	default:
		c.note(Dropped, at+".network_mode", "%s: a container has a network of its own; it joins private networks only", s.NetworkMode)
		return nil
	}
	var ifs []fields
	for i, key := range s.NetworksByPriority() {
		if i == 4 {
			c.note(Dropped, at+".networks", "a machine has at most 4 interfaces; %s and those after it are left out", key)
			break
		}
		f := fields{}
		f.add("network", c.name("network", key))
		ifs = append(ifs, f)
		n := s.Networks[key]
		if n == nil {
			continue
		}
		where := at + ".networks." + key
		if len(n.Aliases) > 0 {
			c.note(Dropped, where+".aliases", "the only name is %s.%s.zos", c.name("service", s.Name), c.name("network", key))
		}
		if n.Ipv4Address != "" || n.Ipv6Address != "" || n.MacAddress != "" || len(n.LinkLocalIPs) > 0 {
			c.note(Dropped, where, "addresses come from the node's range; set ip once the network is there")
		}
	}
	f := fields{}
	f.add("interfaces", ifs)
	return f
}

// ports turns published ports into a public address when asked to.
func (c *converter) ports(out *draft, at, name string, s types.ServiceConfig, copy int) {
	var open []string
	for i, p := range s.Ports {
		where := fmt.Sprintf("%s.ports[%d]", at, i)
		port := fmt.Sprintf("%s/%d", p.Protocol, p.Target)
		switch {
		case copy > 0:
		case p.Protocol != "tcp" && p.Protocol != "udp":
			c.note(Dropped, where, "%s: only tcp and udp ports can be opened", port)
		case !c.options.PublicIP:
			c.note(Dropped, where, "%s is reachable inside the networks only; add a gateway-name-proxy or a gateway-fqdn-proxy, or an ip workload (--public-ip)", port)
		case p.HostIP != "" && p.HostIP != "0.0.0.0" && p.HostIP != "::":
			c.note(Dropped, where, "%s is for %s only, so it is not opened to everybody", port, p.HostIP)
		default:
			if p.Published != "" && p.Published != fmt.Sprint(p.Target) {
				c.note(Changed, where, "%s is open as itself, not as %s: addresses are routed, ports are not moved", port, p.Published)
			}
			open = append(open, port)
		}
	}
	if len(open) == 0 {
		return
	}
	sort.Strings(open)
	data := fields{}
	data.add("family", "v4")
	data.add("ports", unique(open))
	data.add("target", name)
	out.workload(c.name("ip", s.Name), "ip", data)
	c.note(Assumed, at+".ports", "a public IPv4 address, which is paid for")
}

func unique(s []string) []string {
	var out []string
	for i, x := range s {
		if i == 0 || x != s[i-1] {
			out = append(out, x)
		}
	}
	return out
}
