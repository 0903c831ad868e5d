package store

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"zos.internal/internal/fault"
)

// HTTP is a store on a web server, for reading: a block is at
// <base>/<id[0:2]>/<id>, or at <base>/<id> as old stores have it. A server
// that does not answer or answers 5xx is asked three times.
type HTTP struct {
	base   *url.URL
	client *http.Client
	pause  time.Duration // before the second try; doubled before the third
}

const (
	httpTries   = 3
	httpTimeout = time.Minute // for one block
)

// OpenHTTP opens the store at http://host/path or https://host/path. It does
// not ask the server yet.
func OpenHTTP(_ context.Context, s string) (Store, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return nil, fault.Errorf(fault.Invalid, "open the store %.80q: it is not a URL as http://host/path", hide(s))
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 16
	return &HTTP{base: u, client: &http.Client{Transport: t, Timeout: httpTimeout}, pause: 200 * time.Millisecond}, nil
}

// Get asks for the block at its path, then at the old one.
func (h *HTTP) Get(ctx context.Context, id ID) ([]byte, error) {
	name := id.String()
	b, err := h.retry(ctx, h.base.JoinPath(name[:2], name))
	if errors.Is(err, fault.NotFound) {
		b, err = h.retry(ctx, h.base.JoinPath(name))
	}
	return b, err
}

// Close ends the idle connections.
func (h *HTTP) Close() error {
	h.client.CloseIdleConnections()
	return nil
}

func (h *HTTP) retry(ctx context.Context, u *url.URL) ([]byte, error) {
	pause := h.pause
	for try := 1; ; try++ {
		b, err := h.get(ctx, u)
		if err == nil || !errors.Is(err, fault.Unavailable) || try == httpTries || ctx.Err() != nil {
			return b, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, err
		}
		pause *= 2
	}
}

func (h *HTTP) get(ctx context.Context, u *url.URL) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	res, err := h.client.Do(req)
	if err != nil {
		return nil, fault.As(fault.Unavailable, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		_, _ = io.CopyN(io.Discard, res.Body, 4096) // so that the connection is used again
		kind := fault.FromHTTPStatus(res.StatusCode)
		if res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests {
			kind = fault.Unavailable
		}
		return nil, fault.Errorf(kind, "GET %s: %s", u.Redacted(), res.Status)
	}
	if res.ContentLength > maxStored {
		return nil, fault.Errorf(fault.Invalid, "GET %s: %d bytes, a block has at most %d", u.Redacted(), res.ContentLength, maxStored)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxStored+1))
	if err != nil {
		return nil, fault.Errorf(fault.Unavailable, "GET %s: %w", u.Redacted(), err)
	}
	return b, nil
}
