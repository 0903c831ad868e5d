package federation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/chain"
	"zos.internal/internal/clock"
)

// programs are built when they are first needed.
type programs struct{ dir string }

var built programs // set by TestMain before any test runs

func TestMain(m *testing.M) {
	os.Exit(func() int {
		unmountLeftovers()
		dir, err := os.MkdirTemp("", "zos-federation-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		built = programs{dir}
		return m.Run()
	}())
}

// zos builds the program once; ZOS_TEST_PROGRAM names one that is built.
func (p programs) zos(t *testing.T) string {
	t.Helper()
	if made := os.Getenv("ZOS_TEST_PROGRAM"); made != "" {
		return made
	}
	name := filepath.Join(p.dir, "zos")
	if _, err := os.Stat(name); err == nil {
		return name
	}
	cmd := exec.Command("go", "build", "-o", name, "zos.internal/cmd/zos")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build zos: %v\n%s", err, b)
	}
	return name
}

// rounds is how often something is killed: ZOS_ROUNDS, or a few.
func rounds(t *testing.T, few int) int {
	n, err := strconv.Atoi(os.Getenv("ZOS_ROUNDS"))
	if err != nil {
		if os.Getenv("ZOS_ROUNDS") != "" {
			t.Fatalf("ZOS_ROUNDS: %v", err)
		}
		return few
	}
	return n
}

// random is a generator whose seed is in the log; ZOS_SEED repeats it.
func random(t *testing.T) *rand.Rand {
	seed, err := strconv.ParseUint(os.Getenv("ZOS_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("ZOS_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// grid is a federation under load.
type grid struct {
	*Federation
	load *Load
	stop func() error // ends the load
}

func newGrid(t *testing.T, o Options) *grid {
	t.Helper()
	if err := Supported(); err != nil {
		t.Skip(err)
	}
	if testing.Short() {
		t.Skip("runs several processes for minutes")
	}
	o.Dir, o.Zos = filepath.Join(t.TempDir(), "grid"), built.zos(t)
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return &grid{Federation: f, stop: func() error { return nil }}
}

// begin starts the validators and the load.
func (g *grid) begin(t *testing.T, owners int) {
	t.Helper()
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	load, err := NewLoad(t.Context(), g.Founder, owners, g.Members[0].Client)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range g.Members[1:g.options.Validators] {
		load.clients = append(load.clients, m.Client)
	}
	g.load = load
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- load.Run(ctx) }()
	ended := false
	g.stop = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := g.stop(); err != nil {
			t.Errorf("load: %v", err)
		}
	})
}

// more waits for so many transactions of the load.
func (g *grid) more(t *testing.T, n int) {
	t.Helper()
	if err := g.load.Await(t.Context(), n); err != nil {
		for _, m := range g.Members {
			h, herr := m.Height(t.Context())
			t.Logf("member %d is at %d, %v; its log ends with\n%s", m.number, h, herr, tail(m.Log()))
		}
		t.Fatal(err)
	}
}

func tail(log string) string { return log[max(0, len(log)-2000):] }

// blocks waits until a member has n more blocks than the chain has now.
func (g *grid) blocks(t *testing.T, m *Member, n uint64) {
	t.Helper()
	newest, err := g.Members[0].Height(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g.reach(t, m, newest+n)
}

func (g *grid) reach(t *testing.T, m *Member, height uint64) {
	t.Helper()
	if err := m.Await(t.Context(), func() bool { h, err := m.Height(t.Context()); return err == nil && h >= height }); err != nil {
		h, herr := m.Height(t.Context())
		t.Fatalf("member %d is at block %d, %v; want %d: %v\n%s", m.number, h, herr, height, err, tail(m.Log()))
	}
}

// check ends the load and wants everything to be as it was acknowledged, on all
// members, and to add up.
func (g *grid) check(t *testing.T, members ...*Member) {
	t.Helper()
	if err := g.stop(); err != nil {
		t.Errorf("load: %v", err)
	}
	acked := g.load.Acknowledged()
	if err := Agree(t.Context(), acked, members...); err != nil {
		t.Error(err)
	}
	h, err := members[0].Height(t.Context())
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d transactions were acknowledged in %d blocks", len(acked), h)
	for _, m := range members {
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
		if err := m.Audit(); err != nil {
			t.Error(err)
		}
	}
}

// restart starts a member that has ended.
func (g *grid) restart(t *testing.T, m *Member) {
	t.Helper()
	if err := m.Start(g.options.Args...); err != nil {
		t.Fatal(err)
	}
}

// The faults come one after the other on one chain under load, each from a state
// that the last one left.
func TestFaults(t *testing.T) {
	g := newGrid(t, Options{Validators: 4, Followers: 1, Args: []string{"--snapshot-every", "10"}})
	disk := smallDisk(t, g.Members[3].Dir, 512<<20)
	g.begin(t, 12)
	ms := g.Members
	g.more(t, 50)

	fault := func(name string, f func(t *testing.T)) {
		if !t.Run(name, f) {
			t.FailNow()
		}
	}
	fault("one is killed", func(t *testing.T) {
		if err := ms[1].Kill(); err != nil {
			t.Fatal(err)
		}
		g.blocks(t, ms[0], 5)
		g.more(t, 20)
		g.restart(t, ms[1])
		g.blocks(t, ms[1], 2)
	})
	fault("one hangs", func(t *testing.T) {
		if err := ms[2].Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		g.blocks(t, ms[0], 5)
		if err := ms[2].Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		g.blocks(t, ms[2], 2)
	})
	fault("two are cut off", func(t *testing.T) { g.cutTwo(t) })
	fault("a disk is full", func(t *testing.T) { g.fullDisk(t, ms[3], disk) })
	fault("kill at random points", func(t *testing.T) {
		r := random(t)
		for range rounds(t, 8) {
			g.more(t, 1+r.IntN(40))
			m := ms[r.IntN(4)]
			if err := m.Kill(); err != nil {
				t.Fatal(err)
			}
			g.restart(t, m)
		}
		g.more(t, 20)
	})
	fault("a clock is wrong", func(t *testing.T) { g.wrongClock(t) })
	fault("a new one begins from a snapshot", func(t *testing.T) { g.newMember(t, ms[4]) })
	g.check(t, ms...)
}

// cutTwo cuts the cables of two of four validators: nobody has two thirds, so
// nobody makes a block, and nothing that was said before is untrue after.
func (g *grid) cutTwo(t *testing.T) {
	t.Helper()
	for _, i := range []int{2, 3} {
		if err := g.Cut(i, true); err != nil {
			t.Fatal(err)
		}
	}
	// Blocks that were on their way may come yet. After them heights stand.
	heights := func() [4]uint64 {
		var hs [4]uint64
		for i, m := range g.Members[:4] {
			h, err := m.Height(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			hs[i] = h
		}
		return hs
	}
	probe := func() {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := g.load.Await(ctx, 1<<20); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	probe()
	before := heights()
	probe()
	if after := heights(); after != before {
		t.Errorf("with two of four cut off the heights went from %v to %v", before, after)
	}
	newest := max(before[0], before[1], before[2], before[3])
	begin := clock.System{}.Now()
	for _, i := range []int{2, 3} {
		if err := g.Cut(i, false); err != nil {
			t.Fatal(err)
		}
	}
	g.reach(t, g.Members[0], newest+1)
	t.Logf("the first block came %v after healing; the bound is 5 s", clock.Since(clock.System{}, begin).Round(10*time.Millisecond))
	for _, m := range g.Members[:4] {
		g.reach(t, m, newest+3)
	}
	g.more(t, 10)
}

// fullDisk fills the disk of a validator: it ends and says why, the others go
// on; with room again it comes back.
func (g *grid) fullDisk(t *testing.T, m *Member, dir string) {
	t.Helper()
	filler := filepath.Join(dir, "filler")
	if err := fill(filler); err != nil {
		t.Fatal(err)
	}
	g.more(t, 20)
	select {
	case <-m.Ended():
	case <-time.After(time.Minute):
		t.Fatalf("the validator goes on with a full disk\n%s", tail(m.Log()))
	}
	if log := m.Log(); !strings.Contains(log, "no space left on device") {
		t.Errorf("the validator doesn't say that its disk is full:\n%s", tail(log))
	}
	g.blocks(t, g.Members[0], 3)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	g.restart(t, m)
	g.blocks(t, m, 2)
}

// wrongClock moves the clock of one validator. The time of blocks is the median
// of all and stays near the others'. With a clock that is ahead, or a little
// behind, the validator takes part. From a minute behind on, blocks seem to come
// from the future: it ends and says so, and the others go on.
func (g *grid) wrongClock(t *testing.T) {
	t.Helper()
	m := g.Members[1]
	begin := func(seconds int32) {
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
		var err error
		if m.Prepare, err = skewed(seconds); err != nil {
			t.Skip(err)
		}
		g.restart(t, m)
	}
	for _, seconds := range []int32{900, -30} {
		begin(seconds)
		g.blocks(t, m, 2)
		g.blocks(t, g.Members[0], 8) // every validator had its turn
		if off := m.clockOff(t) - int64(seconds); off > 15 || off < -15 {
			t.Fatalf("the clock of the validator is off by %d s, want %d s", off+int64(seconds), seconds)
		}
		s, err := m.Client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if off := s.Time - (clock.System{}).Now().Unix(); off > 60 || off < -60 {
			t.Errorf("with one clock off by %d s, the time of block %d is off by %d s", seconds, s.Height, off)
		}
		g.more(t, 10)
	}
	begin(-900)
	select {
	case <-m.Ended():
	case <-time.After(time.Minute):
		t.Fatalf("the validator goes on with a clock that is far behind\n%s", tail(m.Log()))
	}
	if log := m.Log(); !strings.Contains(log, "set the clock of this machine") {
		t.Errorf("the validator doesn't say that its clock is behind:\n%s", tail(log))
	}
	g.blocks(t, g.Members[0], 3)
	m.Prepare = nil
	g.restart(t, m)
	g.blocks(t, m, 2)
}

// clockOff is how far the times in the member's log are from ours, in seconds.
func (m *Member) clockOff(t *testing.T) int64 {
	t.Helper()
	log := m.Log()
	i := strings.LastIndex(log, "time=")
	if i < 0 {
		t.Fatalf("the log has no time:\n%s", tail(log))
	}
	text, _, _ := strings.Cut(log[i+len("time="):], " ")
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return int64(at.Sub(clock.System{}.Now()).Seconds())
}

// newMember begins from a snapshot of the others, and ends with their root.
func (g *grid) newMember(t *testing.T, m *Member) {
	t.Helper()
	h, err := g.Members[0].Height(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var trusted chain.BlockAnswer
	if err := g.Members[0].Client.Get(t.Context(), fmt.Sprintf("/v1/blocks/%d", h-1), &trusted); err != nil {
		t.Fatal(err)
	}
	if err := m.Start("--state-sync-from", "http://"+g.Members[0].Addr+":8490", "--state-sync-from", "http://"+g.Members[1].Addr+":8490",
		"--trust", fmt.Sprintf("%d:%s", trusted.Height, trusted.Hash)); err != nil {
		t.Fatal(err)
	}
	g.reach(t, m, h+20)
	s, err := m.Client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Earliest < 2 {
		t.Errorf("the new member has all blocks from %d on, so it didn't begin from a snapshot", s.Earliest)
	}
}

// One validator alone is killed at random points; what it acknowledged is there.
func TestOneValidatorIsKilled(t *testing.T) {
	g := newGrid(t, Options{Validators: 1})
	g.begin(t, 8)
	m := g.Members[0]
	r := random(t)
	for range rounds(t, 10) {
		g.more(t, 1+r.IntN(100))
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
		g.restart(t, m)
	}
	g.more(t, 20)
	if err := g.stop(); err != nil {
		t.Error(err)
	}
	// What is checked can fail: an answer that no block has is noticed.
	lie := g.load.Acknowledged()[0]
	lie.ID[0] ^= 1
	if err := Agree(t.Context(), []chain.TxAnswer{lie}, m); err == nil || !strings.Contains(err.Error(), lie.ID.String()) {
		t.Errorf("Agree with an answer that was never given = %v", err)
	}
	g.check(t, m)
}

const leftoverPrefix = "zos-federation-"

// smallDisk puts a folder on a file system of its own, which is full soon.
func smallDisk(t *testing.T, dir string, bytes int64) string {
	t.Helper()
	files := make(map[string][]byte)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(leftoverPrefix+strconv.Itoa(os.Getpid()), dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", bytes)); err != nil {
		t.Skipf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for path, b := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fill takes all the room of a file system.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	for len(b) > 0 {
		if _, err := f.Write(b); errors.Is(err, unix.ENOSPC) {
			b = b[:len(b)/2]
		} else if err != nil {
			return err
		}
	}
	return nil
}

// unmountLeftovers gives back what a run that was killed has left.
func unmountLeftovers() {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		where, what, _ := strings.Cut(line, " - ")
		f, w := strings.Fields(where), strings.Fields(what)
		if len(f) < 5 || len(w) < 2 {
			continue
		}
		pid, ok := strings.CutPrefix(w[1], leftoverPrefix)
		if _, err := os.Stat("/proc/" + pid); ok && errors.Is(err, os.ErrNotExist) {
			_ = unix.Unmount(f[4], unix.MNT_DETACH) // the next run tries again
		}
	}
}
