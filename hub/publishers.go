package hub

import (
	"context"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/identity"
	"zos.internal/internal/fault"
	"zos.internal/internal/size"
)

// Unlimited is the quota of a publisher without one.
const Unlimited = math.MaxInt64

// Publisher is somebody who may upload: a line of the publishers file.
type Publisher struct {
	Address identity.Address
	Alias   string // unique, spelled like the name of an image
	Quota   int64  // bytes of packs, objects and roots; Unlimited if there is none
}

const maxPublishersFile = 1 << 20

// ParsePublishers reads a publishers file: lines of an address, an alias and a
// quota in bytes ("500MiB", "2TiB", "unlimited"), "#" starts a comment.
// Errors name the line.
func ParsePublishers(text string) ([]Publisher, error) {
	var ps []Publisher
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 {
			return nil, fault.Errorf(fault.Invalid, "line %d has %d words; write ADDRESS ALIAS QUOTA, for example: zos1… alice 10GiB", n, len(f))
		}
		a, err := identity.ParseAddress(f[0])
		if err != nil {
			return nil, fault.Errorf(fault.Invalid, "line %d: %w", n, err)
		}
		if err := flist.CheckName(f[1]); err != nil {
			return nil, fault.Errorf(fault.Invalid, "line %d: the alias: %w", n, err)
		}
		q, err := parseSize(f[2])
		if err != nil {
			return nil, fault.Errorf(fault.Invalid, "line %d: %w", n, err)
		}
		for _, p := range ps {
			if p.Address == a || p.Alias == f[1] {
				return nil, fault.Errorf(fault.Invalid, "line %d: the address or the alias %q is there twice; remove one line", n, f[1])
			}
		}
		ps = append(ps, Publisher{a, f[1], q})
	}
	return ps, nil
}

func parseSize(s string) (int64, error) {
	if s == "unlimited" {
		return Unlimited, nil
	}
	n, err := size.Parse(s)
	if err != nil {
		return 0, fault.Errorf(fault.Invalid, "the quota: %w, or unlimited", err)
	}
	return n, nil
}

// publishers is the publishers file and what each publisher stores. The file is
// read again when it changed.
type publishers struct {
	path  string
	store block.Bucket

	mu    sync.Mutex
	mtime time.Time
	size  int64
	list  []Publisher
	err   error // why the file as it is now can't be used; list is the one before

	used     map[identity.Address]int64
	reserved map[identity.Address]int64
}

// lookup is the publisher with that address.
func (p *publishers) lookup(a identity.Address) (Publisher, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.path == "" {
		return Publisher{}, fault.Errorf(fault.Denied, "this hub takes no uploads; start it with a publishers file")
	}
	p.reload()
	for _, x := range p.list {
		if x.Address == a {
			return x, nil
		}
	}
	if p.err != nil && len(p.list) == 0 {
		return Publisher{}, fault.Errorf(fault.Unavailable, "the hub's publishers file can't be used at the moment; tell its operator")
	}
	return Publisher{}, fault.Errorf(fault.Denied, "%v may not publish on this hub; ask its operator to add this address to the publishers file", a)
}

// all is the current list.
func (p *publishers) all() []Publisher {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.path != "" {
		p.reload()
	}
	return slices.Clone(p.list)
}

// alias is the operator's name for a, or "".
func (p *publishers) alias(a identity.Address) string {
	for _, x := range p.all() {
		if x.Address == a {
			return x.Alias
		}
	}
	return ""
}

// reload reads the file if it changed. A file with errors leaves the old list
// in force. It is called with mu held.
func (p *publishers) reload() {
	st, err := os.Stat(p.path)
	if err != nil {
		p.err = fault.Errorf(fault.Of(err), "read publishers file: %w", err)
		return
	}
	if st.ModTime().Equal(p.mtime) && st.Size() == p.size {
		return
	}
	p.mtime, p.size = st.ModTime(), st.Size()
	f, err := os.Open(p.path)
	if err != nil {
		p.err = fault.Errorf(fault.Of(err), "read publishers file: %w", err)
		return
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPublishersFile+1))
	if err == nil && len(b) > maxPublishersFile {
		err = fault.Errorf(fault.Invalid, "more than %d bytes", maxPublishersFile)
	}
	var list []Publisher
	if err == nil {
		list, err = ParsePublishers(string(b))
	}
	if err != nil {
		p.err = fault.Errorf(fault.Of(err), "read publishers file %s: %w", p.path, err)
		return
	}
	p.list, p.err = list, nil
}

// fileError is what is wrong with the file as it is now.
func (p *publishers) fileError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.path == "" {
		return nil
	}
	p.reload()
	return p.err
}

// Accounting. Who stored what first is kept as empty files in the bucket,
// a/OWNER/KIND.NAME.SIZE: nothing to lock, nothing to corrupt, and their list
// is the balance. The record is written before the bytes, so a crash between
// the two counts too much until the next collection.

func accountKey(a identity.Address, k key, size int64) string {
	return "a/" + a.String() + "/" + string(k.kind) + "." + k.name.String() + "." + strconv.FormatInt(size, 10)
}

// parseAccount is the inverse of accountKey: whose record it is, the key it
// speaks of and its size.
func parseAccount(s string) (a identity.Address, of string, size int64, ok bool) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 || parts[0] != "a" {
		return a, "", 0, false
	}
	a, err := identity.ParseAddress(parts[1])
	f := strings.Split(parts[2], ".")
	if err != nil || len(f) != 3 {
		return a, "", 0, false
	}
	k, err := parseKey(f[0] + "/" + f[1])
	size, serr := strconv.ParseInt(f[2], 10, 64)
	return a, k.text, size, err == nil && serr == nil && size >= 0
}

// count sums the records of the bucket.
func (p *publishers) count(ctx context.Context) error {
	used := make(map[identity.Address]int64)
	for k, err := range p.store.List(ctx, "a/") {
		if err != nil {
			return fault.Errorf(fault.Of(err), "read the accounts of publishers: %w", err)
		}
		if a, _, size, ok := parseAccount(k); ok {
			used[a] += size
		}
	}
	p.mu.Lock()
	p.used, p.reserved = used, make(map[identity.Address]int64)
	p.mu.Unlock()
	return nil
}

// reserve takes size bytes of the publisher's quota until settle.
func (p *publishers) reserve(x Publisher, size int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	used := p.used[x.Address] + p.reserved[x.Address]
	if size > x.Quota-used {
		return fault.Errorf(fault.Exhausted, "%s (%v) stores %d of %d bytes, %d more don't fit; remove names that aren't needed and wait for the collection, or ask the hub's operator for a larger quota", x.Alias, x.Address, used, x.Quota, size)
	}
	p.reserved[x.Address] += size
	return nil
}

// settle ends a reservation; stored says whether its bytes are kept now.
func (p *publishers) settle(x Publisher, size int64, stored bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reserved[x.Address] -= size
	if stored {
		p.used[x.Address] += size
	}
}

// release gives bytes back that a collection deleted.
func (p *publishers) release(a identity.Address, size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used[a] -= size
}

// usage is what a publisher stores, in bytes.
func (p *publishers) usage(a identity.Address) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used[a]
}
