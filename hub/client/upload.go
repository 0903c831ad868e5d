package client

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"lukechampine.com/blake3"

	"zos.internal/block"
	"zos.internal/hub/protocol"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

const (
	uploadLifetime = 10 * time.Minute
	queryTimeout   = 2 * time.Minute
	maxAnswer      = 8 << 20
)

// post asks the hub. limit bounds the answer.
func (c *Client) post(ctx context.Context, path string, q protocol.Query, limit int64) (answer []byte, err error) {
	err = c.again(ctx, func() error {
		resp, cancel, err := c.do(ctx, path, q)
		if err != nil {
			return err
		}
		defer cancel()
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
		if err != nil {
			return fault.Errorf(fault.Unavailable, "post %s to %s: %w", path, c.base.Redacted(), err)
		}
		if int64(len(b)) > limit {
			return fault.Errorf(fault.Invalid, "post %s to %s: the answer has more than %d bytes", path, c.base.Redacted(), limit)
		}
		answer = b
		return nil
	})
	return answer, err
}

// do posts a query and returns a response that is a success.
func (c *Client) do(ctx context.Context, path string, q protocol.Query) (*http.Response, context.CancelFunc, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath(path).String(), bytes.NewReader(canon.MustMarshal(q)))
	if err != nil {
		cancel()
		return nil, nil, fault.As(fault.Invalid, err)
	}
	req.Header.Set("Content-Type", protocol.TypeCBOR)
	resp, err := c.http.Do(req)
	if err != nil {
		cancel()
		return nil, nil, fault.Errorf(fault.Unavailable, "post %s to %s: %w", path, c.base.Redacted(), err)
	}
	if resp.StatusCode != http.StatusOK {
		err := protocol.ReadProblem(resp, "post "+path+" to "+c.base.Redacted())
		resp.Body.Close()
		cancel()
		return nil, nil, err
	}
	return resp, cancel, nil
}

// again repeats op while it is Unavailable, as Options.Retry says.
func (c *Client) again(ctx context.Context, op func() error) error {
	r := c.opt.Retry
	r.Bucket = operation{op: op}
	_, err := r.Stat(ctx, "op")
	return err
}

// operation lets block.Retry repeat anything.
type operation struct {
	block.Bucket
	op func() error
}

func (o operation) Stat(context.Context, string) (int64, error) { return 0, o.op() }

// have asks the hub which of the keys are there.
func (c *Client) have(ctx context.Context, keys []string) ([]bool, error) {
	var all []bool
	for len(keys) > 0 {
		n := min(len(keys), protocol.MaxHave)
		b, err := c.post(ctx, "have", protocol.Query{Keys: keys[:n]}, maxAnswer)
		if err != nil {
			return nil, err
		}
		bits, err := protocol.ParseBitmap(b, n)
		if err != nil {
			return nil, err
		}
		all = append(all, bits...)
		keys = keys[n:]
	}
	return all, nil
}

// found is where the hub has a chunk; a zero pack: nowhere.
type found struct {
	pack   block.PackRef
	off    uint64
	stored uint32
}

// locate asks the hub where it has chunks. The places are hints: the hub checks
// the locator that is made of them.
func (c *Client) locate(ctx context.Context, names []block.Name, sealed bool) (map[block.Name]found, error) {
	all := make(map[block.Name]found)
	for len(names) > 0 {
		n := min(len(names), protocol.MaxHave)
		b, err := c.post(ctx, "locate", protocol.Query{Names: names[:n], Sealed: sealed}, maxAnswer)
		if err != nil {
			return nil, err
		}
		l, err := protocol.ParseLocated(b, n)
		if err != nil {
			return nil, err
		}
		for i, p := range l.Places {
			if p.Pack != protocol.Absent && p.Stored > 0 {
				q := l.Packs[p.Pack]
				all[names[i]] = found{block.PackRef{Name: q.Name, Size: q.Size}, uint64(p.Offset), p.Stored}
			}
		}
		names = names[n:]
	}
	return all, nil
}

// uploader is the hub as a bucket to write to.
type uploader struct {
	block.Bucket
	c    *Client
	key  *identity.PrivateKey
	sent func(n int64) // bytes that went out, negative when they have to go again
}

// put uploads body, which is read twice: once for its digest.
func (u *uploader) put(ctx context.Context, key string, body io.ReadSeeker) error {
	r := u.c.opt.Retry
	r.Bucket = u
	return r.Write(ctx, key, body)
}

// Write implements the part of block.Bucket that block.Retry repeats.
func (u *uploader) Write(ctx context.Context, key string, r io.Reader) error {
	body, ok := r.(io.ReadSeeker)
	if !ok {
		return fault.Errorf(fault.Internal, "put %s: the body can't be read twice", key)
	}
	h := blake3.New(32, nil)
	size, err := io.Copy(h, body)
	if err == nil {
		_, err = body.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fault.Errorf(fault.Of(err), "put %s: read what is to be sent: %w", key, err)
	}
	up := protocol.Upload{Method: http.MethodPut, Key: key, Size: size, Audience: u.c.audience(), Expires: u.c.opt.Clock.Now().Add(uploadLifetime).Unix()}
	h.Sum(up.Digest[:0])
	// Slower than this a hub cuts the upload off itself.
	ctx, cancel := context.WithTimeout(ctx, queryTimeout+time.Duration(size/(16<<10))*time.Second)
	defer cancel()
	counted := &counter{r: body, sent: u.sent}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, u.c.base.JoinPath(key).String(), io.NopCloser(counted))
	if err != nil {
		return fault.As(fault.Invalid, err)
	}
	req.ContentLength = size
	req.Header.Set("Authorization", protocol.Sign(u.key, up))
	req.Header.Set("Content-Type", protocol.TypeBytes)
	if size > 64<<10 {
		req.Header.Set("Expect", "100-continue") // a refusal then costs no body
	}
	what := "put " + key + " to " + u.c.base.Redacted()
	resp, err := u.c.http.Do(req)
	ok = err == nil && (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusCreated)
	counted.end(ok)
	if err != nil {
		return fault.Errorf(fault.Unavailable, "%s: %w", what, err)
	}
	defer resp.Body.Close()
	if ok {
		return nil
	}
	if resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusNotFound && !strings.HasPrefix(resp.Header.Get("Content-Type"), protocol.TypeProblem) {
		return fault.Errorf(fault.Unsupported, "%s: this is a read-only mirror or another server; give the hub's own address", what)
	}
	return protocol.ReadProblem(resp, what)
}

// counter counts what is read from r. The transport may go on reading after it
// returned an answer; end keeps it off r, which the next try needs.
type counter struct {
	mu    sync.Mutex
	r     io.Reader
	sent  func(int64)
	n     int64
	ended bool
}

func (c *counter) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return 0, fault.Errorf(fault.Unavailable, "the request is over")
	}
	n, err := c.r.Read(b)
	c.n += int64(n)
	if c.sent != nil {
		c.sent(int64(n))
	}
	return n, err
}

// end stops reading. Unless the upload succeeded, what was sent doesn't count.
func (c *counter) end(ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.sent != nil && !ok && c.n > 0 {
		c.sent(-c.n)
	}
}

// bucketReader reads a file of a bucket from start to end and can go back.
type bucketReader struct {
	ctx  context.Context // of the one upload that reads it
	from block.Bucket
	key  string
	size int64
	off  int64
	buf  []byte
}

func (r *bucketReader) Read(b []byte) (int, error) {
	if r.off >= r.size {
		return 0, io.EOF
	}
	if len(r.buf) == 0 {
		n := min(1<<20, r.size-r.off)
		buf, err := r.from.Read(r.ctx, r.key, r.off, n)
		if err != nil {
			return 0, err
		}
		if int64(len(buf)) != n {
			return 0, fault.Errorf(fault.Invalid, "%s ends after %d of %d bytes", r.key, r.off+int64(len(buf)), r.size)
		}
		r.buf = buf
	}
	n := copy(b, r.buf)
	r.buf, r.off = r.buf[n:], r.off+int64(n)
	return n, nil
}

func (r *bucketReader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.off
	case io.SeekEnd:
		off += r.size
	}
	if off < 0 {
		return 0, fault.Errorf(fault.Invalid, "seek before the start")
	}
	r.off, r.buf = off, nil
	return off, nil
}

// ReadAt lets a pack be scanned.
func (r *bucketReader) ReadAt(b []byte, off int64) (int, error) {
	got, err := r.from.Read(r.ctx, r.key, off, int64(len(b)))
	n := copy(b, got)
	if err == nil && n < len(b) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
