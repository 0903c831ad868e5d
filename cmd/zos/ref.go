package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub/client"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// images is the local store: a directory with the layout of a hub.
func (a *app) images() (*block.Dir, string, error) {
	dir := first(a.store, filepath.Join(a.dataDir(), "images"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", fault.Errorf(fault.Of(err), "open image store: %w", err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, "", err
	}
	return block.OpenDir(abs), abs, nil
}

// hubURLs are the hubs and mirrors that the user named; none by default.
func (a *app) hubURLs() ([]string, error) {
	c, err := a.context()
	if err != nil {
		return nil, err
	}
	switch {
	case len(a.hubs) > 0:
		return a.hubs, nil
	case a.getenv("ZOS_HUB") != "":
		return strings.Fields(a.getenv("ZOS_HUB")), nil
	}
	return c.Hubs, nil
}

// hub is a client of the hubs that the user named, or nil.
func (a *app) hub() (*client.Client, error) {
	urls, err := a.hubURLs()
	if err != nil || len(urls) == 0 {
		return nil, err
	}
	if err := os.MkdirAll(a.dataDir(), 0o700); err != nil {
		return nil, err
	}
	return client.New(urls, client.Options{State: filepath.Join(a.dataDir(), "seen.json"), Clock: a.clock, OnEvent: a.event})
}

// mustHub is hub for commands that can't do without one.
func (a *app) mustHub() (*client.Client, error) {
	c, err := a.hub()
	if err == nil && c == nil {
		err = fault.Errorf(fault.Invalid, "no hub is configured; name one with --hub URL or ZOS_HUB")
	}
	return c, err
}

func (a *app) event(e block.Event) {
	a.logger().Warn("source "+string(e.Kind), "source", e.Source, "key", e.Key, "error", e.Err)
}

// name is a parsed image name: [OWNER/]NAME[:TAG].
type name struct {
	owner identity.Address
	name  string
	tag   string
}

// parseName reads a name. Without an owner it belongs to the user's own key.
func (a *app) parseName(s string) (name, error) {
	var n name
	rest := s
	if owner, after, ok := strings.Cut(s, "/"); ok {
		var err error
		if n.owner, err = identity.ParseAddress(owner); err != nil {
			return n, fault.Errorf(fault.Invalid, "the image name %q: %w", s, err)
		}
		rest = after
	} else {
		k, err := a.key()
		if err != nil {
			return n, err
		}
		n.owner = k.Public().Address()
	}
	n.name, n.tag, _ = strings.Cut(rest, ":")
	if err := flist.CheckName(n.name); err != nil {
		return n, err
	}
	if n.tag != "" || strings.Contains(rest, ":") {
		if err := flist.CheckName(n.tag); err != nil {
			return n, err
		}
	}
	return n, nil
}

// resolve finds the id that a reference means: an id, the start of an id that is
// in the local store, or a name. Names are asked from the hubs if there are
// any, else from the local store. local says that the store has the metadata.
func (a *app) resolve(ctx context.Context, ref string) (id flist.ID, local bool, err error) {
	store, _, err := a.images()
	if err != nil {
		return id, false, err
	}
	if isHex(ref) && len(ref) >= 8 && len(ref) <= 64 {
		return a.resolveID(ctx, store, ref)
	}
	n, err := a.parseName(ref)
	if err != nil {
		return id, false, err
	}
	hub, err := a.hub()
	if err != nil {
		return id, false, err
	}
	if hub != nil {
		p, err := hub.Resolve(ctx, n.owner, n.name, n.tag)
		switch {
		case err == nil:
			_, statErr := store.Stat(ctx, flist.RootKey(p.ID))
			return p.ID, statErr == nil, nil
		case !errors.Is(err, fault.Unavailable) && !errors.Is(err, fault.NotFound):
			return id, false, err
		}
		hubErr := err
		if id, err = localPointer(ctx, store, n); err != nil {
			return id, false, hubErr
		}
		a.note("note: %v; using the local copy of %s", hubErr, ref)
		return id, true, nil
	}
	if id, err = localPointer(ctx, store, n); err != nil {
		return id, false, err
	}
	return id, true, nil
}

// resolveLocal finds an image that is in the local store, without asking a hub.
func (a *app) resolveLocal(ctx context.Context, ref string) (flist.ID, error) {
	store, _, err := a.images()
	if err != nil {
		return flist.ID{}, err
	}
	var id flist.ID
	if isHex(ref) && len(ref) >= 8 && len(ref) <= 64 {
		var local bool
		if id, local, err = a.resolveID(ctx, store, ref); err == nil && !local {
			err = fault.Errorf(fault.NotFound, "image %v is not in the local store; pull it first", id)
		}
		return id, err
	}
	n, err := a.parseName(ref)
	if err != nil {
		return id, err
	}
	return localPointer(ctx, store, n)
}

func (a *app) resolveID(ctx context.Context, store block.Bucket, ref string) (id flist.ID, local bool, err error) {
	if len(ref) == 64 {
		if id, err = block.ParseName(ref); err != nil {
			return id, false, err
		}
		_, err := store.Stat(ctx, flist.RootKey(id))
		return id, err == nil, nil
	}
	found := 0
	for key, err := range store.List(ctx, "r/"+ref) {
		if err != nil {
			return id, false, err
		}
		if id, err = block.ParseName(strings.TrimPrefix(key, "r/")); err != nil {
			return id, false, err
		}
		found++
	}
	switch found {
	case 0:
		return id, false, fault.Errorf(fault.NotFound, "no image in the local store has an id that starts with %s; zos flist ls shows them", ref)
	case 1:
		return id, true, nil
	}
	return id, false, fault.Errorf(fault.Conflict, "%d images have an id that starts with %s; write more of it", found, ref)
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

func (n name) pointerKey() string {
	return flist.Pointer{Owner: n.owner, Name: n.name, Tag: n.tag}.Key()
}

// localPointer reads a name from the local store.
func localPointer(ctx context.Context, store block.Bucket, n name) (flist.ID, error) {
	b, err := store.Read(ctx, n.pointerKey(), 0, flist.MaxRoot+1)
	if errors.Is(err, fault.NotFound) {
		return flist.ID{}, fault.Errorf(fault.NotFound, "no image is named %s in the local store; build or pull it, or name a hub with --hub", n)
	}
	if err != nil {
		return flist.ID{}, err
	}
	p, _, err := flist.OpenPointer(b)
	if err != nil {
		return flist.ID{}, err
	}
	if p.Owner != n.owner || p.Name != n.name || p.Tag != n.tag {
		return flist.ID{}, fault.Errorf(fault.Denied, "the pointer stored for %s is for %s", n, p.Key())
	}
	return p.ID, nil
}

func (n name) String() string {
	s := n.owner.String() + "/" + n.name
	if n.tag != "" {
		s += ":" + n.tag
	}
	return s
}

// point moves a name in the local store to an image.
func (a *app) point(ctx context.Context, store block.Bucket, n name, id flist.ID) error {
	key, err := a.key()
	if err != nil {
		return err
	}
	p := flist.Pointer{Owner: n.owner, Name: n.name, Tag: n.tag, ID: id, Seq: 1, Time: a.clock.Now().Unix()}
	b, err := store.Read(ctx, p.Key(), 0, flist.MaxRoot+1)
	if err == nil {
		old, _, err := flist.OpenPointer(b)
		if err != nil {
			return err
		}
		if old.ID == id {
			return nil
		}
		p.Seq = old.Seq + 1
	} else if !errors.Is(err, fault.NotFound) {
		return err
	}
	if b, err = p.Sign(key); err != nil {
		return err
	}
	return writeBytes(ctx, store, p.Key(), b)
}

// source is where an image's files are read from: the local store first, then
// the hubs.
func (a *app) source() (*block.Mirrors, error) {
	store, dir, err := a.images()
	if err != nil {
		return nil, err
	}
	return a.sourceWith(block.Source{Name: dir, Bucket: store, Near: true})
}

// sourceWith is the sources on this machine and the hubs.
func (a *app) sourceWith(sources ...block.Source) (*block.Mirrors, error) {
	urls, err := a.hubURLs()
	if err != nil {
		return nil, err
	}
	for _, u := range urls {
		h, err := block.NewHTTP(u, nil, 0)
		if err != nil {
			return nil, err
		}
		sources = append(sources, block.Source{Name: u, Bucket: memory{h, &a.remembered}})
	}
	return block.NewMirrors(a.missQuietly, sources...), nil
}

// missQuietly reports events but the one that is normal here: a file that the
// local store doesn't have.
func (a *app) missQuietly(e block.Event) {
	if !errors.Is(e.Err, fault.NotFound) {
		a.event(e)
	}
}

// open resolves a reference and opens the image from the local store or a hub.
func (a *app) open(ctx context.Context, ref string) (*flist.Image, *block.Mirrors, error) {
	id, _, err := a.resolve(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	return a.openWith(ctx, id, flist.OpenOptions{})
}

// openToMount is open for the kernel, which needs no tree of an image that was
// checked before.
func (a *app) openToMount(ctx context.Context, id flist.ID) (*flist.Image, *block.Mirrors, error) {
	return a.openWith(ctx, id, flist.OpenOptions{Checked: a.checked()})
}

// openWith opens an image with the options but the domain, which is the user's.
func (a *app) openWith(ctx context.Context, id flist.ID, opt flist.OpenOptions) (img *flist.Image, m *block.Mirrors, err error) {
	if opt.Domain, _, err = a.domain(); err != nil {
		return nil, nil, err
	}
	store, dir, err := a.images()
	if err != nil {
		return nil, nil, err
	}
	here := block.Source{Name: dir, Bucket: store, Near: true}
	if kept := a.kept(id); kept != nil {
		m, err := a.sourceWith(here, block.Source{Name: a.metadataDir(id.String()), Bucket: kept, Near: true})
		if err != nil {
			return nil, nil, err
		}
		near, _ := nearOnly(ctx, m, flist.RootKey(id))
		if img, err := flist.Open(ctx, near, id, opt); err == nil {
			if _, err := flist.ReadLocator(ctx, near, img); err == nil {
				return img, m, nil
			}
		}
		a.forgetMetadata(id) // damaged
	}
	if m, err = a.sourceWith(here); err != nil {
		return nil, nil, err
	}
	img, err = flist.Open(ctx, m, id, opt)
	return img, m, err
}
