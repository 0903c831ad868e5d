// Package lazy opens the data device of an image from the little that a data
// server keeps about it: a prepared directory and the places to fetch from.
//
// Prepare checks an image and writes its map, locator and trace beside each
// other; the data server, which may be restarted at any time, opens them again
// with Opener.Open and serves reads through the node's cache. The map is
// mapped into memory, so that a hundred mounted images cost little. A tenant's
// secret is named by its file and never copied.
//
//	spec, err := lazy.Prepare(ctx, img, mirrors, dir, lazy.Spec{Sources: urls})
//	o := &lazy.Opener{Cache: c}
//	reader, err := o.Open(spec)
package lazy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"zos.internal/block"
	"zos.internal/block/cache"
	"zos.internal/flist"
	"zos.internal/flist/chunkmap"
	"zos.internal/flist/dataserver"
	"zos.internal/flist/fetch"
	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
)

// Spec is what a data server needs to serve one image.
type Spec struct {
	ID      string   `json:"id"`
	Dir     string   `json:"dir"`              // map, locator and trace
	Size    int64    `json:"size"`             // of the device in bytes
	Sources []string `json:"sources"`          // directories and URLs, best first
	Tenant  string   `json:"tenant,omitempty"` // file with the secret of a private image
	Private bool     `json:"private,omitempty"`
	Record  string   `json:"record,omitempty"` // directory for the recorded start
	Fill    bool     `json:"fill,omitempty"`   // fetch the whole image when idle
}

// Names of the files in Spec.Dir.
const (
	mapFile     = "map"
	locatorFile = "locator"
	traceFile   = "trace"
)

// Prepare writes what Open needs of a checked image into dir. The sources,
// tenant, record and fill of spec are kept, the rest is filled in. A trace that
// the mirrors have is used when a signer of the image signed it.
func Prepare(ctx context.Context, img *flist.Image, m *block.Mirrors, dir string, spec Spec) (Spec, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return spec, fault.Errorf(fault.Of(err), "prepare image %v: %w", img.ID, err)
	}
	// The trace comes while the locator does: each is a round trip, unless the
	// start file of the image brought them.
	loc, locErr := img.ReadPart(ctx, nothing{}, flist.LocatorKey(img.ID), flist.MaxObject)
	if locErr == nil {
		_, locErr = block.ParseLocator(loc, len(img.Map.Chunks))
	}
	type hint struct {
		trace fetch.Trace
		ok    bool
	}
	hints := make(chan hint, 1)
	go func() {
		t, ok := publishedTrace(ctx, img, m)
		hints <- hint{t, ok}
	}()
	if locErr != nil {
		loc, locErr = m.Read(ctx, flist.LocatorKey(img.ID), 0, flist.MaxObject)
	}
	trace := <-hints
	if locErr != nil {
		return spec, fault.Errorf(fault.Of(locErr), "prepare image %v: read its locator: %w", img.ID, locErr)
	}
	if _, err := block.ParseLocator(loc, len(img.Map.Chunks)); err != nil {
		return spec, fault.Errorf(fault.Invalid, "prepare image %v: %w", img.ID, err)
	}
	spec.ID, spec.Dir, spec.Size, spec.Private = img.ID.String(), dir, img.DeviceSize(), img.Root.Private()
	if err := atomicfile.Write(filepath.Join(dir, mapFile), img.MapBytes, 0o600); err != nil {
		return spec, err
	}
	if err := atomicfile.Write(filepath.Join(dir, locatorFile), loc, 0o600); err != nil {
		return spec, err
	}
	if trace.ok {
		b, err := trace.trace.Encode()
		if err == nil {
			err = atomicfile.Write(filepath.Join(dir, traceFile), b, 0o600)
		}
		if err != nil {
			return spec, err
		}
	}
	return spec, nil
}

// nothing is the bucket of which everything is absent.
type nothing struct{ block.Bucket }

func (nothing) Read(context.Context, string, int64, int64) ([]byte, error) {
	return nil, fault.NotFound
}

// publishedTrace is the trace of an image if one of its signers vouches for it.
// Whatever is wrong with it, the image works without.
func publishedTrace(ctx context.Context, img *flist.Image, m *block.Mirrors) (fetch.Trace, bool) {
	b, err := img.ReadPart(ctx, m, flist.TraceKey(img.ID), flist.MaxTrace)
	if err != nil {
		return fetch.Trace{}, false
	}
	t, key, err := flist.OpenTrace(b, img.ID)
	if err != nil {
		return fetch.Trace{}, false
	}
	b, err = img.ReadPart(ctx, m, flist.SignaturesKey(img.ID), flist.MaxSignatures+1)
	if err != nil {
		return fetch.Trace{}, false
	}
	said, err := flist.OpenSignatures(b, img.ID)
	return t, err == nil && slices.ContainsFunc(said, func(s flist.Statement) bool { return s.Key == key })
}

// maxStarts is how many recorded starts of an image are kept.
const maxStarts = 5

// RecordedStarts are the latest starts of an image that data servers recorded
// below dir (Spec.Record), oldest first.
func RecordedStarts(dir string) ([]fetch.Trace, error) {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fault.Errorf(fault.Of(err), "read recorded starts: %w", err)
	}
	var out []fetch.Trace
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			continue // another start replaced it
		}
		if t, err := fetch.ParseTrace(b); err == nil {
			out = append(out, t)
		}
	}
	return out, nil
}

// Opener opens devices that share one cache and one scheduler.
type Opener struct {
	Cache     *cache.Cache // nil: nothing is kept
	Scheduler *fetch.Scheduler
	Deadline  time.Duration // of every read and every request; 0: that of package fetch
	Log       *slog.Logger
	OnEvent   func(source, kind string, err error)
}

// Reader is the data device of one image, as flist/dataserver reads it.
type Reader struct {
	*fetch.Device
	spec   Spec
	view   *chunkmap.View
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}
}

// Open opens the device of a prepared image and starts to prefetch its trace.
func (o *Opener) Open(spec Spec) (*Reader, error) {
	var dom block.Domain
	if spec.Private {
		var err error
		if dom, err = LoadTenant(spec.Tenant); err != nil {
			return nil, err
		}
	}
	view, err := chunkmap.Open(filepath.Join(spec.Dir, mapFile), uint64(spec.Size))
	if err != nil {
		return nil, err
	}
	r, err := o.open(spec, dom, view)
	if err != nil {
		view.Close()
		return nil, err
	}
	return r, nil
}

func (o *Opener) open(spec Spec, dom block.Domain, view *chunkmap.View) (*Reader, error) {
	b, err := os.ReadFile(filepath.Join(spec.Dir, locatorFile))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "open image %s: %w", spec.ID, err)
	}
	loc, err := block.ParseLocator(b, view.Chunks())
	if err != nil {
		return nil, err
	}
	m, err := Sources(spec.Sources, o.blockEvent)
	if err != nil {
		return nil, err
	}
	places := flist.NewPlaces(loc, view.Chunks(), view.Chunk, spec.Private)
	getter := block.NewPackGetter(m, flist.PackPrefix, dom, places.Find, block.Singles("c/"))
	dev, err := fetch.New(view, spec.Size, o.Cache, getter, fetch.Options{Image: spec.ID, Domain: dom, Scheduler: o.Scheduler, Deadline: o.Deadline, OnEvent: o.fetchEvent})
	if err != nil {
		return nil, err
	}
	if spec.Record != "" {
		dev.Record()
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Reader{Device: dev, spec: spec, view: view, log: o.logger(), cancel: cancel, done: make(chan struct{})}
	go r.background(ctx)
	return r, nil
}

// background prefetches the trace and, if wanted, the rest of the image, and
// keeps the recorded start.
func (r *Reader) background(ctx context.Context) {
	defer close(r.done)
	if b, err := os.ReadFile(filepath.Join(r.spec.Dir, traceFile)); err == nil {
		if t, err := fetch.ParseTrace(b); err == nil {
			// What can't be prefetched is fetched on demand.
			_ = r.Prefetch(ctx, t)
		}
	}
	if r.spec.Fill {
		_ = r.FillAll(ctx)
	}
	if r.spec.Record == "" {
		return
	}
	timer := time.NewTimer(fetch.RecordTime)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	if err := r.saveStart(); err != nil {
		r.log.Warn("recorded start lost", "image", r.spec.ID, "error", err)
	}
}

// Close stops the device and leaves the recorded start.
func (r *Reader) Close() error {
	r.cancel()
	<-r.done
	return errors.Join(r.Device.Close(), r.view.Close())
}

// saveStart keeps what was recorded as the newest of maxStarts files.
func (r *Reader) saveStart() error {
	t, _ := r.Recorded()
	if len(t.Runs) == 0 {
		return nil
	}
	b, err := t.Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.spec.Record, 0o700); err != nil {
		return err
	}
	files, err := os.ReadDir(r.spec.Record)
	if err != nil {
		return err
	}
	next := 1
	for _, f := range files {
		if n, err := strconv.Atoi(f.Name()); err == nil {
			next = max(next, n+1)
		}
	}
	for _, f := range files[:max(0, len(files)-maxStarts+1)] {
		if err := os.Remove(filepath.Join(r.spec.Record, f.Name())); err != nil {
			return err
		}
	}
	return atomicfile.Write(filepath.Join(r.spec.Record, fmt.Sprintf("%09d", next)), b, 0o600)
}

// Report is what the data server shows about the image.
func (r *Reader) Report() json.RawMessage {
	b, err := json.Marshal(r.Stats())
	if err != nil {
		return nil
	}
	return b
}

func (o *Opener) blockEvent(e block.Event) {
	if errors.Is(e.Err, fault.NotFound) {
		return // a local store that has no packs is normal
	}
	o.event(e.Source, string(e.Kind), e.Err)
}

func (o *Opener) fetchEvent(e fetch.Event) { o.event(e.Image, string(e.Kind), e.Err) }

func (o *Opener) event(source, kind string, err error) {
	if o.OnEvent != nil {
		o.OnEvent(source, kind, err)
	}
	o.logger().Warn("source failed", "kind", kind, "source", source, "error", err)
}

func (o *Opener) logger() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

// Sources opens directories and URLs as mirrors, best first.
func Sources(places []string, onEvent func(block.Event)) (*block.Mirrors, error) {
	var out []block.Source
	for _, p := range places {
		if strings.Contains(p, "://") {
			h, err := block.NewHTTP(p, nil, 0)
			if err != nil {
				return nil, err
			}
			out = append(out, block.Source{Name: p, Bucket: h})
			continue
		}
		out = append(out, block.Source{Name: p, Bucket: block.OpenDir(p), Near: true})
	}
	return block.NewMirrors(onEvent, out...), nil
}

// Slot is Open as a data server calls it.
func (o *Opener) Slot(s dataserver.Slot) (dataserver.Reader, error) {
	var spec Spec
	if err := json.Unmarshal(s.Spec, &spec); err != nil {
		return nil, fault.Errorf(fault.Invalid, "open image %s: %w", s.Name, err)
	}
	return o.Open(spec)
}
