package network

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

func TestParsePublish(t *testing.T) {
	addr := netip.MustParseAddr
	for in, want := range map[string]Publish{
		"8080:80":                {Host: 8080, Container: 80, Proto: "tcp"},
		"53:5353/udp":            {Host: 53, Container: 5353, Proto: "udp"},
		"127.0.0.1:1:2/tcp":      {Address: addr("127.0.0.1"), Host: 1, Container: 2, Proto: "tcp"},
		"[::1]:1:65535":          {Address: addr("::1"), Host: 1, Container: 65535, Proto: "tcp"},
		"[::ffff:1.2.3.4]:1:2":   {Address: addr("1.2.3.4"), Host: 1, Container: 2, Proto: "tcp"},
		"[2001:db8::1]:80:8/udp": {Address: addr("2001:db8::1"), Host: 80, Container: 8, Proto: "udp"},
	} {
		got, err := ParsePublish(in)
		if err != nil || got != want {
			t.Errorf("ParsePublish(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "80", "0:1", "1:0", "1:65536", "a:b", "1:2/sctp", "1:2/", "::1:1:2", "[::1:1:2", "x:1:2", "fe80::1%lo:1:2", "[fe80::1%lo]:1:2", "1:2:3:4", ":1:2", "-1:2", "+1:2"} {
		if got, err := ParsePublish(in); !errors.Is(err, fault.Invalid) {
			t.Errorf("ParsePublish(%q) = %v, %v; want invalid", in, got, err)
		}
	}
}

func FuzzParsePublish(f *testing.F) {
	f.Add("127.0.0.1:8080:80/tcp")
	f.Add("[::1]:1:2/udp")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePublish(s)
		if err != nil {
			return
		}
		again, err := ParsePublish(p.String())
		if err != nil || again != p {
			t.Errorf("ParsePublish(%q) = %v, its text reads back as %v, %v", s, p, again, err)
		}
	})
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if err := inNamespace(func() error { return nil }); err != nil {
		t.Skipf("no network namespaces: %v", err)
	}
	t.Cleanup(func() { checkLeaks(t) })
}

// testIDs are the containers that the tests of this package make. Others may
// run beside them.
var testIDs = []string{"t-nftables", "t-proxy", "t-other", "t-iso", "t-clean"}

func checkLeaks(t *testing.T) {
	t.Helper()
	ours := make(map[string]bool)
	for _, id := range testIDs {
		link, table := names(id)
		ours[link], ours[table] = true, true
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if ours[l.Attrs().Name] {
			t.Errorf("the link %s is left", l.Attrs().Name)
		}
	}
	c, err := nftables.New()
	if err != nil {
		return
	}
	tables, err := c.ListTables()
	if err != nil {
		return
	}
	for _, tab := range tables {
		if ours[tab.Name] {
			t.Errorf("the table %s is left", tab.Name)
		}
	}
}

// inside runs f on a thread in the container's namespace.
func inside(t *testing.T, n *Net, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(home)
			if err = unix.Setns(n.ns, unix.CLONE_NEWNET); err == nil {
				err = f()
				if unix.Setns(home, unix.CLONE_NEWNET) == nil {
					runtime.UnlockOSThread()
				}
			}
		}
		done <- err
	}()
	return <-done
}

// echo starts servers inside that answer with what they read.
func echo(t *testing.T, n *Net, tcp, udp string) {
	t.Helper()
	err := inside(t, n, func() error {
		l, err := net.Listen("tcp", tcp)
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", udp)
		if err != nil {
			l.Close()
			return err
		}
		t.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_, _ = io.Copy(c, c)
				}()
			}
		}()
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(buf[:n], from)
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ask sends a word and returns the answer.
func ask(t *testing.T, proto, addr string) string {
	t.Helper()
	d := net.Dialer{Timeout: 5 * time.Second}
	c, err := d.DialContext(t.Context(), proto, addr)
	if err != nil {
		t.Errorf("dial %s %s: %v", proto, addr, err)
		return ""
	}
	defer c.Close()
	stop := time.AfterFunc(5*time.Second, func() { c.Close() })
	defer stop.Stop()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Errorf("write %s %s: %v", proto, addr, err)
		return ""
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(c, buf); err != nil {
		t.Errorf("read %s %s: %v", proto, addr, err)
		return ""
	}
	return string(buf)
}

// ports finds two free ports of the host.
func freePorts(t *testing.T) (tcp, udp uint16) {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port), uint16(u.LocalAddr().(*net.UDPAddr).Port)
}

func TestPublish(t *testing.T) {
	needRoot(t)
	for _, plain := range []bool{false, true} {
		name := "nftables"
		if plain {
			name = "proxy"
		}
		t.Run(name, func(t *testing.T) {
			tcp, udp := freePorts(t)
			o := Options{ID: "t-" + name, Dir: t.TempDir(), plain: plain, Publish: []Publish{
				{Host: tcp, Container: 80, Proto: "tcp"}, {Host: udp, Container: 53, Proto: "udp"},
			}}
			n, err := Attach(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			if plain && n.Mode() != "proxy" {
				t.Errorf("mode %q, want proxy", n.Mode())
			}
			if !plain && n.Mode() == "proxy" {
				t.Skip("this kernel has no nftables for it")
			}
			echo(t, n, ":80", ":53")
			for _, host := range []string{"127.0.0.1", "[::1]"} {
				for proto, port := range map[string]uint16{"tcp": tcp, "udp": udp} {
					addr := host + ":" + strconv.Itoa(int(port))
					if got := ask(t, proto, addr); got != "hello" {
						t.Errorf("%s %s answered %q", proto, addr, got)
					}
				}
			}
			if _, err := Attach(t.Context(), Options{ID: "t-other", Dir: o.Dir, Publish: o.Publish}); !errors.Is(err, fault.Conflict) {
				t.Errorf("the same port again: %v, want a conflict", err)
			}
			if _, err := Attach(t.Context(), Options{ID: o.ID, Dir: o.Dir}); !errors.Is(err, fault.Conflict) {
				t.Errorf("the same id again: %v, want a conflict", err)
			}
			if got := ask(t, "tcp", net.JoinHostPort(n.Address().String(), "80")); got != "hello" {
				t.Errorf("after the conflicts: %q", got)
			}
			if !plain {
				// Without the proxies only the translation is left.
				for _, x := range n.proxies {
					x.close()
				}
				for proto, port := range map[string]uint16{"tcp": tcp, "udp": udp} {
					if got := ask(t, proto, net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))); got != "hello" {
						t.Errorf("translated %s answered %q", proto, got)
					}
				}
			}
			if err := n.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if left, err := filepath.Glob(filepath.Join(o.Dir, "*.json")); err != nil || len(left) > 0 {
				t.Errorf("records are left: %v", left)
			}
		})
	}
}

// The container reaches neither the host nor the world.
func TestIsolation(t *testing.T) {
	needRoot(t)
	n, err := Attach(t.Context(), Options{ID: "t-iso", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	host, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	port := host.Addr().(*net.TCPAddr).Port
	_, portText, _ := net.SplitHostPort(host.Addr().String())
	var links []string
	for _, target := range []string{n.host.String() + ":" + portText, "198.51.100.1:80", "127.0.0.1:" + portText} {
		err := inside(t, n, func() error {
			d := net.Dialer{Timeout: 300 * time.Millisecond}
			c, err := d.DialContext(t.Context(), "tcp4", target)
			if err == nil {
				c.Close()
			}
			return err
		})
		if err == nil {
			t.Errorf("the container reached %s (port %d)", target, port)
		}
	}
	err = inside(t, n, func() error {
		ls, err := netlink.LinkList()
		for _, l := range ls {
			if l.Attrs().Flags&net.FlagUp != 0 {
				links = append(links, l.Attrs().Name)
			}
		}
		return err
	})
	if diff := cmp.Diff([]string{"lo", "eth0"}, links); err != nil || diff != "" {
		t.Errorf("links inside (-want +got):\n%s%v", diff, err)
	}
	// The control: without our table the host answers.
	if err := dropTable(n.table); err != nil {
		t.Fatal(err)
	}
	err = inside(t, n, func() error {
		c, err := net.DialTimeout("tcp4", n.host.String()+":"+portText, 2*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		t.Errorf("without the table the host can't be reached either, so the test shows nothing: %v", err)
	}
}

// A killed owner leaves a table, a pair and a record.
func TestClean(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	o := Options{ID: "t-clean", Dir: dir}
	n, err := Attach(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if ids, err := Clean(t.Context(), dir); err != nil || len(ids) != 0 {
		t.Errorf("Clean beside a living owner = %v, %v", ids, err)
	}
	n.lock.Close() // what the kernel does to a killed process
	if ids, err := Clean(t.Context(), dir); err != nil || !cmp.Equal(ids, []string{"t-clean"}) {
		t.Errorf("Clean = %v, %v; want t-clean", ids, err)
	}
	checkLeaks(t)
	n.lock = nil
	if ids, err := Clean(t.Context(), filepath.Join(dir, "none")); err != nil || len(ids) != 0 {
		t.Errorf("Clean of no directory = %v, %v", ids, err)
	}
}

func TestRefusals(t *testing.T) {
	for _, o := range []Options{{ID: "", Dir: "/x"}, {ID: "../x", Dir: "/x"}, {ID: "a", Dir: "x"}, {ID: "a", Dir: "/x", Publish: []Publish{{}}}} {
		want := fault.Invalid
		if os.Geteuid() != 0 && o.ID == "a" && o.Dir == "/x" {
			want = fault.Denied
		}
		if _, err := Attach(t.Context(), o); !errors.Is(err, want) {
			t.Errorf("Attach(%+v) = %v, want %v", o, err, want)
		}
	}
}
