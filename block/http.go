package block

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"zos.internal/internal/fault"
)

// HTTPTimeout is how long one request of HTTP may take unless it says otherwise.
// An answer of more than a few megabytes gets a second more for each half MiB, so
// a slow line is no failure and a server that only drips is one.
const HTTPTimeout = 60 * time.Second

// HTTP is a read-only Bucket on a web server: a hub, a static file server or a
// content delivery network. Each Read is one GET of a range, each Stat one HEAD.
// An answer that is not exactly the range that was asked for is an error, and
// never more than that range is kept. Redirects to another host or from https to
// http are refused.
type HTTP struct {
	base    *url.URL
	client  http.Client
	timeout time.Duration
}

var (
	_ Bucket = (*HTTP)(nil)
	_ Opener = (*HTTP)(nil)
)

// NewHTTP reads below the address base, http or https. transport may be nil for
// a default one that doesn't use proxies of the environment; timeout 0 is
// HTTPTimeout.
func NewHTTP(base string, transport http.RoundTripper, timeout time.Duration) (*HTTP, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fault.Errorf(fault.Invalid, "the address %q is not of the form http://HOST/PATH or https://HOST/PATH", base)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	if transport == nil {
		transport = &http.Transport{
			MaxIdleConnsPerHost:   16,
			IdleConnTimeout:       90 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			TLSHandshakeTimeout:   10 * time.Second,
			ForceAttemptHTTP2:     true,
		}
	}
	if timeout <= 0 {
		timeout = HTTPTimeout
	}
	h := &HTTP{base: u, timeout: timeout}
	h.client = http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if r.URL.Host != u.Host || r.URL.Scheme != u.Scheme {
			return fault.Errorf(fault.Denied, "it redirects to another server, %s://%s; give that address instead", r.URL.Scheme, r.URL.Host)
		}
		if len(via) > 4 {
			return fault.Errorf(fault.Invalid, "it redirects too often")
		}
		return nil
	}}
	return h, nil
}

func (h *HTTP) do(ctx context.Context, method, key, ranges string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, h.base.JoinPath(key).String(), nil)
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		kind := fault.Unavailable
		for _, k := range []fault.Kind{fault.Denied, fault.Invalid} {
			if errors.Is(err, k) {
				kind = k
			}
		}
		return nil, fault.Errorf(kind, "read %s: %w", key, err)
	}
	return resp, nil
}

// status turns an answer that is no success into an error.
func (h *HTTP) status(key string, resp *http.Response) error {
	kind := fault.FromHTTPStatus(resp.StatusCode)
	switch {
	case resp.StatusCode == 404 || resp.StatusCode == 410:
		kind = fault.NotFound
	case resp.StatusCode >= 500 || resp.StatusCode == 429 || resp.StatusCode == 408:
		kind = fault.Unavailable
	case resp.StatusCode < 400:
		kind = fault.Invalid
	}
	return fault.Errorf(kind, "read %s from %s: the server answered %s", key, h.base.Redacted(), resp.Status)
}

// Read implements Bucket.
func (h *HTTP) Read(ctx context.Context, key string, off, size int64) ([]byte, error) {
	r, err := h.open(ctx, key, off, size)
	if err != nil || r == nil {
		return nil, err
	}
	defer r.Close()
	if r.want < 0 {
		return io.ReadAll(r)
	}
	b, err := readExactly(r, int(r.want))
	if err == io.ErrUnexpectedEOF {
		err = h.bodyErr(key, err)
	}
	if err == nil {
		_, err = r.Read(make([]byte, 1)) // the end, or more than was announced
		if err == io.EOF {
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Open implements Opener.
func (h *HTTP) Open(ctx context.Context, key string, off, size int64) (io.ReadCloser, error) {
	r, err := h.open(ctx, key, off, size)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return r, nil
}

// body is an answer under way.
type body struct {
	h      *HTTP
	key    string
	resp   *http.Response
	want   int64 // bytes that were announced; -1: it ends where it ends
	left   int64 // bytes that are still read
	exact  bool  // more than that is an error
	end    error
	slow   *time.Timer
	cancel context.CancelCauseFunc
}

func (b *body) Read(p []byte) (n int, err error) {
	if b.end != nil {
		return 0, b.end
	}
	defer func() { b.end = err }()
	if b.left == 0 {
		if n, _ := io.ReadFull(b.resp.Body, make([]byte, 1)); n > 0 && b.exact {
			return 0, fault.Errorf(fault.Invalid, "read %s from %s: the server sent more than the %d bytes it announced", b.key, b.h.base.Redacted(), b.want)
		}
		return 0, io.EOF
	}
	n, err = b.resp.Body.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case err == io.EOF && (b.want < 0 || b.left == 0):
		b.left = 0
		return n, nil // the next call says it
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	case err == nil:
		return n, nil
	}
	return n, b.h.bodyErr(b.key, err)
}

func (b *body) Close() error {
	b.slow.Stop()
	defer b.cancel(nil)
	return b.resp.Body.Close()
}

// open asks for a range and checks the header of the answer; nil without an
// error says that there is nothing in the range.
func (h *HTTP) open(ctx context.Context, key string, off, size int64) (_ *body, err error) {
	if err := checkRange(key, off, size); err != nil {
		return nil, err
	}
	if size == 0 {
		_, err := h.Stat(ctx, key)
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	slow := time.AfterFunc(h.timeout, func() {
		cancel(fault.Errorf(fault.Unavailable, "the server took too long"))
	})
	b := &body{h: h, key: key, want: -1, slow: slow, cancel: cancel}
	defer func() {
		if err == nil && b.left > 0 {
			slow.Reset(h.timeout + time.Duration(b.left>>19)*time.Second)
			return
		}
		slow.Stop()
		if b.resp != nil {
			b.resp.Body.Close()
		}
		cancel(nil)
	}()
	resp, err := h.do(ctx, "GET", key, fmt.Sprintf("bytes=%d-%d", off, off+size-1))
	if err != nil {
		return nil, err
	}
	b.resp = resp
	bad := func(format string, args ...any) (*body, error) {
		return nil, fault.Errorf(fault.Invalid, "read %s from %s: "+format, append([]any{key, h.base.Redacted()}, args...)...)
	}
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return bad("the server encoded the answer as %q though it was not asked to", enc)
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		first, last, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
		if !ok || first != off || last >= off+size || last < first || total >= 0 && last >= total {
			return bad("the server answered the range %.80q", resp.Header.Get("Content-Range"))
		}
		b.want = last - first + 1
		if b.want < size && last != total-1 {
			return bad("the server answered only %d of %d bytes", b.want, size)
		}
		b.left, b.exact = b.want, true
		return b, nil
	case http.StatusOK:
		// The server ignored the range. That is no harm at the start of a file, or
		// behind its end as with an empty file.
		if off > 0 && resp.ContentLength >= 0 && resp.ContentLength <= off {
			return nil, nil
		}
		if off > 0 {
			return nil, fault.Errorf(fault.Unsupported, "read %s from %s: the server doesn't serve ranges; use one that does", key, h.base.Redacted())
		}
		if resp.ContentLength == 0 {
			return nil, nil
		}
		// Where its length was not announced, the end is where it ends, unless the
		// connection broke before.
		b.left = size
		if resp.ContentLength > 0 {
			b.want = min(size, resp.ContentLength)
			b.left = b.want
		}
		return b, nil
	case http.StatusRequestedRangeNotSatisfiable:
		if s, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes */"); ok {
			if total, err := strconv.ParseInt(s, 10, 64); err == nil && total >= 0 && total <= off {
				return nil, nil
			}
		}
		return bad("the server refused the range %d+%d", off, size)
	}
	return nil, h.status(key, resp)
}

func (h *HTTP) bodyErr(key string, err error) error {
	if err == nil {
		return nil
	}
	return fault.Errorf(fault.Unavailable, "read %s from %s: the answer broke off: %w", key, h.base.Redacted(), err)
}

// parseContentRange reads "bytes FIRST-LAST/TOTAL"; total is -1 for "*".
func parseContentRange(s string) (first, last, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, all, ok2 := strings.Cut(s, "/")
	a, b, ok3 := strings.Cut(span, "-")
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	total, err3 := strconv.ParseInt(all, 10, 64)
	if all == "*" {
		total, err3 = -1, nil
	}
	return first, last, total, ok && ok2 && ok3 && err1 == nil && err2 == nil && err3 == nil && first >= 0
}

// Stat implements Bucket.
func (h *HTTP) Stat(ctx context.Context, key string) (int64, error) {
	if err := CheckKey(key); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	resp, err := h.do(ctx, "HEAD", key, "")
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, h.status(key, resp)
	}
	if resp.ContentLength < 0 {
		return 0, fault.Errorf(fault.Unsupported, "stat %s at %s: the server doesn't tell the length", key, h.base.Redacted())
	}
	return resp.ContentLength, nil
}

// List is Unsupported: web servers don't list.
func (h *HTTP) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		yield("", fault.Errorf(fault.Unsupported, "list %q at %s: a web server can't be listed", prefix, h.base.Redacted()))
	}
}

// Write is Unsupported; a hub takes uploads through its own client.
func (h *HTTP) Write(ctx context.Context, key string, r io.Reader) error {
	return fault.Errorf(fault.Unsupported, "write %s: a web server is read only; upload to a hub instead", key)
}

// Delete is Unsupported.
func (h *HTTP) Delete(ctx context.Context, key string) error {
	return fault.Errorf(fault.Unsupported, "delete %s: a web server is read only", key)
}
