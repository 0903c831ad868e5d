package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// What a start fetched of an image besides its contents is kept, so that the
// next one asks a hub only what a name means. It is kept for a day: a hub may
// lay an image out anew, and get a trace for it.
const (
	metadataAge    = 24 * time.Hour
	metadataImages = 64 // the latest
)

func (a *app) metadataDir(id string) string { return filepath.Join(a.cacheDir(), "metadata", id) }

// remembered are the files of images that hubs sent to this process.
type remembered struct {
	mu    sync.Mutex
	files map[string][]byte
}

// memory is a hub whose answers are remembered, but for contents.
type memory struct {
	*block.HTTP
	to *remembered
}

func (m memory) Read(ctx context.Context, key string, off, size int64) ([]byte, error) {
	b, err := m.HTTP.Read(ctx, key, off, size)
	if err != nil || off != 0 || int64(len(b)) == size || !slices.Contains([]string{"b", "r", "o", "l", "s", "t"}, prefix(key)) {
		return b, err
	}
	m.to.mu.Lock()
	defer m.to.mu.Unlock()
	if m.to.files == nil {
		m.to.files = make(map[string][]byte)
	}
	m.to.files[key] = b
	return b, nil
}

func prefix(key string) string {
	p, _, _ := strings.Cut(key, "/")
	return p
}

// kept is the bucket of what is kept of an image, or nil.
func (a *app) kept(id flist.ID) block.Bucket {
	dir := a.metadataDir(id.String())
	st, err := os.Stat(dir)
	if err != nil {
		return nil
	}
	if clock.Since(a.clock, st.ModTime()) > metadataAge {
		a.forgetMetadata(id)
		return nil
	}
	return block.OpenDir(dir)
}

// forgetMetadata drops what is kept of an image: it is fetched again.
func (a *app) forgetMetadata(id flist.ID) {
	if err := os.RemoveAll(a.metadataDir(id.String())); err != nil {
		a.logger().Warn("forget the metadata of an image", "image", id, "error", err)
	}
}

// nearOnly is the sources on this machine if they have the file, else all.
func nearOnly(ctx context.Context, m *block.Mirrors, key string) (*block.Mirrors, bool) {
	if near := m.Near(); near != nil {
		if _, err := near.Stat(ctx, key); err == nil {
			return near, true
		}
	}
	return m, false
}

// keepMetadata keeps what came from hubs of an image that was mounted. That it
// can't be is no error.
func (a *app) keepMetadata(ctx context.Context, img *flist.Image) {
	a.remembered.mu.Lock()
	defer a.remembered.mu.Unlock()
	if len(a.remembered.files) == 0 {
		return
	}
	if err := a.storeMetadata(ctx, img, a.remembered.files); err != nil {
		a.logger().Warn("the metadata of the image is not kept", "image", img.ID, "error", err)
	}
}

func (a *app) storeMetadata(ctx context.Context, img *flist.Image, files map[string][]byte) error {
	all := filepath.Dir(a.metadataDir("x"))
	if err := os.MkdirAll(all, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(all, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	to := block.OpenDir(tmp)
	if b, ok := files[flist.StartKey(img.ID)]; ok {
		s, err := flist.ParseStart(b)
		if err != nil {
			return err
		}
		for key, part := range s.Parts {
			if len(part) > 0 {
				if err := writeBytes(ctx, to, key, part); err != nil {
					return err
				}
			}
		}
	}
	for key, b := range files {
		_, err := to.Stat(ctx, key)
		if prefix(key) == "b" || err == nil {
			continue
		}
		if err := writeBytes(ctx, to, key, b); err != nil {
			return err
		}
	}
	// It counts only if an image opens from it alone.
	if _, err := flist.Open(ctx, to, img.ID, flist.OpenOptions{Domain: img.Domain, Checked: a.checked()}); err != nil {
		if errors.Is(err, fault.NotFound) {
			return nil // a part was in the local store
		}
		return err
	}
	if _, err := flist.ReadLocator(ctx, to, img); err != nil {
		return err
	}
	if err := os.Rename(tmp, a.metadataDir(img.ID.String())); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return pruneOldest(all, metadataImages)
}

// pruneOldest leaves the latest entries of a directory, and nothing that a killed
// process left half made for long.
func pruneOldest(all string, keep int) error {
	entries, err := os.ReadDir(all)
	if err != nil {
		return err
	}
	type image struct {
		name string
		at   time.Time
	}
	var images []image
	for _, e := range entries {
		if i, err := e.Info(); err == nil { // else another process took it away
			images = append(images, image{e.Name(), i.ModTime()})
		}
	}
	slices.SortFunc(images, func(x, y image) int { return cmp.Or(y.at.Compare(x.at), cmp.Compare(x.name, y.name)) })
	for _, i := range images[min(len(images), keep):] {
		err = errors.Join(err, os.RemoveAll(filepath.Join(all, i.name)))
	}
	return err
}
