package hub_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/hub/protocol"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

func TestSignaturesAreAdded(t *testing.T) {
	alice, bob := key(1), key(2)
	f := start(t, hub.Config{}, line(alice, "alice", "unlimited")+line(bob, "bob", "unlimited"))
	src := block.OpenDir(t.TempDir())
	id := image(t, src, 1, 1, flist.BuildOptions{})
	f.push(t, src, id, client.PushOptions{Key: alice})
	sign := func(k *identity.PrivateKey, claim string) []byte {
		b, err := flist.SignImage(nil, id, []flist.Claim{{Name: "n", Value: claim}}, k)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	put := func(by *identity.PrivateKey, b []byte) {
		t.Helper()
		if status, p := f.upload(t, by, flist.SignaturesKey(id), b, nil); status != 201 {
			t.Fatalf("PUT signatures = %d %s", status, p.Detail)
		}
	}
	put(alice, sign(alice, "one"))
	put(bob, sign(bob, "two"))
	put(bob, sign(alice, "zero")) // somebody else replays what alice once signed
	put(bob, sign(bob, "three"))
	b, err := f.store.Read(t.Context(), flist.SignaturesKey(id), 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	sts, err := flist.OpenSignatures(b, id)
	if err != nil || len(sts) != 2 || sts[0].Claims[0].Value != "one" || sts[1].Claims[0].Value != "three" {
		t.Errorf("statements = %+v, %v, want alice's first and bob's last", sts, err)
	}
}

func TestChunkQueries(t *testing.T) {
	alice := key(1)
	f := start(t, hub.Config{}, line(alice, "alice", "unlimited"))
	src := block.OpenDir(t.TempDir())
	id := image(t, src, 1, 10, flist.BuildOptions{})
	f.push(t, src, id, client.PushOptions{Key: alice, Name: "x"})
	img, err := flist.Open(t.Context(), src, id, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	absent := block.Sum([]byte("absent"))
	names := []block.Name{absent, img.Map.Chunks[0].Name, img.Map.Chunks[0].Name}
	for _, c := range img.Map.Chunks {
		names = append(names, c.Name)
	}
	got := map[block.Name]int{}
	for c, err := range f.client(t).Chunks(block.Domain{}).Get(t.Context(), names) {
		got[c.Name]++
		if c.Name == absent {
			if fault.Of(err) != fault.NotFound {
				t.Errorf("absent chunk = %v, want not found", err)
			}
		} else if err != nil || block.Sum(c.Data) != c.Name {
			t.Errorf("chunk %v = %v", c.Name, err)
		}
	}
	for _, n := range names {
		if got[n] != 1 {
			t.Errorf("chunk %v was answered %d times, want once", n, got[n])
		}
	}
	status, h, body := get(t, f.url+"/c/"+names[1].String())
	rec, err := block.ReadRecord(strings.NewReader(body))
	if status != 200 || err != nil || rec.Name != names[1] || !strings.Contains(h.Get("Cache-Control"), "immutable") {
		t.Errorf("GET /c = %d %v %v", status, rec.Name, err)
	}
	post := func(path string, q any) (int, protocol.Problem, []byte) {
		resp, err := http.Post(f.url+path, protocol.TypeCBOR, bytes.NewReader(canon.MustMarshal(q)))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		var p protocol.Problem
		if resp.StatusCode != 200 {
			if err := json.Unmarshal(b, &p); err != nil {
				t.Fatalf("POST %s = %d %q", path, resp.StatusCode, b)
			}
		}
		return resp.StatusCode, p, b
	}
	_, _, b := post("/have", protocol.Query{Names: names[:2], Keys: []string{flist.RootKey(id), "r/" + absent.String(), "../etc/passwd", "a/x"}})
	if bits, err := protocol.ParseBitmap(b, 6); err != nil || fmt.Sprint(bits) != "[false true true false false false]" {
		t.Errorf("/have = %v, %v", bits, err)
	}
	for path, q := range map[string]any{"/have": protocol.Query{}, "/batch": protocol.Query{Names: make([]block.Name, protocol.MaxBatch+1)}} {
		if status, p, _ := post(path, q); status != fault.Exhausted.HTTPStatus() {
			t.Errorf("POST %s with too few or many = %d %s", path, status, p.Detail)
		}
	}
	for _, path := range []string{"/have", "/batch", "/locate"} {
		if status, p, _ := post(path, map[int]int{7: 7}); p.Kind != string(fault.Invalid) {
			t.Errorf("POST %s with garbage = %d %s", path, status, p.Detail)
		}
	}
}
