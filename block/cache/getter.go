package cache

import (
	"context"
	"iter"
	"slices"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// flight is a chunk that is being fetched; others that want it wait for it.
type flight struct {
	owner   *getter
	call    *call
	at      int // place among the names of the call
	waiters int
	done    chan struct{}

	// Set before done is closed.
	data    []byte
	err     error
	dropped bool // the owner gave up, which says nothing about the source
}

// call is one call of inner.
type call struct {
	landed int // names, counted in order up to the last that came
}

// joinAhead is how many chunks before its turn a chunk is worth waiting for. Who
// wants one of the end of a long call, such as a trace, asks for it itself.
const joinAhead = 48

func (f *flight) far() bool { return f.at-f.call.landed > joinAhead }

type getter struct {
	c     *Cache
	inner block.Getter
	dom   block.Domain
}

var _ block.Getter = (*getter)(nil)

// Getter reads through the cache: what is here comes from the disk, the rest in
// one call from inner, and is kept. A chunk that several goroutines miss at the
// same time, through any Getter of c, is fetched once, unless it comes late in a
// long call; who waited asks inner itself only if the fetch was another Getter's
// and failed, or was given up. A
// disk that takes no data makes nothing fail.
func (c *Cache) Getter(inner block.Getter, dom block.Domain) block.Getter {
	return &getter{c, inner, dom}
}

// hitWindow bounds the plain bytes in memory while hits are answered.
const hitWindow = 16

// Get implements block.Getter.
func (g *getter) Get(ctx context.Context, names []block.Name) iter.Seq2[block.Chunk, error] {
	return func(yield func(block.Chunk, error) bool) {
		seen := make(map[block.Name]bool, len(names))
		names = slices.DeleteFunc(slices.Clone(names), func(n block.Name) bool {
			was := seen[n]
			seen[n] = true
			return was
		})
		for len(names) > 0 {
			missing, ok := g.hits(ctx, names, yield)
			if !ok {
				return
			}
			cl := g.claim(missing)
			if !g.fetch(ctx, cl, yield) {
				g.leave(cl.wait)
				return
			}
			again, ok := g.join(ctx, cl.wait, yield)
			if !ok {
				return
			}
			names = append(cl.here, again...)
		}
	}
}

// hits answers what is in the cache and returns the rest.
func (g *getter) hits(ctx context.Context, names []block.Name, yield func(block.Chunk, error) bool) (missing []block.Name, ok bool) {
	for part := range slices.Chunk(names, hitWindow) {
		leases := g.c.Load(ctx, g.dom, part)
		for i, l := range leases {
			if l.Data == nil {
				missing = append(missing, part[i])
				continue
			}
			data := slices.Clone(l.Data)
			l.Release()
			if !yield(block.Chunk{Name: part[i], Data: data}, nil) {
				for _, l := range leases[i+1:] {
					l.Release()
				}
				return nil, false
			}
		}
	}
	return missing, true
}

type joined struct {
	name block.Name
	f    *flight
}

// claims says who fetches the chunks that a Get misses.
type claims struct {
	own   map[block.Name]*flight
	names []block.Name // of own, in the order asked for, which is that of packs
	wait  []joined     // fetches of others
	here  []block.Name // came while we looked
}

// claim starts flights for the names that nobody fetches and joins the others.
func (g *getter) claim(names []block.Name) claims {
	cl := claims{own: map[block.Name]*flight{}}
	it := &call{}
	g.c.mu.Lock()
	defer g.c.mu.Unlock()
	for _, n := range names {
		k := keyOf(g.dom, n)
		if f := g.c.flights[k]; f != nil && !f.far() {
			f.waiters++
			cl.wait = append(cl.wait, joined{n, f})
		} else if g.c.has(g.dom, n) {
			cl.here = append(cl.here, n)
		} else {
			f := &flight{owner: g, call: it, at: len(cl.names), done: make(chan struct{})}
			g.c.flights[k] = f
			cl.own[n] = f
			cl.names = append(cl.names, n)
		}
	}
	return cl
}

// land ends the flight of n.
func (g *getter) land(n block.Name, f *flight, data []byte, err error, dropped bool) {
	g.c.mu.Lock()
	if k := keyOf(g.dom, n); g.c.flights[k] == f {
		delete(g.c.flights, k)
	}
	f.call.landed = max(f.call.landed, f.at+1)
	waiters := f.waiters
	g.c.mu.Unlock()
	if waiters > 0 {
		f.data = slices.Clone(data)
	}
	f.err, f.dropped = err, dropped
	close(f.done)
}

func (g *getter) leave(js []joined) {
	g.c.mu.Lock()
	defer g.c.mu.Unlock()
	for _, j := range js {
		j.f.waiters--
	}
}

// fetch answers the names of cl.own from inner, keeps the chunks and ends the
// flights, whatever happens.
func (g *getter) fetch(ctx context.Context, cl claims, yield func(block.Chunk, error) bool) (more bool) {
	own := cl.own
	if len(own) == 0 {
		return true
	}
	defer func() {
		for n, f := range own {
			g.land(n, f, nil, fault.Errorf(fault.Unavailable, "get chunk %v: who fetched it gave up", n), true)
		}
	}()
	for c, err := range g.inner.Get(ctx, cl.names) {
		f := own[c.Name]
		if f == nil {
			continue // not asked for, or answered twice
		}
		delete(own, c.Name)
		if err == nil && len(c.Data) == 0 {
			err = fault.Errorf(fault.Invalid, "get chunk %v: the source answered without bytes", c.Name)
		}
		if err != nil {
			g.land(c.Name, f, nil, err, ctx.Err() != nil)
			if !yield(block.Chunk{Name: c.Name}, err) {
				return false
			}
			continue
		}
		g.c.keep(ctx, g.dom, c)
		g.land(c.Name, f, c.Data, nil, false)
		if !yield(c, nil) {
			return false
		}
	}
	for n, f := range own {
		delete(own, n)
		err := ctx.Err()
		if err == nil {
			err = fault.Errorf(fault.Internal, "the source did not answer")
		}
		err = fault.Errorf(fault.Of(err), "get chunk %v: %w", n, err)
		g.land(n, f, nil, err, ctx.Err() != nil)
		if !yield(block.Chunk{Name: n}, err) {
			return false
		}
	}
	return true
}

// keep puts a chunk of a Getter, which checked it. It waits a little for a slow
// disk; what the disk doesn't take is not kept.
func (c *Cache) keep(ctx context.Context, dom block.Domain, ch block.Chunk) {
	seal := dom.Private() && block.Sum(ch.Data) != ch.Name
	ctx, cancel := context.WithTimeout(ctx, c.opt.PutWait)
	defer cancel()
	if c.put(ctx, dom, ch.Name, ch.Data, seal) != nil && ctx.Err() != nil {
		c.mu.Lock()
		c.stalled = true
		c.mu.Unlock()
	}
}

// join waits for the fetches of others and returns what has to be asked again.
func (g *getter) join(ctx context.Context, js []joined, yield func(block.Chunk, error) bool) (again []block.Name, ok bool) {
	for i, j := range js {
		select {
		case <-j.f.done:
		case <-ctx.Done():
			err := fault.Errorf(fault.Unavailable, "get chunk %v: wait for its fetch: %w", j.name, ctx.Err())
			if !yield(block.Chunk{Name: j.name}, err) {
				g.leave(js[i:])
				return nil, false
			}
			continue
		}
		err := j.f.err
		if err != nil && ctx.Err() == nil && (j.f.dropped || j.f.owner != g) {
			again = append(again, j.name)
			continue
		}
		c := block.Chunk{Name: j.name}
		if err == nil {
			c.Data = slices.Clone(j.f.data)
		}
		if !yield(c, err) {
			g.leave(js[i+1:])
			return nil, false
		}
	}
	return again, true
}
