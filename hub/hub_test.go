package hub_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/tree"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/hub/protocol"
	"zos.internal/identity"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// noise is n bytes that zstd can halve.
func noise(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.IntN(16)) + 'a'
	}
	return string(b)
}

// image is a tree of n files of about 70 KiB, which are different for each seed.
func image(t testing.TB, to block.Bucket, seed uint64, n int, opt flist.BuildOptions) flist.ID {
	t.Helper()
	root := tree.NewDir(0o755)
	for i := range n {
		b := noise(seed*1000+uint64(i), 70<<10)
		if err := root.Insert(fmt.Sprintf("data/f%03d", i), &tree.Node{Mode: tree.Regular | 0o644, Size: int64(len(b)), Content: tree.Bytes(b)}); err != nil {
			t.Fatal(err)
		}
	}
	rep, err := flist.Build(t.Context(), root, to, opt)
	if err != nil {
		t.Fatal(err)
	}
	return rep.ID
}

func writeFile(t testing.TB, to block.Bucket, key string, b []byte) {
	t.Helper()
	if err := to.Write(t.Context(), key, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
}

// fixture is a running hub with its store.
type fixture struct {
	*hub.Server
	store block.Bucket
	url   string
	pubs  string // path of the publishers file
	clock *movable
}

// movable is a clock that tests set.
type movable struct{ t time.Time }

func (m *movable) Now() time.Time { return m.t }

func start(t testing.TB, cfg hub.Config, publishers string) *fixture {
	t.Helper()
	f := &fixture{store: cfg.Store, clock: &movable{clock.System{}.Now().Truncate(time.Second)}}
	if f.store == nil {
		f.store = block.OpenDir(t.TempDir())
	}
	f.pubs = filepath.Join(t.TempDir(), "publishers")
	if err := os.WriteFile(f.pubs, []byte(publishers), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Store, cfg.Publishers, cfg.Clock, cfg.Temp = f.store, f.pubs, f.clock, t.TempDir()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	var err error
	if f.Server, err = hub.New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(f.Server)
	t.Cleanup(srv.Close)
	f.url = srv.URL
	return f
}

func key(n byte) *identity.PrivateKey { return identity.FromSeed([32]byte{n}) }

func line(k *identity.PrivateKey, alias, quota string) string {
	return fmt.Sprintf("%v %s %s\n", k.Public().Address(), alias, quota)
}

func (f *fixture) client(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.New([]string{f.url}, client.Options{Clock: f.clock, Retry: block.Retry{Base: 1, Max: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (f *fixture) push(t testing.TB, src block.Bucket, id flist.ID, opt client.PushOptions) {
	t.Helper()
	if _, err := f.client(t).Push(t.Context(), src, id, opt); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) host() string { u, _ := url.Parse(f.url); return u.Host }

// upload is a PUT that tests bend.
func (f *fixture) upload(t testing.TB, k *identity.PrivateKey, key string, body []byte, bend func(*protocol.Upload, *http.Request)) (int, protocol.Problem) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, f.url+"/"+key, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	u := protocol.Upload{Method: "PUT", Key: key, Size: int64(len(body)), Digest: block.Sum(body), Audience: f.host(), Expires: f.clock.Now().Add(time.Minute).Unix()}
	if bend != nil {
		bend(&u, req)
	}
	if _, ok := req.Header["Authorization"]; !ok {
		req.Header.Set("Authorization", protocol.Sign(k, u))
	}
	return send(t, req)
}

func send(t testing.TB, req *http.Request) (int, protocol.Problem) {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var p protocol.Problem
	if resp.StatusCode >= 400 {
		if err := json.Unmarshal(b, &p); err != nil || p.Status != resp.StatusCode || resp.Header.Get("Content-Type") != protocol.TypeProblem {
			t.Fatalf("%s %s = %d %s, which is no problem document", req.Method, req.URL, resp.StatusCode, b)
		}
		if p.Detail == "" || fault.Kind(p.Kind).HTTPStatus() != p.Status {
			t.Fatalf("problem %+v: kind and status don't fit, or it says nothing", p)
		}
	}
	return resp.StatusCode, p
}

// anObject is an object and its key.
func anObject(t testing.TB, plain string) (key string, stored []byte) {
	t.Helper()
	ref, stored, err := flist.EncodeObject(block.Domain{}, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return flist.ObjectKey(ref.Name), stored
}

func TestUploadSignature(t *testing.T) {
	alice := key(1)
	f := start(t, hub.Config{}, line(alice, "alice", "1MiB"))
	k, body := anObject(t, "hello")
	other, otherBody := anObject(t, "other")
	for name, tt := range map[string]struct {
		by   *identity.PrivateKey
		key  string
		bend func(*protocol.Upload, *http.Request)
		want fault.Kind
	}{
		"unsigned":       {alice, k, func(_ *protocol.Upload, r *http.Request) { r.Header.Set("Authorization", "") }, fault.Denied},
		"other scheme":   {alice, k, func(_ *protocol.Upload, r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, fault.Invalid},
		"unknown key":    {key(2), k, nil, fault.Denied},
		"expired":        {alice, k, func(u *protocol.Upload, _ *http.Request) { u.Expires = f.clock.Now().Unix() }, fault.Expired},
		"far future":     {alice, k, func(u *protocol.Upload, _ *http.Request) { u.Expires += 2 * 86400 }, fault.Invalid},
		"another hub":    {alice, k, func(u *protocol.Upload, _ *http.Request) { u.Audience = "hub.example.org" }, fault.Denied},
		"another key":    {alice, other, func(u *protocol.Upload, _ *http.Request) { u.Key = k }, fault.Denied},
		"another method": {alice, k, func(u *protocol.Upload, _ *http.Request) { u.Method = "POST" }, fault.Denied},
		"another size":   {alice, k, func(u *protocol.Upload, _ *http.Request) { u.Size++ }, fault.Denied},
		"another body": {alice, k, func(u *protocol.Upload, r *http.Request) {
			r.Body = io.NopCloser(bytes.NewReader(otherBody[:len(body)]))
		}, fault.Invalid},
		"wrong digest":    {alice, k, func(u *protocol.Upload, _ *http.Request) { u.Digest = block.Sum(nil) }, fault.Invalid},
		"name of another": {alice, other, nil, fault.Invalid},
		"compressed":      {alice, k, func(_ *protocol.Upload, r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, fault.Unsupported},
		"no length":       {alice, k, func(_ *protocol.Upload, r *http.Request) { r.ContentLength = -1 }, fault.Invalid},
		"too long": {alice, "f/" + alice.Public().Address().String() + "/x", func(u *protocol.Upload, r *http.Request) {
			b := make([]byte, 5000)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), 5000
		}, fault.Exhausted},
		"history":          {alice, "h/" + alice.Public().Address().String() + "/x/1", nil, fault.Unsupported},
		"account":          {alice, "a/x", nil, fault.NotFound},
		"upper-case name":  {alice, strings.ToUpper(k[:4]) + k[4:], nil, fault.NotFound},
		"trailing slash":   {alice, k + "/", nil, fault.NotFound},
		"signature itself": {alice, k, func(u *protocol.Upload, r *http.Request) { r.Header.Set("Authorization", protocol.Sign(alice, *u)+"A") }, fault.Denied},
	} {
		status, p := f.upload(t, tt.by, tt.key, body, tt.bend)
		if p.Kind != string(tt.want) {
			t.Errorf("%s: PUT = %d %q (%s), want %q", name, status, p.Kind, p.Detail, tt.want)
		}
	}
	for key, err := range f.store.List(t.Context(), "") {
		t.Errorf("after refused uploads the store holds %q, %v", key, err)
	}
	if status, p := f.upload(t, alice, k, body, nil); status != http.StatusCreated {
		t.Fatalf("PUT = %d %s, want 201", status, p.Detail)
	}
	// A replay stores the same bytes again and nothing else.
	if status, p := f.upload(t, alice, k, body, nil); status != http.StatusCreated && status != http.StatusOK {
		t.Fatalf("replayed PUT = %d %s, want success", status, p.Detail)
	}
	if got, err := f.store.Read(t.Context(), k, 0, 1<<20); err != nil || !bytes.Equal(got, body) {
		t.Errorf("the store holds %q, %v, want the upload", got, err)
	}
}

func TestPointerNeverGoesBack(t *testing.T) {
	alice, bob := key(1), key(2)
	f := start(t, hub.Config{}, line(alice, "alice", "unlimited")+line(bob, "bob", "unlimited"))
	src := block.OpenDir(t.TempDir())
	id := image(t, src, 1, 1, flist.BuildOptions{})
	f.push(t, src, id, client.PushOptions{Key: alice})
	sign := func(k *identity.PrivateKey, p flist.Pointer) (string, []byte) {
		t.Helper()
		p.Owner = k.Public().Address()
		if p.Name == "" {
			p.Name = "web"
		}
		b, err := p.Sign(k)
		if err != nil {
			t.Fatal(err)
		}
		return p.Key(), b
	}
	k, five := sign(alice, flist.Pointer{Seq: 5, ID: id})
	if status, p := f.upload(t, alice, k, five, nil); status != 201 {
		t.Fatalf("PUT version 5 = %d %s", status, p.Detail)
	}
	for _, tt := range []struct {
		name string
		by   *identity.PrivateKey
		p    flist.Pointer
		own  *identity.PrivateKey
		want int
	}{
		{"again", alice, flist.Pointer{Seq: 5, ID: id}, alice, 201},
		{"same, changed", alice, flist.Pointer{Seq: 5, ID: id, Time: 9}, alice, 409},
		{"older", alice, flist.Pointer{Seq: 4, ID: id}, alice, 409},
		{"unknown image", alice, flist.Pointer{Seq: 6, ID: block.Sum([]byte("x"))}, alice, 409},
		{"expired", alice, flist.Pointer{Seq: 6, ID: id, NotAfter: f.clock.Now().Unix()}, alice, 410},
		{"by another", bob, flist.Pointer{Seq: 6, ID: id}, alice, 403},
		{"tag", alice, flist.Pointer{Seq: 1, ID: id, Tag: "v1"}, alice, 201},
		{"newer", alice, flist.Pointer{Seq: 7, ID: id}, alice, 201},
	} {
		k, b := sign(tt.own, tt.p)
		if status, p := f.upload(t, tt.by, k, b, nil); status != tt.want {
			t.Errorf("%s: PUT = %d %s, want %d", tt.name, status, p.Detail, tt.want)
		}
	}
	_, b := sign(alice, flist.Pointer{Seq: 9, ID: id, Name: "other"})
	if status, p := f.upload(t, alice, k, b, nil); status != 400 {
		t.Errorf("PUT of another name's pointer = %d %s, want 400", status, p.Detail)
	}
	// Every accepted version stays.
	for seq, want := range map[int]int{5: 200, 6: 404, 7: 200} {
		if status, _, _ := get(t, fmt.Sprintf("%s/h/%v/web/%d", f.url, alice.Public().Address(), seq)); status != want {
			t.Errorf("GET version %d = %d, want %d", seq, status, want)
		}
	}
}

func TestRootNeedsItsParts(t *testing.T) {
	alice := key(1)
	f := start(t, hub.Config{}, line(alice, "alice", "unlimited"))
	src := block.OpenDir(t.TempDir())
	id := image(t, src, 1, 3, flist.BuildOptions{})
	put := func(k string) (int, protocol.Problem) {
		b, err := src.Read(t.Context(), k, 0, 64<<20)
		if err != nil {
			t.Fatal(err)
		}
		return f.upload(t, alice, k, b, nil)
	}
	status, p := put(flist.RootKey(id))
	if status != 409 || len(p.Missing) != 5 {
		t.Fatalf("PUT root first = %d, missing %q, want 409 with 4 objects and the locator", status, p.Missing)
	}
	if status, p := put(flist.LocatorKey(id)); status != 409 || len(p.Missing) != 1 || p.Missing[0][:2] != "p/" {
		t.Fatalf("PUT locator before its packs = %d, missing %q, want 409 with the pack", status, p.Missing)
	}
	for _, prefix := range []string{"p/", "o/"} {
		for k, err := range src.List(t.Context(), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			if status, p := put(k); status != 201 {
				t.Fatalf("PUT %s = %d %s", k, status, p.Detail)
			}
		}
	}
	// A locator that points to other chunks is noticed at the root.
	img, err := flist.Open(t.Context(), src, id, flist.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	loc, err := flist.ReadLocator(t.Context(), src, img)
	if err != nil {
		t.Fatal(err)
	}
	loc.Where[0], loc.Where[1] = loc.Where[1], loc.Where[0]
	b, err := loc.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if status, p := f.upload(t, alice, flist.LocatorKey(id), b, nil); status != 201 {
		t.Fatalf("PUT locator before the root = %d %s", status, p.Detail)
	}
	if status, p := put(flist.RootKey(id)); status != 409 || len(p.Missing) != 1 || p.Missing[0] != flist.LocatorKey(id) {
		t.Fatalf("PUT root with swapped places = %d, missing %q, want 409 with the locator", status, p.Missing)
	}
	if status, p := put(flist.LocatorKey(id)); status != 201 {
		t.Fatalf("PUT locator = %d %s", status, p.Detail)
	}
	if status, p := put(flist.RootKey(id)); status != 201 {
		t.Fatalf("PUT root = %d %s", status, p.Detail)
	}
	if status, p := f.upload(t, alice, flist.LocatorKey(id), b, nil); status != 400 {
		t.Errorf("PUT of a wrong locator after the root = %d %s, want 400", status, p.Detail)
	}
}
