package engine

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	"zos.internal/chain"
	"zos.internal/internal/fault"
)

// Limits of the server.
const (
	maxHeader   = 16 << 10
	maxConns    = 2048             // at a time; further ones wait in the kernel's queue
	submitWait  = 10 * time.Second // for a transaction to be in a block
	proofWait   = 5 * time.Second  // for the header that proves a state
	maxStreams  = 256              // clients that follow events
	streamQuiet = 15 * time.Second // between signs of life on a stream
	streamWrite = 10 * time.Second // for a slow reader to take an event
	pageDefault = 50
	pageMost    = 500
	graceful    = 10 * time.Second
)

// server is the HTTP interface of a node.
type server struct {
	n       *Node
	streams atomic.Int32
	doc     []byte
}

// Handler serves /v1: records with proofs, lists, transactions and events. The
// document of it is at /v1/openapi.json.
func (n *Node) Handler() http.Handler {
	s := &server{n: n}
	return s.mux()
}

// mux routes; a path that isn't there and a method that isn't possible are
// problems like others.
func (s *server) mux() http.Handler {
	mux := http.NewServeMux()
	table := s.table()
	s.doc = document(table)
	methods := make(map[string][]string)
	for _, r := range table {
		mux.HandleFunc(r.method+" "+r.pattern, func(w http.ResponseWriter, q *http.Request) {
			v, err := r.handle(w, q)
			switch {
			case err != nil:
				s.fail(w, q, err)
			case v != nil:
				s.answer(w, q, v)
			}
		})
		methods[r.pattern] = append(methods[r.pattern], r.method)
	}
	for pattern, ms := range methods {
		allow := strings.Join(ms, ", ")
		mux.HandleFunc(pattern, func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Allow", allow)
			s.fail(w, q, fault.Errorf(fault.Unsupported, "%s is not possible on %.200s; %s is", q.Method, q.URL.Path, allow))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, q *http.Request) {
		s.fail(w, q, fault.Errorf(fault.NotFound, "there is nothing at %.200q; /v1/openapi.json says what there is", q.URL.Path))
	})
	return mux
}

func (s *server) answer(w http.ResponseWriter, r *http.Request, v any) {
	b, ok := v.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(v); err != nil {
			s.fail(w, r, fault.As(fault.Internal, err))
			return
		}
		b = append(b, '\n')
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(b) // a client that went away needs no answer
}

func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	kind, detail := fault.Of(err), err.Error()
	if kind == fault.Internal {
		s.n.cfg.Log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		detail = "the chain server has a problem of its own; its log says which"
	}
	if kind == fault.Unavailable {
		w.Header().Set("Retry-After", "2")
	}
	writeProblem(w, kind, detail)
}

func writeProblem(w http.ResponseWriter, kind fault.Kind, detail string) {
	status := kind.HTTPStatus()
	b, err := json.Marshal(chain.Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Kind: string(kind)})
	if err != nil {
		panic("engine: problem: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// Serve runs a node with its HTTP interface until ctx ends or the chain stands.
// ready is called with the URL when both work.
func Serve(ctx context.Context, cfg Config, listen string, ready func(n *Node, url string)) error {
	if listen == "" {
		listen = DefaultListen
	}
	// The address is taken first: when it can't be, nothing was started.
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return fault.Errorf(fault.Unavailable, "serve chain: listen on %s; choose another address with --listen: %w", listen, err)
	}
	n, err := Start(ctx, cfg)
	if err != nil {
		l.Close()
		return err
	}
	err = n.serve(ctx, l, ready)
	return errors.Join(err, n.Close())
}

// DefaultListen is where a node serves HTTP unless it is told otherwise.
const DefaultListen = "127.0.0.1:8490"

func (n *Node) serve(ctx context.Context, l net.Listener, ready func(n *Node, url string)) error {
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	srv := &http.Server{
		Handler:           n.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(n.cfg.Log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(netutil.LimitListener(l, maxConns)) }()
	url := "http://" + l.Addr().String()
	n.cfg.Log.InfoContext(ctx, "chain is serving", "url", url, "chain", n.Chain(), "height", n.tree.Height())
	if ready != nil {
		ready(n, url)
	}
	var err error
	select {
	case err = <-served:
		served <- err
	case <-n.Done():
		err = n.Err()
	case <-ctx.Done():
	}
	stop() // streams end, requests that wait give up
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceful)
	defer cancel()
	if serr := srv.Shutdown(end); serr != nil {
		srv.Close()
	}
	if serr := <-served; err == nil && !errors.Is(serr, http.ErrServerClosed) {
		err = serr
	}
	return err
}
