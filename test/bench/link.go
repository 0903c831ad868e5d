package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"zos.internal/internal/clock"
)

// link is a slow line in front of a server: one rate for all connections
// together, and half of the round trip in each direction.
type link struct {
	name string
	rate float64 // bytes per second towards the client
	rtt  time.Duration
}

func links() []link {
	return []link{{"100 Mbit/s, 20 ms", 100e6 / 8, 20 * time.Millisecond}, {"1 Gbit/s, 5 ms", 1e9 / 8, 5 * time.Millisecond}}
}

// serve forwards connections to target until ctx ends and returns the address.
func (l link) serve(ctx context.Context, target string) (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	down := &shaper{rate: l.rate}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go l.forward(ctx, c, target, down)
		}
	}()
	return ln.Addr().String(), nil
}

func (l link) forward(ctx context.Context, c net.Conn, target string, down *shaper) {
	defer c.Close()
	s, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { c.Close(); s.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { delayed(s, c, l.rtt/2, &shaper{rate: 1e12}); s.(*net.TCPConn).CloseWrite() })
	wg.Go(func() { delayed(c, s, l.rtt/2, down); c.(*net.TCPConn).CloseWrite() })
	wg.Wait()
}

// shaper gives each piece its time on the line.
type shaper struct {
	rate float64
	mu   sync.Mutex
	free time.Time
}

func (s *shaper) take(n int) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := clock.System{}.Now()
	if s.free.Before(now) {
		s.free = now
	}
	s.free = s.free.Add(time.Duration(float64(n) / s.rate * float64(time.Second)))
	return s.free
}

type piece struct {
	b  []byte
	at time.Time
}

// delayed copies src to dst, each piece when the line has carried it.
func delayed(dst io.Writer, src io.Reader, delay time.Duration, s *shaper) {
	queue := make(chan piece, 256)
	go func() {
		defer close(queue)
		for {
			b := make([]byte, 16<<10)
			n, err := src.Read(b)
			if n > 0 {
				queue <- piece{b[:n], s.take(n).Add(delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range queue {
		if wait := p.at.Sub(clock.System{}.Now()); wait > 0 {
			time.Sleep(wait)
		}
		if _, err := dst.Write(p.b); err != nil {
			for range queue { // let the reader end
			}
			return
		}
	}
}

// counter counts the requests that pass an HTTP handler.
type counter struct {
	next http.Handler
	n    atomic.Int64
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.n.Add(1)
	c.next.ServeHTTP(w, r)
}
