// Package store keeps the blocks of .fl images: their encoding, the routes that
// say where each is, and the stores that this program brings (directories, and
// web servers for reading).
//
// A block is checked against its id wherever it comes from, and against its tag
// and key when it is opened. A Router asks every store that may have a block
// until one has the right bytes; policy such as a cache in a directory is part
// of it. The package knows no .fl files, and neither zdb nor S3: a caller brings
// an Opener for their schemes. The encoding is specified in
// docs/reference/fl.md.
//
//	routes, err := store.ParseRoutes([]string{"00-7f=dir:///srv/a", "80-ff=dir:///srv/b"})
//	...
//	r, err := store.OpenRouter(ctx, routes, nil, false)
//	...
//	stored, b, err := store.Seal([]byte("hello\n"))
//	...
//	_, err = r.Put(ctx, b.ID, stored)
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"zos.internal/internal/fault"
)

// A Store reads stored blocks by id. Get does not check them. The kinds of
// its errors are NotFound (the store works and has no such block), Invalid
// (the answer can't be a block) and Unavailable. A Store may have many callers
// at once; one that is also an io.Closer is closed when it is done with.
type Store interface {
	Get(ctx context.Context, id ID) ([]byte, error)
}

// A Writer also takes blocks. Put makes stored visible whole or not at
// all, and leaves a right copy that is there already; it reports whether it
// had to write. Flush returns when what was put survives a power cut.
type Writer interface {
	Store
	Put(ctx context.Context, id ID, stored []byte) (written bool, err error)
	Flush(ctx context.Context) error
}

// Opener opens the store at a URL.
type Opener func(ctx context.Context, url string) (Store, error)

// Openers are the stores that this package brings, by scheme: dir (read and
// write), http and https (read). Callers add theirs to the map they get.
func Openers() map[string]Opener {
	return map[string]Opener{
		"dir":   OpenDir,
		"http":  OpenHTTP,
		"https": OpenHTTP,
	}
}

type routed struct {
	Route
	store Store
}

// Router finds the stores of a block. Every route that holds the id is a
// candidate, in the order of the list.
type Router struct {
	stores  []routed
	closers []io.Closer
	Cache   *Dir // asked first, and filled; may be nil
}

// refused is the store of a route whose scheme has no opener.
type refused struct{ err error }

func (r refused) Get(context.Context, ID) ([]byte, error) { return nil, r.err }

// OpenRouter opens the store of every route; of one URL it opens one. With
// lenient a scheme without an opener fails only when a block is wanted from
// it, because another route may hold the same blocks.
func OpenRouter(ctx context.Context, routes []Route, openers map[string]Opener, lenient bool) (*Router, error) {
	if openers == nil {
		openers = Openers()
	}
	r := &Router{}
	open := make(map[string]Store)
	for _, route := range routes {
		s := open[route.URL]
		if s == nil {
			var err error
			if opener := openers[route.Scheme()]; opener != nil {
				s, err = opener(ctx, route.URL)
			} else if err = unknownScheme(route, openers); lenient {
				s, err = refused{err}, nil
			}
			if err != nil {
				return nil, errors.Join(err, r.Close())
			}
			open[route.URL] = s
			if c, ok := s.(io.Closer); ok {
				r.closers = append(r.closers, c)
			}
		}
		r.stores = append(r.stores, routed{route, s})
	}
	return r, nil
}

func unknownScheme(r Route, openers map[string]Opener) error {
	has := slices.Sorted(maps.Keys(openers))
	switch s := r.Scheme(); s {
	case "zdb", "s3", "s3s", "s3s+tls":
		return fault.Errorf(fault.Unsupported, "open the store %v: %s stores join with the storage issue; give the blocks at another place with --store (%v)", r, s, has)
	default:
		return fault.Errorf(fault.Unsupported, "open the store %v: there is no store of the scheme %q; known are %v", r, s, has)
	}
}

// Candidates counts the stores that can be asked for blocks of that first
// byte; if there is none it says why.
func (r *Router) Candidates(first byte) (n int, why error) {
	for _, s := range r.stores {
		if !s.Holds(ID{first}) {
			continue
		}
		if no, ok := s.store.(refused); ok {
			why = no.err
			continue
		}
		n++
	}
	if n == 0 && why == nil {
		why = noRoute(first)
	}
	return n, why
}

func noRoute(first byte) error {
	return fault.Errorf(fault.NotFound, "no route holds ids that start with %02x", first)
}

// Close ends every store that wants it.
func (r *Router) Close() error {
	var errs []error
	for _, c := range r.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Fetch is the stored bytes of a block, checked against its id. The kind of
// the error is Invalid if a store had wrong bytes, Unavailable if one did not
// answer, else NotFound.
func (r *Router) Fetch(ctx context.Context, b Block) ([]byte, error) {
	if r.Cache == nil {
		return r.ask(ctx, b)
	}
	if stored, err := r.Cache.Get(ctx, b.ID); err == nil && b.check(stored) == nil {
		return stored, nil
	}
	stored, err := r.ask(ctx, b)
	if err == nil {
		_, _ = r.Cache.Put(ctx, b.ID, stored) // a full disk only costs a fetch later
	}
	return stored, err
}

func (r *Router) ask(ctx context.Context, b Block) ([]byte, error) {
	var all error
	kind := fault.NotFound
	for _, s := range r.stores {
		if !s.Holds(b.ID) {
			continue
		}
		if ctx.Err() != nil {
			return nil, fault.As(fault.Unavailable, ctx.Err())
		}
		stored, err := s.store.Get(ctx, b.ID)
		if err == nil {
			if err = b.check(stored); err == nil {
				return stored, nil
			}
		}
		switch k := fault.Of(err); {
		case k == fault.Invalid:
			kind = fault.Invalid
		case k != fault.NotFound && kind != fault.Invalid:
			kind = fault.Unavailable
		}
		if err = fmt.Errorf("%s: %w", Redact(s.URL), err); all != nil {
			err = fmt.Errorf("%w; %w", all, err) // one line, for reports
		}
		all = err
	}
	if all == nil {
		return nil, noRoute(b.ID[0])
	}
	return nil, fault.As(kind, all)
}

// Open is the plain bytes of a block, checked in every way.
func (r *Router) Open(ctx context.Context, b Block) ([]byte, error) {
	stored, err := r.Fetch(ctx, b)
	if err != nil {
		return nil, err
	}
	return b.Open(stored)
}

// Writable fails if a store can't take blocks or a block has no store.
func (r *Router) Writable() error {
	var routes []Route
	for _, s := range r.stores {
		if _, ok := s.store.(Writer); !ok {
			return fault.Errorf(fault.Unsupported, "write to the store %v: %s stores are read only; write to a dir:// store and publish that directory", s.Route, s.Scheme())
		}
		routes = append(routes, s.Route)
	}
	if len(routes) == 0 {
		return fault.Errorf(fault.Invalid, "no store is given for the blocks; name one with --store, for example dir:///srv/blocks")
	}
	if lo, hi, missing := uncovered(routes); missing {
		return fault.Errorf(fault.Invalid, "no store takes the blocks %02x-%02x; add one, for example %02x-%02x=dir:///srv/blocks", lo, hi, lo, hi)
	}
	return nil
}

// Put gives a block to every store whose route holds it, as rfs does. It
// reports whether one of them did not have it.
func (r *Router) Put(ctx context.Context, id ID, stored []byte) (written bool, err error) {
	for _, s := range r.stores {
		if !s.Holds(id) {
			continue
		}
		w, err := s.store.(Writer).Put(ctx, id, stored)
		if err != nil {
			return written, fault.Errorf(fault.Of(err), "put block %v to %s: %w", id, Redact(s.URL), err)
		}
		written = written || w
	}
	return written, nil
}

// Flush returns when all that was put survives a power cut.
func (r *Router) Flush(ctx context.Context) error {
	for _, s := range r.stores {
		if err := s.store.(Writer).Flush(ctx); err != nil {
			return fault.Errorf(fault.Of(err), "flush %s: %w", Redact(s.URL), err)
		}
	}
	return nil
}

// Has asks every store that takes b for it. stored is a right copy, if one has
// it; missing says that one has not.
func (r *Router) Has(ctx context.Context, b Block) (stored []byte, missing bool, err error) {
	for _, s := range r.stores {
		if !s.Holds(b.ID) {
			continue
		}
		got, err := s.store.Get(ctx, b.ID)
		if err == nil {
			err = b.check(got)
		}
		switch k := fault.Of(err); {
		case err == nil:
			stored = got
		case k == fault.NotFound, k == fault.Invalid: // put makes it right
			missing = true
		default:
			return nil, false, err
		}
	}
	return stored, missing, nil
}
