package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"zos.internal/internal/fault"
)

const (
	defaultListen = "127.0.0.1:8480"
	maxHeader     = 16 << 10
	maxConns      = 4096 // at a time; further ones wait in the kernel's queue
	graceful      = 20 * time.Second
)

// Serve runs a hub until ctx ends, then lets requests under way finish for a
// while. It listens on loopback unless cfg.Listen says otherwise.
func Serve(ctx context.Context, cfg Config) error {
	if cfg.Listen == "" {
		cfg.Listen = defaultListen
	}
	if (cfg.Cert == "") != (cfg.Key == "") {
		return fault.Errorf(fault.Invalid, "serve hub: a TLS certificate and its key go together; give both files or none")
	}
	var tlsConfig *tls.Config
	if cfg.Cert != "" {
		pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
		if err != nil {
			return fault.Errorf(fault.Invalid, "serve hub: read the TLS certificate: %w", err)
		}
		tlsConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	s, err := New(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return fault.Errorf(fault.Unavailable, "serve hub: listen on %s; choose another address with --listen: %w", cfg.Listen, err)
	}
	return s.serve(ctx, l, tlsConfig)
}

func (s *Server) serve(ctx context.Context, l net.Listener, tlsConfig *tls.Config) error {
	// Requests outlive ctx for the time of the graceful end.
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	srv := &http.Server{
		Handler:           s,
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       patience,
		WriteTimeout:      2 * patience,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	scheme := "http"
	if tlsConfig != nil {
		scheme = "https"
	}
	url := scheme + "://" + l.Addr().String()
	s.log.InfoContext(ctx, "hub is serving", "url", url, "uploads", s.cfg.Publishers != "")
	if s.cfg.Ready != nil {
		s.cfg.Ready(url)
	}
	collector := make(chan struct{})
	go func() {
		defer close(collector)
		s.collectEvery(ctx)
	}()
	l = netutil.LimitListener(l, maxConns)
	served := make(chan error, 1)
	go func() {
		if tlsConfig != nil {
			served <- srv.ServeTLS(l, "", "")
			return
		}
		served <- srv.Serve(l)
	}()
	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceful)
		defer cancel()
		if err = srv.Shutdown(end); err != nil {
			err = errors.Join(fault.Errorf(fault.Unavailable, "stop hub: requests did not end in %v and were cut off: %w", graceful, err), srv.Close())
		}
		<-served
	}
	stop()
	<-collector
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *Server) collectEvery(ctx context.Context) {
	if s.cfg.CollectEvery <= 0 {
		return
	}
	t := time.NewTicker(s.cfg.CollectEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if _, err := s.Collect(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "collection failed", "error", err)
		}
	}
}
