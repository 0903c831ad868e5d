// Package hub publishes images over plain HTTP and takes signed uploads.
//
// A hub is an http.Handler over a block.Bucket. Reading needs nothing else: the
// keys of the bucket are the paths, so any static web server or CDN over the
// same files is a full mirror. The hub adds queries that save round trips
// (/have, /locate, /batch, /c), uploads signed with a publisher's key, names
// that never go back to an older version, collection of what no name needs,
// and web pages.
//
// It guarantees that nothing becomes visible before it is checked: a pack after
// every body it can open, an object after its name, an image after all it
// names is present, a name after its image. It keeps no secrets and can't read
// private images. One process owns a bucket; readers may be many.
//
//	h, err := hub.New(ctx, hub.Config{Store: bucket, Publishers: "publishers"})
//	defer h.Close()
//	http.ListenAndServe("127.0.0.1:8480", h)
//
// Serve does that with limits, TLS and a graceful end. The protocol is
// specified in docs/reference/hub.md.
package hub

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub/protocol"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// Config is what a hub is made of. Only Store is required.
type Config struct {
	Store block.Bucket
	// Publishers is the path of the publishers file; empty: no uploads.
	Publishers string
	// Audience lists the names that publishers use for this hub: host[:port] and
	// the base path, if any ("hub.example.org"). Empty: the address that a
	// request arrived at, which is enough where nothing stands before the hub.
	Audience []string
	// Title is shown on the pages; empty: "Image hub".
	Title string
	// URL is where people reach the pages, for the commands they show; empty:
	// the scheme and host of the request.
	URL string
	// Temp is a directory for uploads under way; empty: the system's. The files
	// have no name, so nothing is left there.
	Temp string
	// MaxMetadata bounds the plain bytes of metadata and of the map of an image
	// that this hub takes; 0: 256 MiB.
	MaxMetadata int64
	// Keep is the history that collection leaves; the zero value keeps all.
	Keep Keep
	// Log may be nil.
	Log *slog.Logger
	// Clock may be nil.
	Clock clock.Clock

	// The rest is for Serve.

	Listen    string // "127.0.0.1:8480" if empty
	Cert, Key string // TLS certificate and key files; both or none
	// Ready, if not nil, is called with the base URL once the hub listens.
	Ready func(url string)
	// CollectEvery is the length of an epoch; 0: collection is not run.
	CollectEvery time.Duration
}

// Server is a hub. Close it when no request is under way any more.
type Server struct {
	cfg   Config
	store block.Bucket
	log   *slog.Logger
	clock clock.Clock
	mux   *http.ServeMux
	doc   []byte // openapi.json

	pubs    *publishers
	index   *index
	gallery *gallery

	uploads chan struct{} // slots for uploads under way
	checks  chan struct{} // slots for images being checked

	// collect is held for reading while something becomes visible and for
	// writing while unused things are deleted.
	collect sync.RWMutex
	// names serialises changes of pointers and signatures.
	names sync.Mutex
	// starts serialises what makes start files.
	starts sync.Mutex
	waste  waste
	// collecting is held by the one collection that may run.
	collecting sync.Mutex
}

const (
	maxUploads = 16
	maxChecks  = 2
)

// New opens a hub over cfg.Store. It reads the accounts of the publishers; a
// publishers file that can't be used is an error here and only logged later.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Store == nil {
		return nil, fault.Errorf(fault.Invalid, "open hub: no store; give a directory or a bucket")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Title == "" {
		cfg.Title = "Image hub"
	}
	if cfg.MaxMetadata <= 0 {
		cfg.MaxMetadata = 256 << 20
	}
	s := &Server{
		cfg: cfg, store: cfg.Store, log: cfg.Log, clock: cfg.Clock,
		pubs:    &publishers{path: cfg.Publishers, store: cfg.Store},
		index:   newIndex(cfg.Store),
		uploads: make(chan struct{}, maxUploads),
		checks:  make(chan struct{}, maxChecks),
	}
	if err := s.pubs.fileError(); err != nil {
		return nil, fault.Errorf(fault.Of(err), "open hub: %w", err)
	}
	if err := s.pubs.count(ctx); err != nil {
		return nil, fault.Errorf(fault.Of(err), "open hub: %w", err)
	}
	if err := s.waste.load(ctx, cfg.Store); err != nil {
		return nil, fault.Errorf(fault.Of(err), "open hub: %w", err)
	}
	var err error
	if s.gallery, err = newGallery(s); err != nil {
		return nil, err
	}
	s.mux, s.doc = s.routes()
	return s, nil
}

// Close ends background work.
func (s *Server) Close() error { return nil }

// ServeHTTP answers one request. It never blocks longer than the deadlines of
// limits.go, if the server supports deadlines.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := s.clock.Now()
	rec := &recorder{ResponseWriter: w}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	l, r := newLimits(rec, r)
	l.start()
	defer func() {
		p := recover()
		level := slog.LevelInfo
		if rec.status == 500 || p != nil && p != http.ErrAbortHandler {
			level = slog.LevelError
		}
		s.log.LogAttrs(r.Context(), level, "request",
			slog.String("method", r.Method), slog.String("path", r.URL.Path),
			slog.Int("status", rec.status), slog.Int64("bytes", rec.bytes),
			slog.String("remote", r.RemoteAddr), slog.Duration("took", clock.Since(s.clock, start)))
		if p != nil {
			panic(p)
		}
	}()
	s.mux.ServeHTTP(rec, r)
}

// fail answers with err, as a problem document. Errors that are the hub's own
// are logged and told without their text.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	kind := fault.Of(err)
	detail := err.Error()
	var missing *protocol.MissingError
	var keys []string
	if errors.As(err, &missing) {
		keys = missing.Keys
	}
	if kind == fault.Internal {
		s.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		detail = "the hub has a problem of its own; its log says which"
	}
	if kind == fault.Unavailable {
		w.Header().Set("Retry-After", "2")
	}
	protocol.WriteProblem(w, kind, detail, keys)
}

// recorder remembers what was answered, for the log.
type recorder struct {
	http.ResponseWriter
	status  int
	bytes   int64
	onWrite func(n int)
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 || r.status < 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	if r.onWrite != nil {
		r.onWrite(n)
	}
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// openImage is the image with all but its content, for checks.
func (s *Server) openImage(ctx context.Context, id flist.ID) (*flist.Image, error) {
	return flist.Open(ctx, s.store, id, flist.OpenOptions{})
}
