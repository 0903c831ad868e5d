package scenario

import (
	"strings"
	"syscall"
	"testing"
)

// The guard of a running container is killed, and then stopped: each time
// another one takes over, the container runs on, and its audit tells.
func TestGuardKilledUnderRun(t *testing.T) {
	needContainers(t)
	m := newMachine(t)
	appImage(t, m)
	addr := freeAddr(t)
	_, port, _ := strings.Cut(addr, ":")
	m.must("run", "--name", "guarded", "--detach", "--publish", port+":80", "app", "--", "serve", "80=here")
	defer func() {
		m.must("stop", "guarded")
		m.must("rm", "guarded")
	}()
	guards := func() []int { return m.processes("\x00guard\x00") }
	if len(guards()) != 1 {
		t.Skip("the guard doesn't work on this machine")
	}
	for i, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		old := guards()[0]
		if err := syscall.Kill(old, sig); err != nil {
			t.Fatal(err)
		}
		m.await("another guard watches", func() bool {
			now := guards()
			return len(now) == 1 && now[0] != old && strings.Count(m.must("audit", "guarded"), "unwatched") == i+1
		})
		if answer(addr) != "here" {
			t.Errorf("after %v the container doesn't answer", sig)
		}
	}
	if out := m.must("audit", "guarded", "-o", "json"); !strings.Contains(out, "did not answer") || !strings.Contains(out, `"/app"`) {
		t.Errorf("the audit is %s", out)
	}
}
