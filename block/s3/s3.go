// Package s3 is a block.Bucket in any object store that speaks S3.
//
// It guarantees what block.Bucket promises: a Write is visible whole or not at
// all, a Read is exactly the range that was asked for. Bytes are known by their
// names in package block, so ETags and checksums of the store play no part. It
// does not repeat what fails (block.Retry does), make buckets, or use versions.
// Programs of the node don't import it.
//
//	b, err := s3.Open(s3.Config{Endpoint: "s3.example.org", Bucket: "packs", AccessKey: id, SecretKey: secret})
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// How long an operation may take. A Write has the time for each part of it that
// is sent, a Read a second more for each half MiB of the answer.
const (
	timeout  = 60 * time.Second
	partSize = 16 << 20 // bytes that are sent, and kept in memory, at a time
)

// Config says which bucket to use and how to reach it.
type Config struct {
	Endpoint  string // HOST or HOST:PORT
	Bucket    string // it exists already
	Prefix    string // of all keys, "" or ending in a slash
	Region    string // "" asks the server
	AccessKey string
	SecretKey string
	Plain     bool // http instead of https
	// Transport is used instead of the default one if it is not nil.
	Transport http.RoundTripper
}

// LogValue leaves the secret out.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// String is the address without the secret.
func (c Config) String() string {
	return fmt.Sprintf("s3 %s/%s/%s", c.Endpoint, c.Bucket, c.Prefix)
}

// GoString is String, for %#v.
func (c Config) GoString() string { return c.String() }

// Format writes String for every verb, so that no verb shows the secret.
func (c Config) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, c.String()) }

// Bucket is a bucket of an object store, or the part of it below a prefix. It is
// safe for concurrent use.
type Bucket struct {
	core   minio.Core
	name   string
	prefix string
	at     string
}

var _ block.Bucket = (*Bucket)(nil)

// Open returns the bucket of c. It sends nothing: a wrong address or key shows at
// the first operation.
func Open(c Config) (*Bucket, error) {
	if c.Prefix != "" {
		if err := block.CheckKey(strings.TrimSuffix(c.Prefix, "/")); err != nil || !strings.HasSuffix(c.Prefix, "/") {
			return nil, fault.Errorf(fault.Invalid, "open %v: the prefix must be a key that ends in a slash", c)
		}
	}
	core, err := minio.NewCore(c.Endpoint, &minio.Options{
		Creds:      credentials.NewStaticV4(c.AccessKey, c.SecretKey, ""),
		Secure:     !c.Plain,
		Region:     c.Region,
		Transport:  c.Transport,
		MaxRetries: 1,
	})
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "open %v: %w", c, err)
	}
	if c.Bucket == "" {
		return nil, fault.Errorf(fault.Invalid, "open %v: name the bucket", c)
	}
	return &Bucket{*core, c.Bucket, c.Prefix, c.String()}, nil
}

// Read implements block.Bucket.
func (b *Bucket) Read(ctx context.Context, key string, off, size int64) ([]byte, error) {
	if err := block.CheckKey(key); err != nil {
		return nil, err
	}
	if off < 0 || size < 0 || off+size < 0 {
		return nil, fault.Errorf(fault.Invalid, "read %s: %d bytes at %d is no range", key, size, off)
	}
	if size == 0 {
		_, err := b.Stat(ctx, key)
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	slow := time.AfterFunc(timeout, cancel)
	defer slow.Stop()
	var opts minio.GetObjectOptions
	opts.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+size-1))
	body, info, header, err := b.core.GetObject(ctx, b.name, b.prefix+key, opts)
	if err != nil {
		if minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
			return b.behind(ctx, key, off)
		}
		return nil, b.err("read", key, err)
	}
	defer body.Close()
	bad := func(format string, args ...any) ([]byte, error) {
		return nil, fault.Errorf(fault.Invalid, "read %s from %s: "+format, append([]any{key, b.at}, args...)...)
	}
	want := size
	if r := header.Get("Content-Range"); r != "" {
		var first, last, total int64
		if n, err := fmt.Sscanf(r, "bytes %d-%d/%d", &first, &last, &total); err != nil || n != 3 ||
			first != off || last < first || last >= min(off+size, total) || last-first+1 < size && last != total-1 {
			return bad("the server answered the range %.80q to %d+%d", r, off, size)
		}
		want = last - first + 1
	} else if off > 0 {
		return bad("the server answered no range")
	}
	slow.Reset(timeout + time.Duration(min(want, max(info.Size, 0))>>19)*time.Second)
	// Without a range the file may be shorter or longer than what was asked for.
	var buf bytes.Buffer
	n, err := io.Copy(&buf, io.LimitReader(body, want))
	if err != nil {
		return nil, fault.Errorf(fault.Unavailable, "read %s from %s: the answer broke off: %w", key, b.at, err)
	}
	if n < want && header.Get("Content-Range") != "" {
		return bad("the server sent %d of %d bytes", n, want)
	}
	return buf.Bytes(), nil
}

// behind is a Read that starts at the end of a file or after it.
func (b *Bucket) behind(ctx context.Context, key string, off int64) ([]byte, error) {
	have, err := b.Stat(ctx, key)
	if err == nil && off < have {
		err = fault.Errorf(fault.Invalid, "read %s from %s: the server refused offset %d of %d", key, b.at, off, have)
	}
	return nil, err
}

// Write implements block.Bucket. What fits in one part is sent at once, more as a
// multipart upload that is aborted if the reader fails.
func (b *Bucket) Write(ctx context.Context, key string, r io.Reader) error {
	if err := block.CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fault.Errorf(fault.Unavailable, "write %s: %w", key, err)
	}
	var first bytes.Buffer
	n, err := io.Copy(&first, io.LimitReader(r, partSize+1))
	if err != nil {
		return fault.Errorf(fault.Of(err), "write %s: %w", key, err)
	}
	if n <= partSize {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		_, err := b.core.Client.PutObject(ctx, b.name, b.prefix+key, bytes.NewReader(first.Bytes()), n, minio.PutObjectOptions{})
		return b.err("write", key, err)
	}
	return b.parts(ctx, key, io.MultiReader(&first, r))
}

// parts is a multipart upload. It is made of single calls, because the client's
// own upload of a stream takes a source that breaks off for one that ends.
func (b *Bucket) parts(ctx context.Context, key string, r io.Reader) (err error) {
	object := b.prefix + key
	step := func(f func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return b.err("write", key, f(ctx))
	}
	var id string
	if err := step(func(ctx context.Context) (err error) {
		id, err = b.core.NewMultipartUpload(ctx, b.name, object, minio.PutObjectOptions{})
		return err
	}); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		// The caller's context may have ended; the parts still cost room.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		if aerr := b.core.AbortMultipartUpload(ctx, b.name, object, id); aerr != nil {
			err = fmt.Errorf("%w (and its parts stay at the server until it expires them: %v)", err, aerr)
		}
	}()
	var done []minio.CompletePart
	buf := make([]byte, partSize)
	for end := false; !end; {
		n := 0
		for n < len(buf) && !end {
			m, rerr := r.Read(buf[n:])
			n += m
			if rerr == io.EOF {
				end = true
			} else if rerr != nil {
				return fault.Errorf(fault.Of(rerr), "write %s: %w", key, rerr)
			}
		}
		if n == 0 {
			break
		}
		if err := step(func(ctx context.Context) error {
			p, err := b.core.PutObjectPart(ctx, b.name, object, id, len(done)+1, bytes.NewReader(buf[:n]), int64(n), minio.PutObjectPartOptions{})
			done = append(done, minio.CompletePart{PartNumber: p.PartNumber, ETag: p.ETag})
			return err
		}); err != nil {
			return err
		}
	}
	return step(func(ctx context.Context) error {
		_, err := b.core.CompleteMultipartUpload(ctx, b.name, object, id, done, minio.PutObjectOptions{})
		return err
	})
}

// Stat implements block.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (int64, error) {
	if err := block.CheckKey(key); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	info, err := b.core.Client.StatObject(ctx, b.name, b.prefix+key, minio.StatObjectOptions{})
	if err != nil {
		return 0, b.err("stat", key, err)
	}
	return info.Size, nil
}

// List implements block.Bucket.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := block.CheckPrefix(prefix); err != nil {
			yield("", err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for o := range b.core.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{Prefix: b.prefix + prefix, Recursive: true}) {
			if o.Err != nil {
				yield("", b.err("list", prefix, o.Err))
				return
			}
			key := strings.TrimPrefix(o.Key, b.prefix)
			if block.CheckKey(key) != nil {
				continue // not written by us
			}
			if !yield(key, nil) {
				return
			}
		}
	}
}

// Delete implements block.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := block.CheckKey(key); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := b.err("delete", key, b.core.RemoveObject(ctx, b.name, b.prefix+key, minio.RemoveObjectOptions{}))
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// err gives an error of the client its kind.
func (b *Bucket) err(verb, key string, err error) error {
	if err == nil {
		return nil
	}
	r := minio.ToErrorResponse(err)
	kind := fault.Unavailable // no answer at all
	switch {
	case r.Code == minio.NoSuchBucket:
		return fault.Errorf(fault.Invalid, "%s %s at %s: there is no such bucket; make it first: %w", verb, key, b.at, err)
	case r.StatusCode == 404:
		kind = fault.NotFound
	case r.StatusCode == 401 || r.StatusCode == 403:
		return fault.Errorf(fault.Denied, "%s %s at %s: check the access key and its rights: %w", verb, key, b.at, err)
	case r.StatusCode == 507:
		kind = fault.Exhausted
	case r.StatusCode == 408 || r.StatusCode == 429 || r.StatusCode >= 500:
	case r.StatusCode >= 400:
		kind = fault.Invalid
	}
	return fault.Errorf(kind, "%s %s at %s: %w", verb, key, b.at, err)
}
