package hub

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

const (
	piece        = 1 << 20 // bytes read from the store at once
	maxHashed    = 4 << 20 // replaceable files up to this size get an ETag
	cacheForever = "public, max-age=31536000, immutable"
)

// serveKey answers GET and HEAD of a key of the bucket.
func (s *Server) serveKey(w http.ResponseWriter, r *http.Request) {
	k, err := parseKey(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	size, err := s.store.Stat(r.Context(), k.text)
	if err != nil {
		if fault.Of(err) == fault.NotFound {
			err = fault.Errorf(fault.NotFound, "this hub has no %s", k.what())
		}
		s.fail(w, r, err)
		return
	}
	src := stored(s.store, k.text)
	etag := `"` + k.text[strings.LastIndexByte(k.text, '/')+1:] + `"`
	cache := cacheForever
	if !k.immutable() || k.kind == 'h' {
		etag = ""
		if !k.immutable() {
			cache = "no-cache"
		}
		if size <= maxHashed {
			// One read, so that tag and bytes belong together whatever is
			// published meanwhile.
			b, err := s.store.Read(r.Context(), k.text, 0, maxHashed+1)
			if err != nil {
				s.fail(w, r, err)
				return
			}
			src, size = memory(b), int64(len(b))
			etag = `"` + block.Sum(b).String()[:32] + `"`
		}
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", cache)
	h.Set("Accept-Ranges", "bytes")
	if etag != "" {
		h.Set("ETag", etag)
	}
	s.serveRange(w, r, src, size, etag)
}

// source reads bytes of one file.
type source func(ctx context.Context, off, size int64) ([]byte, error)

func stored(b block.Bucket, key string) source {
	return func(ctx context.Context, off, size int64) ([]byte, error) { return b.Read(ctx, key, off, size) }
}

func memory(b []byte) source {
	return func(_ context.Context, off, size int64) ([]byte, error) {
		return b[off:min(off+size, int64(len(b)))], nil
	}
}

// serveRange answers with the whole file or the one range that was asked for.
// Several ranges in one request get the whole file, as RFC 9110 allows.
func (s *Server) serveRange(w http.ResponseWriter, r *http.Request, src source, size int64, etag string) {
	h := w.Header()
	if etag != "" && matches(r.Header.Get("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	off, n, status := int64(0), size, http.StatusOK
	if rng := r.Header.Get("Range"); rng != "" && (r.Header.Get("If-Range") == "" || r.Header.Get("If-Range") == etag) {
		o, m, ok, satisfiable := parseRange(rng, size)
		if ok && !satisfiable {
			h.Set("Content-Range", "bytes */"+strconv.FormatInt(size, 10))
			h.Set("Content-Type", "text/plain; charset=utf-8")
			http.Error(w, "the range starts behind the end of the file", http.StatusRequestedRangeNotSatisfiable)
			return
		}
		if ok {
			off, n, status = o, m, http.StatusPartialContent
			h.Set("Content-Range", "bytes "+strconv.FormatInt(off, 10)+"-"+strconv.FormatInt(off+n-1, 10)+"/"+strconv.FormatInt(size, 10))
		}
	}
	var first []byte
	if r.Method != http.MethodHead && n > 0 {
		// The first piece before the header: a store that fails can still be told.
		var err error
		if first, err = readPiece(r.Context(), src, off, n); err != nil {
			s.fail(w, r, err)
			return
		}
	}
	h.Set("Content-Length", strconv.FormatInt(n, 10))
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	for {
		if _, err := w.Write(first); err != nil {
			return // the client went away
		}
		off, n = off+int64(len(first)), n-int64(len(first))
		if n == 0 {
			return
		}
		var err error
		if first, err = readPiece(r.Context(), src, off, n); err != nil {
			s.log.ErrorContext(r.Context(), "read store", "path", r.URL.Path, "error", err)
			panic(http.ErrAbortHandler) // the client sees a body that is cut off
		}
	}
}

func readPiece(ctx context.Context, src source, off, n int64) ([]byte, error) {
	n = min(n, piece)
	b, err := src(ctx, off, n)
	if err == nil && int64(len(b)) != n {
		err = fault.Errorf(fault.Internal, "the store gave %d of %d bytes", len(b), n)
	}
	return b, err
}

// parseRange reads a Range header of a file of size bytes. ok is false when it
// should be ignored.
func parseRange(s string, size int64) (off, n int64, ok, satisfiable bool) {
	s, ok = strings.CutPrefix(s, "bytes=")
	if !ok || strings.Contains(s, ",") {
		return 0, 0, false, false
	}
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		return 0, 0, false, false
	}
	if first == "" {
		n, err := strconv.ParseUint(last, 10, 63)
		if err != nil {
			return 0, 0, false, false
		}
		m := min(int64(n), size)
		return size - m, m, true, m > 0
	}
	a, err := strconv.ParseUint(first, 10, 63)
	if err != nil {
		return 0, 0, false, false
	}
	end := size - 1
	if last != "" {
		b, err := strconv.ParseUint(last, 10, 63)
		if err != nil || b < a {
			return 0, 0, false, false
		}
		end = min(int64(b), end)
	}
	if int64(a) >= size {
		return 0, 0, true, false
	}
	return int64(a), end - int64(a) + 1, true, true
}

// matches reports whether an If-None-Match header names etag.
func matches(header, etag string) bool {
	for t := range strings.SplitSeq(header, ",") {
		t = strings.TrimPrefix(strings.TrimSpace(t), "W/")
		if t == etag || t == "*" {
			return true
		}
	}
	return false
}

// readAll is the whole file at key, at most limit bytes.
func readAll(ctx context.Context, from block.Bucket, key string, limit int64) ([]byte, error) {
	b, err := from.Read(ctx, key, 0, limit+1)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fault.Errorf(fault.Exhausted, "%s has more than %d bytes", key, limit)
	}
	return b, nil
}

// bucketAt reads a file of a bucket at offsets.
type bucketAt struct {
	ctx  context.Context // of the one operation that this reader serves
	from block.Bucket
	key  string
}

func (b bucketAt) ReadAt(p []byte, off int64) (int, error) {
	got, err := b.from.Read(b.ctx, b.key, off, int64(len(p)))
	n := copy(p, got)
	if err == nil && n < len(p) {
		err = fault.Errorf(fault.Invalid, "read %s: %d of %d bytes at %d", b.key, n, len(p), off)
	}
	return n, err
}
