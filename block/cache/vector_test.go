package cache

import (
	"encoding/hex"
	"testing"

	"zos.internal/block"
)

// The examples of docs/reference/cache.md.
const (
	recordVector = "5a43493101000300090000007011010017762fddd969a453925d65717ac3eea2" +
		"1320b66b54342fde15128d6caf21215f000000000000000000000000"
	pinVector = "5a4f5350494e533101000000"
)

func TestVectors(t *testing.T) {
	k := key(block.Sum([]byte("a")))
	r := record{kind: recordPut, slab: 3, page: 9, size: 70000, key: k}.append(nil)
	if got := hex.EncodeToString(r[:60]); got != recordVector {
		t.Errorf("record = %s, want %s", got, recordVector)
	}
	if got, want := hex.EncodeToString(r[60:]), "24e61396"; got != want {
		t.Errorf("checksum of the record = %s, want %s", got, want)
	}
	p := encodePins([]pin{{k, true}})
	if got := hex.EncodeToString(p[:12]); got != pinVector {
		t.Errorf("pin file starts with %s, want %s", got, pinVector)
	}
	if got, want := hex.EncodeToString(p[12:16]), "56e18e64"; got != want {
		t.Errorf("checksum of the pins = %s, want %s", got, want)
	}
	dom := block.NewDomain([32]byte{1})
	n := dom.Name([]byte("a"))
	id := dom.ID()
	want := n
	for i := range id {
		want[i] ^= id[i]
	}
	if got := keyOf(dom, n); got != key(want) {
		t.Errorf("key of a private chunk = %x, want its name mixed with the domain's id", got)
	}
}
