package block

import (
	"bytes"
	"context"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"

	"zos.internal/internal/fault"
)

// MaxKey is the longest key of a Bucket in bytes.
const MaxKey = 512

// CheckKey refuses what no Bucket takes as a key: anything but slash-separated
// segments of [0-9a-zA-Z._-] that don't start with a dot. Such a key can't leave
// the directory, the prefix or the base address of a bucket.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKey {
		return fault.Errorf(fault.Invalid, "the key %.80q has %d characters instead of 1 to %d", key, len(key), MaxKey)
	}
	start := true
	for i := range len(key) {
		c := key[i]
		switch {
		case c == '/' && start, c == '.' && start:
			return fault.Errorf(fault.Invalid, "the key %q has a segment that is empty or starts with a dot", key)
		case c == '/':
			start = true
			continue
		case !keyChar(c):
			return fault.Errorf(fault.Invalid, "the key %q has a character outside [0-9a-zA-Z._-/]", key)
		}
		start = false
	}
	if start {
		return fault.Errorf(fault.Invalid, "the key %q ends with a slash", key)
	}
	return nil
}

// CheckPrefix refuses what can't be the start of a key. The empty prefix is the
// start of all.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return CheckKey(strings.TrimSuffix(prefix, "/"))
}

func keyChar(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '.' || c == '_' || c == '-'
}

// checkRange refuses a read that can't be right.
func checkRange(key string, off, size int64) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if off < 0 || size < 0 || off+size < 0 {
		return fault.Errorf(fault.Invalid, "read %s: %d bytes at %d is no range", key, size, off)
	}
	return nil
}

func notFound(key string) error {
	return fault.Errorf(fault.NotFound, "%s is not there", key)
}

// Mem is a Bucket in memory. The zero value is empty and works. It is safe for
// concurrent use.
type Mem struct {
	mu    sync.RWMutex
	files map[string][]byte
}

var _ Bucket = (*Mem)(nil)

// Read implements Bucket.
func (m *Mem) Read(ctx context.Context, key string, off, size int64) ([]byte, error) {
	if err := checkRange(key, off, size); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fault.As(fault.Unavailable, err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	b, ok := m.files[key]
	if !ok {
		return nil, notFound(key)
	}
	off = min(off, int64(len(b)))
	size = min(size, int64(len(b))-off)
	return bytes.Clone(b[off : off+size]), nil
}

// Write implements Bucket.
func (m *Mem) Write(ctx context.Context, key string, r io.Reader) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	b, err := io.ReadAll(ctxReader{ctx, r})
	if err != nil {
		return fault.Errorf(fault.Of(err), "write %s: %w", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil {
		m.files = map[string][]byte{}
	}
	m.files[key] = b
	return nil
}

// Stat implements Bucket.
func (m *Mem) Stat(ctx context.Context, key string) (int64, error) {
	if err := CheckKey(key); err != nil {
		return 0, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	b, ok := m.files[key]
	if !ok {
		return 0, notFound(key)
	}
	return int64(len(b)), nil
}

// List implements Bucket.
func (m *Mem) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := CheckPrefix(prefix); err != nil {
			yield("", err)
			return
		}
		m.mu.RLock()
		var keys []string
		for k := range m.files {
			if strings.HasPrefix(k, prefix) {
				keys = append(keys, k)
			}
		}
		m.mu.RUnlock()
		slices.Sort(keys)
		for _, k := range keys {
			if err := ctx.Err(); err != nil {
				yield("", fault.As(fault.Unavailable, err))
				return
			}
			if !yield(k, nil) {
				return
			}
		}
	}
}

// Delete implements Bucket.
func (m *Mem) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, key)
	return nil
}

// ctxReader stops reading when ctx ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, fault.As(fault.Unavailable, err)
	}
	return c.r.Read(b)
}
