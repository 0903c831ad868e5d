package hub_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

func TestPublishersFileIsReadAgain(t *testing.T) {
	alice, bob := key(1), key(2)
	f := start(t, hub.Config{}, line(alice, "alice", "1MiB"))
	k, body := anObject(t, "hello")
	if status, _ := f.upload(t, bob, k, body, nil); status != 403 {
		t.Fatalf("PUT by a stranger = %d, want 403", status)
	}
	write := func(text string, n int) {
		t.Helper()
		if err := os.WriteFile(f.pubs, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		// The file systems of tests may have coarse times.
		when := f.clock.t.Add(time.Duration(n) * time.Minute)
		if err := os.Chtimes(f.pubs, when, when); err != nil {
			t.Fatal(err)
		}
	}
	write(line(bob, "bob", "1MiB"), 1)
	if status, p := f.upload(t, bob, k, body, nil); status != 201 {
		t.Errorf("PUT by a publisher who was added = %d %s, want 201", status, p.Detail)
	}
	write("nonsense\n", 2)
	if status, p := f.upload(t, bob, k, body, nil); status != 201 {
		t.Errorf("PUT while the file is broken = %d %s, want the list from before", status, p.Detail)
	}
	if status, _, body := get(t, f.url+"/api/health"); status != 503 || !strings.Contains(body, `"publishers":"invalid"`) {
		t.Errorf("health with a broken publishers file = %d %s, want 503", status, body)
	}
	if _, err := hub.New(t.Context(), hub.Config{Store: f.store, Publishers: f.pubs}); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("New with a broken publishers file = %v, want invalid, naming the line", err)
	}
}

func TestParsePublishers(t *testing.T) {
	a := key(1).Public().Address().String()
	ps, err := hub.ParsePublishers("# comment\n\n" + a + " alice 5MiB # note\n")
	if err != nil || len(ps) != 1 || ps[0].Alias != "alice" || ps[0].Quota != 5<<20 {
		t.Errorf("ParsePublishers = %+v, %v", ps, err)
	}
	for _, bad := range []string{
		a, a + " alice", a + " alice 5 MiB", a + " Alice 5MiB", a + " alice -1", a + " alice 9999999TiB", a + " alice 5MB", "zos1 alice 5MiB",
		a + " alice 5MiB\n" + a + " bob 5MiB", a + " alice 5MiB\n" + key(2).Public().Address().String() + " alice 1KiB",
	} {
		if ps, err := hub.ParsePublishers(bad); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "line ") {
			t.Errorf("ParsePublishers(%q) = %+v, %v, want invalid with the line", bad, ps, err)
		}
	}
}

// TestRefusalCostsNoBody: with Expect: 100-continue a client learns that it may
// not upload before it sends anything.
func TestRefusalCostsNoBody(t *testing.T) {
	f := start(t, hub.Config{}, "")
	conn, err := net.Dial("tcp", f.host())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A hub that waits for the body would answer when its patience ends.
	if err := conn.SetDeadline(clock.System{}.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	k, _ := anObject(t, "x")
	fmt.Fprintf(conn, "PUT /%s HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n", k, f.host())
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 403 || !resp.Close {
		t.Fatalf("an unsigned PUT = %+v, %v, want 403 and the end of the connection", resp, err)
	}
}

func TestQuota(t *testing.T) {
	alice := key(1)
	f := start(t, hub.Config{}, line(alice, "alice", "200KiB"))
	src := block.OpenDir(t.TempDir())
	id := image(t, src, 1, 8, flist.BuildOptions{})
	_, err := f.client(t).Push(t.Context(), src, id, client.PushOptions{Key: alice, Name: "big"})
	if fault.Of(err) != fault.Exhausted || !strings.Contains(err.Error(), "204800") {
		t.Fatalf("Push over the quota = %v, want exhausted with the numbers", err)
	}
	small := image(t, src, 2, 2, flist.BuildOptions{})
	f.push(t, src, small, client.PushOptions{Key: alice, Name: "small"})
	// The accounts survive a restart: what is stored still counts.
	again, err := hub.New(t.Context(), hub.Config{Store: f.store, Publishers: f.pubs, Clock: f.clock})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(again)
	defer srv.Close()
	c, err := client.New([]string{srv.URL}, client.Options{Clock: f.clock, Retry: block.Retry{Base: 1, Max: 1}})
	if err != nil {
		t.Fatal(err)
	}
	next := image(t, src, 3, 4, flist.BuildOptions{})
	if _, err := c.Push(t.Context(), src, next, client.PushOptions{Key: alice, Name: "next"}); fault.Of(err) != fault.Exhausted {
		t.Errorf("Push over the quota after a restart = %v, want exhausted", err)
	}
}
