package client_test

import (
	"bytes"
	"net/http"
	"sync"
	"testing"

	"zos.internal/block"
)

// counts is a handler that counts what it passes on.
type counts struct {
	next http.Handler
	mu   sync.Mutex
	n    map[string]int // "PUT p", "POST have"
}

func (c *counts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	what := r.URL.Path[1:]
	if len(what) > 1 && what[1] == '/' {
		what = what[:1]
	}
	c.n[r.Method+" "+what]++
	c.mu.Unlock()
	c.next.ServeHTTP(w, r)
}

func (c *counts) get(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[what]
}

func write(t testing.TB, to block.Bucket, key string, b []byte) {
	t.Helper()
	if err := to.Write(t.Context(), key, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
}
