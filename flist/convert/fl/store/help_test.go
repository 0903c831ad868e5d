package store

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"golang.org/x/crypto/blake2b"
)

// sealByHand follows docs/reference/fl.md without the code under test: the
// snappy body has only literals.
func sealByHand(plain []byte) (stored []byte, id, key [32]byte) {
	body := binary.AppendUvarint(nil, uint64(len(plain)))
	for rest := plain; len(rest) > 0; {
		n := min(len(rest), 1<<16)
		body = append(body, 61<<2, byte(n-1), byte((n-1)>>8))
		body = append(body, rest[:n]...)
		rest = rest[n:]
	}
	return sealBody(body, blake2b.Sum256(plain))
}

func sealBody(body []byte, key [32]byte) (stored []byte, id, k [32]byte) {
	c, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(c)
	if err != nil {
		panic(err)
	}
	stored = gcm.Seal(nil, key[:12], body, nil)
	return stored, blake2b.Sum256(stored), key
}

// BlockSize is what images are cut into.
const BlockSize = 512 << 10

// pattern is n bytes that differ from block to block and compress a little.
func pattern(n, seed int) string {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		if i%64 == 0 {
			x = x*1664525 + 1013904223
		}
		b[i] = byte(x >> (8 * (i % 4)))
	}
	return string(b)
}

// server serves the blocks of a fixture and records what was asked.
func server(t *testing.T, handler http.Handler) (url string, asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var log []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		log = append(log, r.Method+" "+r.URL.Path)
		mu.Unlock()
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		got := log
		log = nil
		return got
	}
}
