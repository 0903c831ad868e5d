// Package client reads images from hubs and their mirrors and publishes to a
// hub.
//
// A Client is a read-only block.Bucket over one or more base addresses; the
// first one is the hub that uploads go to, the others are mirrors, which may be
// plain file servers. What has a name or a signature is checked while it is
// read, and a source that serves something else is passed over. Names resolve
// to signed pointers; the highest version seen is remembered, and an older one
// is refused.
//
//	c, err := client.New([]string{"http://127.0.0.1:8480"}, client.Options{State: "hubs.json"})
//	report, err := c.Push(ctx, block.OpenDir("images"), id, client.PushOptions{Key: key, Name: "web"})
//	pointer, err := c.Resolve(ctx, key.Public().Address(), "web", "")
//	report, err := c.Pull(ctx, block.OpenDir("copy"), pointer.ID, client.PullOptions{})
//
// The package doesn't mount and keeps no cache; see flist/mount and block/cache.
package client

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub/protocol"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// Options of a Client. The zero value works.
type Options struct {
	// State is the path of the file that remembers the versions of names; empty:
	// nothing is remembered and a rollback isn't noticed.
	State string
	// Transport may be nil.
	Transport http.RoundTripper
	// Timeout of one read; 0 is block.HTTPTimeout.
	Timeout time.Duration
	// Parallel is how many packs move at a time; 0 is 3.
	Parallel int
	// Retry waits between tries of an upload; the zero value of its fields is
	// explained there. Its Bucket is not used.
	Retry block.Retry
	// OnEvent hears of sources that failed or lied; it may be nil.
	OnEvent func(block.Event)
	// Clock may be nil.
	Clock clock.Clock
}

// Client is a set of mirrors and the hub to publish on.
type Client struct {
	opt     Options
	base    *url.URL // of the hub
	http    http.Client
	sources []block.Source
	mirrors *block.Mirrors
	state   *state
}

var _ block.Bucket = (*Client)(nil)

// New returns a client of the hub at the first address and of the mirrors at
// the others.
func New(baseURLs []string, opt Options) (*Client, error) {
	if len(baseURLs) == 0 {
		return nil, fault.Errorf(fault.Invalid, "open hub: no address; give one such as http://127.0.0.1:8480")
	}
	if opt.Clock == nil {
		opt.Clock = clock.System{}
	}
	if opt.Parallel <= 0 {
		opt.Parallel = 3
	}
	if opt.Transport == nil {
		opt.Transport = &http.Transport{
			MaxIdleConnsPerHost:   16,
			IdleConnTimeout:       90 * time.Second,
			ResponseHeaderTimeout: 2 * time.Minute, // a hub checks an upload before it answers
			ExpectContinueTimeout: 2 * time.Second,
			TLSHandshakeTimeout:   10 * time.Second,
			ForceAttemptHTTP2:     true,
		}
	}
	c := &Client{opt: opt, state: &state{path: opt.State}}
	for _, b := range baseURLs {
		h, err := block.NewHTTP(b, opt.Transport, opt.Timeout)
		if err != nil {
			return nil, fault.Errorf(fault.Of(err), "open hub: %w", err)
		}
		c.sources = append(c.sources, block.Source{Name: strings.TrimSuffix(b, "/"), Bucket: h})
	}
	u, err := url.Parse(baseURLs[0])
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	c.base = u
	c.http = http.Client{Transport: opt.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	c.mirrors = block.NewMirrors(opt.OnEvent, c.sources...)
	return c, nil
}

// Mirrors are the sources of c, for readers that check what they read
// themselves.
func (c *Client) Mirrors() *block.Mirrors { return c.mirrors }

// audience is what uploads are signed for: host, port unless it is the scheme's
// default, and base path.
func (c *Client) audience() string {
	host := strings.ToLower(c.base.Host)
	switch {
	case c.base.Scheme == "https":
		host = strings.TrimSuffix(host, ":443")
	case c.base.Scheme == "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return host + c.base.Path
}

// Read implements block.Bucket. Whole roots, objects that aren't sealed,
// pointers and signatures are checked, and come from another source if the
// first one serves something else.
func (c *Client) Read(ctx context.Context, key string, off, size int64) ([]byte, error) {
	check := checkOf(key, size)
	if check == nil || off != 0 {
		return c.mirrors.Read(ctx, key, off, size)
	}
	return c.mirrors.ReadChecked(ctx, key, off, size, check)
}

// checkOf is how the whole file at key, of at most limit bytes, is checked; nil
// if it can't be.
func checkOf(key string, limit int64) func([]byte) error {
	parts := strings.Split(key, "/")
	if len(parts) < 2 {
		return nil
	}
	if parts[0] == "f" || parts[0] == "g" || parts[0] == "h" {
		return func(b []byte) error {
			p, _, err := flist.OpenPointer(b)
			if err == nil && p.Key() != key && flist.HistoryKey(p.Owner, p.Name, p.Seq) != key {
				err = fault.Errorf(fault.Denied, "it is the pointer of %s", p.Key())
			}
			return err
		}
	}
	n, err := block.ParseName(parts[1])
	if err != nil || len(parts) != 2 {
		return nil
	}
	switch parts[0] {
	case "r":
		return func(b []byte) error {
			if got := block.Sum(b); got != n {
				return fault.Errorf(fault.Invalid, "it is the root of image %v", got)
			}
			return nil
		}
	case "o":
		return func(b []byte) error {
			if int64(len(b)) == limit {
				return nil // perhaps a part of it; who asked for it sees that
			}
			if !protocol.IsFrame(b) {
				return nil // sealed: the tenant checks it
			}
			return protocol.CheckObject(b, n, min(limit, flist.MaxObject))
		}
	case "s":
		return func(b []byte) error { _, err := flist.OpenSignatures(b, n); return err }
	}
	return nil
}

// Stat implements block.Bucket.
func (c *Client) Stat(ctx context.Context, key string) (int64, error) {
	return c.mirrors.Stat(ctx, key)
}
