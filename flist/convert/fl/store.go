package fl

import (
	"context"
	"errors"
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

// A WriteStore also takes blocks. Put makes stored visible whole or not at
// all, and leaves a right copy that is there already; it reports whether it
// had to write. Flush returns when what was put survives a power cut.
type WriteStore interface {
	Store
	Put(ctx context.Context, id ID, stored []byte) (written bool, err error)
	Flush(ctx context.Context) error
}

// OpenStore opens the store at a URL.
type OpenStore func(ctx context.Context, url string) (Store, error)

// Openers are the stores that this package brings, by scheme: dir (read and
// write), http and https (read). Callers add theirs to the map they get.
func Openers() map[string]OpenStore {
	return map[string]OpenStore{
		"dir":   OpenDir,
		"http":  OpenHTTP,
		"https": OpenHTTP,
	}
}

type routed struct {
	Route
	store Store
}

// router finds the stores of a block. Every route that holds the id is a
// candidate, in the order of the list.
type router struct {
	stores []routed
	cache  *Dir // asked first, and filled; may be nil
}

// refused is the store of a route whose scheme has no opener.
type refused struct{ err error }

func (r refused) Get(context.Context, ID) ([]byte, error) { return nil, r.err }

// openRouter opens the store of every route; of one URL it opens one. With
// lenient a scheme without an opener fails only when a block is wanted from
// it, because another route may hold the same blocks.
func openRouter(ctx context.Context, routes []Route, openers map[string]OpenStore, lenient bool) (*router, error) {
	if openers == nil {
		openers = Openers()
	}
	r := &router{}
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
		}
		r.stores = append(r.stores, routed{route, s})
	}
	return r, nil
}

func unknownScheme(r Route, openers map[string]OpenStore) error {
	has := slices.Sorted(maps.Keys(openers))
	switch s := r.Scheme(); s {
	case "zdb", "s3", "s3s", "s3s+tls":
		return fault.Errorf(fault.Unsupported, "open the store %v: %s stores join with the storage issue; give the blocks at another place with --store (%v)", r, s, has)
	default:
		return fault.Errorf(fault.Unsupported, "open the store %v: there is no store of the scheme %q; known are %v", r, s, has)
	}
}

// candidates counts the stores that can be asked for blocks of that first
// byte; if there is none it says why.
func (r *router) candidates(first byte) (n int, why error) {
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
func (r *router) Close() error {
	var errs []error
	seen := make(map[Store]bool)
	for _, s := range r.stores {
		c, ok := s.store.(io.Closer)
		if !ok || seen[s.store] {
			continue
		}
		seen[s.store] = true
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// fetch is the stored bytes of a block, checked against its id. The kind of
// the error is Invalid if a store had wrong bytes, Unavailable if one did not
// answer, else NotFound.
func (r *router) fetch(ctx context.Context, b Block) ([]byte, error) {
	if r.cache == nil {
		return r.ask(ctx, b)
	}
	if stored, err := r.cache.Get(ctx, b.ID); err == nil && b.check(stored) == nil {
		return stored, nil
	}
	stored, err := r.ask(ctx, b)
	if err == nil {
		_, _ = r.cache.Put(ctx, b.ID, stored) // a full disk only costs a fetch later
	}
	return stored, err
}

func (r *router) ask(ctx context.Context, b Block) ([]byte, error) {
	var errs []error
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
		errs = append(errs, fault.Errorf(fault.Of(err), "%s: %w", Redact(s.URL), err))
	}
	if len(errs) == 0 {
		return nil, noRoute(b.ID[0])
	}
	return nil, fault.As(kind, errors.Join(errs...))
}

// open is the plain bytes of a block, checked in every way.
func (r *router) open(ctx context.Context, b Block) ([]byte, error) {
	stored, err := r.fetch(ctx, b)
	if err != nil {
		return nil, err
	}
	return b.Open(stored)
}

// writable fails if a store can't take blocks or a block has no store.
func (r *router) writable() error {
	var routes []Route
	for _, s := range r.stores {
		if _, ok := s.store.(WriteStore); !ok {
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

// put gives a block to every store whose route holds it, as rfs does. It
// reports whether one of them did not have it.
func (r *router) put(ctx context.Context, id ID, stored []byte) (written bool, err error) {
	for _, s := range r.stores {
		if !s.Holds(id) {
			continue
		}
		w, err := s.store.(WriteStore).Put(ctx, id, stored)
		if err != nil {
			return written, fault.Errorf(fault.Of(err), "put block %v to %s: %w", id, Redact(s.URL), err)
		}
		written = written || w
	}
	return written, nil
}

func (r *router) flush(ctx context.Context) error {
	for _, s := range r.stores {
		if err := s.store.(WriteStore).Flush(ctx); err != nil {
			return fault.Errorf(fault.Of(err), "flush %s: %w", Redact(s.URL), err)
		}
	}
	return nil
}
