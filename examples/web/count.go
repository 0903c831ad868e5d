package main

import (
	"io"
	"net/http"
	"sync/atomic"
)

// countedBody counts the bytes of a body as they are read.
type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// countingTransport counts the bytes of all bodies that a client receives.
type countingTransport struct {
	inner http.RoundTripper
	bytes atomic.Int64
}

func (t *countingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.inner.RoundTrip(req)
	if err == nil {
		resp.Body = &countedBody{resp.Body, &t.bytes}
	}
	return resp, err
}
