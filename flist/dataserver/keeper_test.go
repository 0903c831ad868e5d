package dataserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// serverVar makes the test binary a data server whose files are the bytes of
// their Spec, repeated.
const serverVar = "ZOS_TEST_DATASERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serverVar) != "" {
		if err := Child(context.Background(), openSpec, Options{}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func openSpec(s Slot) (Reader, error) {
	var text string
	if err := json.Unmarshal(s.Spec, &text); err != nil {
		return nil, fault.Errorf(fault.Invalid, "read the spec of %s: %w", s.Name, err)
	}
	if text == "" {
		return nil, fault.Errorf(fault.NotFound, "%s has no content", s.Name)
	}
	if pipe, ok := strings.CutPrefix(text, "pipe:"); ok {
		return slowClose{repeated(text), pipe}, nil
	}
	return repeated(text), nil
}

// slowClose ends when somebody has written to its pipe, and then leaves a file.
type slowClose struct {
	repeated
	pipe string
}

func (s slowClose) Close() error {
	_, err := os.ReadFile(s.pipe)
	return errors.Join(err, os.WriteFile(s.pipe+".closed", nil, 0o600))
}

type repeated string

func (r repeated) ReadAt(_ context.Context, p []byte, off int64) error {
	for i := range p {
		p[i] = r[(off+int64(i))%int64(len(r))]
	}
	return nil
}

func needFuse(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting the data server needs root")
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE on this machine: %v", err)
	}
	unix.Close(fd)
}

// keep runs a keeper in this process and returns its client and a function
// that waits for its end.
func keep(t *testing.T, cfg KeepConfig) (Client, func() error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg.RunDir = filepath.Join(t.TempDir(), "run")
	if cfg.Cmd == nil {
		cfg.Cmd = []string{exe}
	}
	cfg.Env = []string{serverVar + "=1"}
	ready := make(chan struct{})
	cfg.Ready = func() { close(ready) }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Keep(ctx, cfg) }()
	waited := false
	wait := func() error {
		waited = true
		return <-ended
	}
	t.Cleanup(func() {
		cancel()
		if !waited {
			if err := <-ended; err != nil {
				t.Errorf("Keep() = %v", err)
			}
		}
		if es, err := filepath.Glob(filepath.Join(cfg.RunDir, "data", "*")); err != nil || len(es) > 0 {
			t.Errorf("left: %v, %v", es, err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		waited = true
		t.Fatalf("Keep() = %v", err)
	}
	return Client{RunDir: cfg.RunDir}, wait
}

func spec(s string) json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return b
}

func TestKeeper(t *testing.T) {
	needFuse(t)
	c, wait := keep(t, KeepConfig{})
	ctx := t.Context()
	const size = 3<<20 + 17
	a, err := c.Add(ctx, Slot{Name: "a", Size: size, Spec: spec("0123456789")})
	if err != nil || a.Num != 2 {
		t.Fatalf("Add(a) = %+v, %v", a, err)
	}
	got, err := os.ReadFile(DataPath(c.RunDir, "a"))
	want := make([]byte, size)
	repeated("0123456789").ReadAt(ctx, want, 0)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("file a: %d bytes, %v", len(got), err)
	}
	if again, err := c.Add(ctx, Slot{Name: "a", Size: size, Spec: spec("x")}); err != nil || again.Num != a.Num {
		t.Errorf("Add(a) again = %+v, %v, want the same slot", again, err)
	}
	for name, tt := range map[string]struct {
		slot Slot
		kind fault.Kind
	}{
		"another size":   {Slot{Name: "a", Size: size + 1}, fault.Conflict},
		"a bad name":     {Slot{Name: "../a", Size: 1}, fault.Invalid},
		"a bad spec":     {Slot{Name: "b", Size: 1, Spec: json.RawMessage("7")}, fault.Invalid},
		"a lost content": {Slot{Name: "b", Size: 1, Spec: spec("")}, fault.NotFound},
		"a huge spec":    {Slot{Name: "b", Size: 1, Spec: spec(strings.Repeat("x", maxMessage))}, fault.Invalid},
	} {
		if s, err := c.Add(ctx, tt.slot); fault.Of(err) != tt.kind {
			t.Errorf("Add of %s = %+v, %v, want %s", name, s, err, tt.kind)
		}
	}
	// A name that failed left no slot, and its number is not used again.
	b, err := c.Add(ctx, Slot{Name: "b", Size: 4, Spec: spec("wxyz")})
	if err != nil || b.Num <= a.Num+1 {
		t.Errorf("Add(b) = %+v, %v, want a number that was never used", b, err)
	}
	es, err := os.ReadDir(filepath.Join(c.RunDir, dataDir))
	if err != nil || len(es) != 2 || es[0].Name() != "a" || es[1].Name() != "b" {
		t.Errorf("the directory has %v, %v", es, err)
	}
	if err := os.WriteFile(DataPath(c.RunDir, "a"), nil, 0o600); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EACCES) {
		t.Errorf("writing = %v, want EROFS", err)
	}

	// An open file is served until it is closed, also by another server.
	f, err := os.Open(DataPath(c.RunDir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := c.Remove(ctx, "b"); err != nil {
		t.Error(err)
	}
	if err := c.Upgrade(ctx, nil); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(f); err != nil || string(got) != "wxyz" {
		t.Errorf("a removed file that is open = %q, %v", got, err)
	}
	f.Close()
	if err := c.Remove(ctx, "none"); fault.Of(err) != fault.NotFound {
		t.Errorf("Remove(none) = %v, want not_found", err)
	}
	if err := c.Remove(ctx, "a"); err != nil {
		t.Error(err)
	}
	if err := wait(); err != nil {
		t.Errorf("Keep() = %v after the last slot", err)
	}
	if err := c.Ping(ctx); fault.Of(err) != fault.Unavailable {
		t.Errorf("Ping after the end = %v, want unavailable", err)
	}
	if _, err := (Client{RunDir: c.RunDir}).Add(ctx, Slot{Name: "a", Size: 1}); fault.Of(err) != fault.Unavailable {
		t.Errorf("Add without a keeper = %v, want unavailable", err)
	}
}

// TestRemoveWaitsForClose: what a Reader leaves when it is closed, such as the
// recorded start, is there when Remove returns, of the last slot too.
func TestRemoveWaitsForClose(t *testing.T) {
	needFuse(t)
	for _, last := range []bool{false, true} {
		t.Run(fmt.Sprintf("last=%v", last), func(t *testing.T) {
			c, _ := keep(t, KeepConfig{Forever: !last})
			pipe := filepath.Join(t.TempDir(), "pipe")
			if err := unix.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Add(t.Context(), Slot{Name: "a", Size: 4, Spec: spec("pipe:" + pipe)}); err != nil {
				t.Fatal(err)
			}
			removed := make(chan error, 1)
			go func() { removed <- c.Remove(t.Context(), "a") }()
			// The pipe can be opened for writing once Close reads it.
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			fd := -1
			for fd < 0 {
				var err error
				if fd, err = unix.Open(pipe, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
					break
				}
				select {
				case err := <-removed:
					t.Fatalf("Remove() = %v before the Reader was closed", err)
				case <-tick.C:
				}
			}
			if !last { // another answer of the same processes comes behind the removal's
				if _, err := c.Stat(t.Context()); err != nil {
					t.Error(err)
				}
			}
			select {
			case err := <-removed:
				t.Errorf("Remove() = %v while the Reader was being closed", err)
			default:
			}
			unix.Close(fd)
			if err := <-removed; err != nil {
				t.Errorf("Remove() = %v", err)
			}
			if _, err := os.Stat(pipe + ".closed"); err != nil {
				t.Errorf("the Reader was not closed: %v", err)
			}
		})
	}
}

func TestOneKeeper(t *testing.T) {
	needFuse(t)
	c, _ := keep(t, KeepConfig{Forever: true})
	// The second one would wait for the lock of one that ends.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := Keep(ctx, KeepConfig{RunDir: c.RunDir, Cmd: []string{"/bin/true"}}); fault.Of(err) != fault.Conflict {
		t.Errorf("a second Keep() = %v, want conflict", err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("the first one after that: %v", err)
	}
}

func TestLinger(t *testing.T) {
	needFuse(t)
	_, wait := keep(t, KeepConfig{Linger: time.Millisecond})
	if err := wait(); err != nil {
		t.Errorf("Keep() = %v, want its end without a slot", err)
	}
}

// TestUnmountedByOthers: a keeper without its mount ends.
func TestUnmountedByOthers(t *testing.T) {
	needFuse(t)
	c, wait := keep(t, KeepConfig{Forever: true})
	if err := unix.Unmount(filepath.Join(c.RunDir, dataDir), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := wait(); fault.Of(err) != fault.Unavailable {
		t.Errorf("Keep() = %v, want unavailable", err)
	}
}

func TestServerThatDoesNotStart(t *testing.T) {
	needFuse(t)
	for _, cmd := range [][]string{{"/nowhere"}, {"/bin/true"}, nil} {
		dir := filepath.Join(t.TempDir(), "run")
		err := Keep(t.Context(), KeepConfig{RunDir: dir, Cmd: cmd})
		if err == nil {
			t.Errorf("Keep with the server %q has no error", cmd)
		}
		if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), dir) {
			t.Errorf("Keep with the server %q left a mount (%v)", cmd, err)
		}
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := errors.Join(os.Mkdir(open, 0o755), os.Chmod(open, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := Keep(t.Context(), KeepConfig{RunDir: open, Cmd: []string{"/bin/true"}}); fault.Of(err) != fault.Denied {
		t.Errorf("Keep in a directory that others read = %v, want denied", err)
	}
}

// TestControlSocket: rubbish is answered by an error and harms nobody.
func TestControlSocket(t *testing.T) {
	needFuse(t)
	c, _ := keep(t, KeepConfig{Forever: true})
	for _, line := range []string{"rubbish", `{"op":"what"}`, `{"op":"add"}`, `{"op":"ping","more":1}`, `{"op":"upgrade","cmd":["/nowhere"]}`, strings.Repeat("x", maxMessage+2)} {
		nc, err := net.Dial("unix", filepath.Join(c.RunDir, socketName))
		if err != nil {
			t.Fatal(err)
		}
		nc.Write([]byte(line + "\n")) // the keeper may hang up before it has all
		m, err := newConn(nc, maxReply).receive()
		nc.Close()
		if err == nil && m.err() == nil {
			t.Errorf("%.40q was answered by %+v", line, m)
		}
	}
	st, err := c.Stat(t.Context())
	if err != nil || st.ServerPid == 0 || st.Restarts != 0 {
		t.Errorf("status after rubbish: %+v, %v", st, err)
	}
}

// TestInterrupt: a process that gives up gets EINTR at once, without an event.
func TestInterrupt(t *testing.T) {
	started := make(chan struct{})
	h := newHarness(t, func(Slot) (Reader, error) { return waiting{started}, nil }, Slot{Num: 7, Name: "image", Size: 4096})
	events := 0
	h.opt.OnEvent = func(Event) { events++ }
	answered := make(chan unix.Errno, 1)
	go func() {
		errno, _ := h.ask(t, request(opRead, 50, 7, readBody(0, 16)))
		answered <- errno
	}()
	<-started
	h.handle(t.Context(), request(opInterrupt, 51, 0, []byte{50, 0, 0, 0, 0, 0, 0, 0}))
	if errno := <-answered; errno != unix.EINTR || events != 0 {
		t.Errorf("an interrupted read = %v and %d events, want EINTR and none", errno, events)
	}
}

type waiting struct{ started chan struct{} }

func (w waiting) ReadAt(ctx context.Context, _ []byte, _ int64) error {
	close(w.started)
	<-ctx.Done()
	return ctx.Err()
}

// TestMemory: reads of one image hold at most its half of the memory.
func TestMemory(t *testing.T) {
	r := &counting{release: make(chan struct{}), entered: make(chan struct{}, 100)}
	h := newHarness(t, func(Slot) (Reader, error) { return r, nil }, Slot{Num: 7, Name: "image", Size: 64 << 20})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{}, 100)
	for i := range uint64(100) {
		go func() {
			h.read(ctx, header{Unique: i, Node: 7}, readBody(0, maxRead))
			done <- struct{}{}
		}()
	}
	most := int(h.opt.MaxMemory / 2 / maxRead)
	for range most {
		<-r.entered
	}
	if h.device(Slot{Num: 7}).memory.TryAcquire(1) {
		t.Errorf("%d reads of a MiB are worked on and there is memory for more", most)
	}
	if !h.memory.TryAcquire(h.opt.MaxMemory / 2) {
		t.Error("no memory is left for another image")
	}
	cancel()
	close(r.release)
	for range 100 {
		<-done
	}
}

type counting struct {
	release chan struct{}
	entered chan struct{}
}

func (c *counting) ReadAt(context.Context, []byte, int64) error {
	c.entered <- struct{}{}
	<-c.release
	return errors.New("enough")
}
