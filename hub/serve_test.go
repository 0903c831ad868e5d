package hub_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"zos.internal/block"
	"zos.internal/hub"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// serve runs hub.Serve until the test ends.
func serve(t *testing.T, cfg hub.Config) (url string, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan string, 1), make(chan error, 1)
	cfg.Ready = func(url string) { ready <- url }
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	go func() { done <- hub.Serve(ctx, cfg) }()
	t.Cleanup(cancel)
	select {
	case url = <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	return url, func() error { cancel(); return <-done }
}

func TestServeEndsGracefully(t *testing.T) {
	url, stop := serve(t, hub.Config{Store: block.OpenDir(t.TempDir())})
	status, _, body := get(t, url+"/")
	if status != 200 || !strings.Contains(body, "Nothing is published") {
		t.Errorf("GET / = %d", status)
	}
	if err := stop(); err != nil {
		t.Errorf("Serve = %v after its context ended, want nil", err)
	}
	if _, err := http.Get(url); err == nil {
		t.Error("the hub still answers")
	}
}

// TestServeFinishesDownloads: who is reading when the hub is told to end gets
// the rest.
func TestServeFinishesDownloads(t *testing.T) {
	store := &block.Mem{}
	body := noise(1, 24<<20)
	k := "p/" + block.Sum([]byte(body)).String()
	if err := store.Write(t.Context(), k, strings.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	url, stop := serve(t, hub.Config{Store: store})
	resp, err := http.Get(url + "/" + k)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 1000)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	for { // until the hub accepts nobody any more
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			break
		}
		c.Close()
	}
	rest, err := io.ReadAll(resp.Body)
	if err != nil || string(first)+string(rest) != body {
		t.Errorf("after the end was asked for %d bytes arrived, %v, want the other %d", len(rest), err, len(body)-len(first))
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
}

func TestServeRefusesBadSettings(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	store := &block.Mem{}
	for name, tt := range map[string]struct {
		cfg  hub.Config
		want fault.Kind
	}{
		"no store":       {hub.Config{}, fault.Invalid},
		"port taken":     {hub.Config{Store: store, Listen: l.Addr().String()}, fault.Unavailable},
		"half a pair":    {hub.Config{Store: store, Cert: "x"}, fault.Invalid},
		"no certificate": {hub.Config{Store: store, Cert: "/nonexistent", Key: "/nonexistent"}, fault.Invalid},
		"no publishers":  {hub.Config{Store: store, Publishers: filepath.Join(t.TempDir(), "none")}, fault.NotFound},
		"bad URL":        {hub.Config{Store: store, URL: "hub.example.org"}, fault.Invalid},
	} {
		if err := hub.Serve(t.Context(), tt.cfg); fault.Of(err) != tt.want {
			t.Errorf("%s: Serve = %v, want %s", name, err, tt.want)
		}
	}
}

func TestServeLimitsHeaders(t *testing.T) {
	url, stop := serve(t, hub.Config{Store: &block.Mem{}})
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n")); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("64 KiB of header = %v, %v, want 431", resp, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestServeTLS(t *testing.T) {
	dir := t.TempDir()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: clock.System{}.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, typ string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	url, stop := serve(t, hub.Config{Store: &block.Mem{}, Cert: write("c", "CERTIFICATE", der), Key: write("k", "PRIVATE KEY", kder)})
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(url + "/api/health")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || !strings.HasPrefix(url, "https://") {
		t.Errorf("GET %s = %d", url, resp.StatusCode)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
