package workload

import (
	"net/netip"
	"path"
	"strings"
)

func (c *checker) container(where []any, d *Container) {
	if d.Size > 0 && d.Sealed != "off" {
		c.bad(in(where, "size"), "a writable root of %s needs sealed: off; to keep sealed: %s leave size out and mount a volume or a scratch directory where the program writes", Size(d.Size), d.Sealed)
	}
	if len(d.GPU) > 0 && d.Isolation != "vm" {
		c.bad(in(where, "gpu"), "graphics cards need isolation: vm")
	}
}

func (c *checker) machine(where []any, m machine) {
	bytes, keys := 0, len(m.env)+len(m.secrets)
	for k, v := range m.env {
		bytes += len(k) + len(v)
		if _, both := m.secrets[k]; both {
			c.bad(in(where, "secrets", k), "the variable %s is in env too", k)
		}
	}
	for k, s := range m.secrets {
		c.secret(in(where, "secrets", k), s)
		bytes += len(k) + len(s.Sealed)
	}
	if keys > 128 {
		c.bad(in(where, "env"), "env and secrets have %d keys; at most 128 are allowed", keys)
	}
	if bytes > 32<<10 {
		c.bad(in(where, "env"), "env and secrets have %d bytes; at most %d are allowed", bytes, 32<<10)
	}
	if m.cwd != "" && path.Clean(m.cwd) != m.cwd {
		c.bad(in(where, "cwd"), "%s is not clean; write %s", short(m.cwd), path.Clean(m.cwd))
	}
	c.mounts(in(where, "mounts"), m.mounts)
}

func (c *checker) mounts(where []any, ms []Mount) {
	for i, m := range ms {
		here := in(where, i)
		if (m.Name == "") == (m.Scratch == 0) {
			c.bad(here, "a mount has either name, a volume or qsfs, or scratch, the size of an empty directory")
		} else if m.Name != "" {
			c.target(in(here, "name"), m.Name, TypeVolume, TypeQSFS)
		}
		p := m.Mountpoint
		if path.Clean(p) != p {
			c.bad(in(here, "mountpoint"), "%s is not clean; write %s", short(p), path.Clean(p))
			continue
		}
		for _, sys := range []string{"/proc", "/sys", "/dev"} {
			if below(p, sys) {
				c.bad(in(here, "mountpoint"), "%s: nothing can be mounted on or below %s", short(p), sys)
			}
		}
		for j, o := range ms[:i] {
			if below(p, o.Mountpoint) || below(o.Mountpoint, p) {
				c.bad(in(here, "mountpoint"), "%s and %s of mount %d are one inside the other", short(p), short(o.Mountpoint), j)
			}
		}
	}
}

// below says if p is dir or something inside it.
func below(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, dir+"/")
}

func (c *checker) qsfs(where []any, d *QSFS) {
	q := d.Config
	c.secret(in(where, "root_key"), d.RootKey)
	if q.ExpectedShards <= q.MinimalShards {
		c.bad(in(where, "config", "expected_shards"), "%d must be more than minimal_shards (%d), or no loss can be survived", q.ExpectedShards, q.MinimalShards)
	}
	backends := 0
	seen := make(map[string]bool)
	for i, g := range q.Groups {
		backends += len(g.Backends)
		for j, b := range g.Backends {
			here := in(where, "config", "groups", i, "backends", j)
			c.secret(in(here, "password"), b.Password)
			if !endpoint(b.Address) {
				c.bad(in(here, "address"), "%s is not an address and port such as [fd5a::1]:9900", short(b.Address))
			}
			key := b.Address + " " + b.Namespace
			if seen[key] {
				c.bad(here, "namespace %s at %s stands twice; each backend holds one shard", short(b.Namespace), b.Address)
			}
			seen[key] = true
		}
	}
	if uint32(backends) < q.ExpectedShards {
		c.bad(in(where, "config", "groups"), "%d backends are too few for %d shards", backends, q.ExpectedShards)
	}
	if spare := q.ExpectedShards - q.MinimalShards; q.ExpectedShards > q.MinimalShards && d.Survive != nil && d.Survive.Nodes > spare {
		c.bad(in(where, "survive", "nodes"), "%d nodes cannot be survived: %d of %d shards rebuild the data, so %d may be lost", d.Survive.Nodes, q.MinimalShards, q.ExpectedShards, spare)
	}
	if q.RedundantGroups >= uint32(len(q.Groups)) {
		c.bad(in(where, "config", "redundant_groups"), "%d of %d groups cannot all be spare", q.RedundantGroups, len(q.Groups))
	}
}

func endpoint(s string) bool {
	ap, err := netip.ParseAddrPort(s)
	return err == nil && ap.Port() != 0 && ap.String() == s
}
