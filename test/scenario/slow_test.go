package scenario

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A hub that is alone and drips, or hangs after its headers, costs each read
// that needs it an I/O error at the deadline and an event, and nothing hangs.
// The same mount works again when the hub does.
func TestSlowHubAlone(t *testing.T) {
	needMounts(t)
	for _, mode := range []string{"fuse-file", "tree"} {
		for _, how := range []string{"drip", "hang"} {
			t.Run(mode+" "+how, func(t *testing.T) {
				p := publish(t)
				m := newMachine(t)
				m.env = []string{"ZOS_HUB=" + p.hub.URL, "ZOS_READ_TIMEOUT=2s"}
				at := m.path("mnt")
				if err := os.Mkdir(at, 0o755); err != nil {
					t.Fatal(err)
				}
				m.must("flist", "mount", "--mode", mode, p.name, at)
				t.Cleanup(func() { m.must("flist", "unmount", at) })
				p.hub.set(how, "")
				for _, file := range []string{"big", "etc/small", "big"} {
					done := make(chan error, 1)
					go func() {
						_, err := os.ReadFile(filepath.Join(at, file))
						done <- err
					}()
					select {
					case err := <-done:
						if !errors.Is(err, syscall.EIO) {
							t.Errorf("%s from a hub that doesn't answer: %v, want EIO", file, err)
						}
					case <-time.After(time.Minute): // 30 times the deadline
						t.Fatalf("the read of %s hangs", file)
					}
					if _, err := os.Stat(filepath.Join(at, "etc", "small")); err != nil {
						t.Errorf("stat needs the hub: %v", err)
					}
				}
				if p.hub.asked("/p/", "/c/", "/batch") == 0 {
					t.Error("the hub was not asked for contents: the test proves nothing")
				}
				if log := events(m); !strings.Contains(log, `msg="read failed"`) || !strings.Contains(log, p.id) {
					t.Errorf("there is no event about image %s: %s", p.id, log)
				}
				p.hub.set("", "")
				// On a busy machine a read may still take longer than its two seconds.
				m.await("the mount reads again", func() bool {
					_, err := os.ReadFile(filepath.Join(at, "big"))
					return err == nil
				})
				readBoth(t, at, p.want, false)
				if b, err := os.ReadFile(filepath.Join(at, "etc", "small")); err != nil || string(b) != "small\n" {
					t.Errorf("after the hub is back: %q, %v", b, err)
				}
			})
		}
	}
}

// events is what the processes that serve the machine's mounts have logged.
func events(m *machine) string {
	var all strings.Builder
	for _, pid := range m.processes("server") {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fd/2", pid)); err == nil {
			all.Write(b)
		}
	}
	return all.String()
}

// A deadline that is none is refused before anything is mounted.
func TestReadTimeoutRefused(t *testing.T) {
	needMounts(t)
	p := publish(t)
	m := newMachine(t)
	if err := os.Mkdir(m.path("mnt"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"60", "0s", "-5s", "2h", "soon"} {
		m.env = []string{"ZOS_HUB=" + p.hub.URL, "ZOS_READ_TIMEOUT=" + bad}
		m.fails(1, "ZOS_READ_TIMEOUT", "flist", "mount", p.name, m.path("mnt"))
		m.idle()
	}
}
