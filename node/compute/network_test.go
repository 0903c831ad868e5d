package compute

import (
	"bytes"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"zos.internal/internal/fault"
	"zos.internal/node/network"
)

// A workload in a network of package network sees its address, its own
// loopback and nothing else, in every form of the seal.
func TestNetwork(t *testing.T) {
	root := testRoot(t)
	eachDriver(t, func(t *testing.T, driver string) {
		for _, userns := range []string{"on", "off"} {
			t.Run("userns "+userns, func(t *testing.T) {
				r := runtimeFor(t)
				id := testID(t)
				n, err := network.Attach(t.Context(), network.Options{ID: id, Dir: filepath.Join(t.TempDir(), "net")})
				if errors.Is(err, fault.Unavailable) {
					t.Skip(err)
				}
				if err != nil {
					t.Fatal(err)
				}
				defer n.Close()
				s := Spec{ID: id, RootFS: root, Driver: driver, UserNS: userns, NetNS: n.NetNS()}
				exit, out := sh(t, r, s, `cat /proc/net/fib_trie; ls /sys/class/net; cat /proc/mounts`)
				if exit.Code != 0 || !strings.Contains(out, n.Address().String()) || !strings.Contains(out, "\neth0\nlo\n") {
					t.Errorf("exit %+v, output %s", exit, out)
				}
				checkMounts(t, Files, userns, out)
			})
		}
	})
}

// Start, publish, stop: a workload that listens on a low port as a user.
func TestPublished(t *testing.T) {
	needContainers(t)
	root := testRoot(t)
	addAttacker(t, root)
	r := runtimeFor(t)
	id := testID(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	n, err := network.Attach(t.Context(), network.Options{ID: id, Dir: filepath.Join(t.TempDir(), "net"), Publish: []network.Publish{{Host: uint16(port), Container: 80, Proto: "tcp"}}})
	if errors.Is(err, fault.Unavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var out syncBuffer
	c, err := r.Start(t.Context(), Spec{ID: id, RootFS: root, Argv: []string{attacker, "listen", ":80"}, User: "user", NetNS: n.NetNS()}, Stdio{Out: &out, Err: &out})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	out.waitFor(t, "listening")
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(conn); err != nil || got.String() != "hello from 1000\n" {
		t.Errorf("the published port answered %q, %v", got.String(), err)
	}
}
