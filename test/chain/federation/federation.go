// Package federation runs the validators of a chain as processes of the real
// program, each in a network namespace of its own, joined by a bridge in another
// one, so that tests can kill, stop and cut them off.
//
//	f, err := federation.New(federation.Options{Dir: dir, Zos: zos, Validators: 4})
//	defer f.Close()
//	err = f.Start(ctx)
//	err = f.Members[2].Signal(syscall.SIGSTOP)
//	err = f.Cut(3, true)
//
// Namespaces have no names and processes die with the thread that started them,
// so nothing is left when the program that uses the package is killed. It needs
// root; Supported says what is missing. Nothing is changed outside of the
// namespaces and the folder that is given.
package federation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"zos.internal/chain/client"
	"zos.internal/chain/engine"
	"zos.internal/identity"
	"zos.internal/internal/thread"
)

// Options say what to run. Dir, Zos and Validators are needed.
type Options struct {
	Dir        string   // an empty folder for the chain
	Zos        string   // the program
	Validators int      // 1, or 4 and more
	Followers  int      // members without a vote, started by hand
	Args       []string // for each zos chain start
}

// Federation is a chain of processes.
type Federation struct {
	Members []*Member
	Founder *identity.PrivateKey // key of party 1, which holds all credits and governs

	options Options
	fabric  int // namespace of the bridge
	link    *netlink.Handle
}

// Member is one process in its namespace.
type Member struct {
	Dir    string // of the chain: v0, v1, …
	Addr   string // in the namespaces
	Client *client.Client
	HTTP   *http.Client // connections go into the namespace
	Args   []string     // more arguments of zos chain start

	// Prepare, if not nil, changes the process before its first instruction.
	Prepare func(pid int) error

	number int
	zos    string
	ns     int
	work   chan func() // runs on the thread that is in the namespace
	mu     sync.Mutex
	cmd    *exec.Cmd
	log    *logBuffer
	ended  chan struct{}
}

// Ports inside the namespaces.
const (
	httpPort = 8490
	peerPort = 26650
)

// Supported says why namespaces can't be made here, or nil.
func Supported() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	return thread.Discard(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "probe"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("make a bridge: %w", err)
		}
		attrs.Name = "probe-veth"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "probe-peer"}); err != nil {
			return fmt.Errorf("make a veth pair: %w", err)
		}
		return nil
	})
}

// New makes the folders with zos chain init, and the namespaces.
func New(o Options) (_ *Federation, err error) {
	f := &Federation{options: o, fabric: -1}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	args := []string{"chain", "init", "--validators", fmt.Sprint(o.Validators), "--output-dir", o.Dir, "--chain", "test-1"}
	for i := range o.Validators {
		args = append(args, "--host", fmt.Sprintf("%s:%d", address(i), peerPort))
	}
	cmd := exec.Command(o.Zos, args...)
	cmd.Env = environ(o.Dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("zos %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	if err := f.age(); err != nil {
		return nil, fmt.Errorf("change the genesis: %w", err)
	}
	if f.Founder, err = identity.Load(filepath.Join(o.Dir, "founder.key")); err != nil {
		return nil, err
	}
	if err := f.bridge(); err != nil {
		return nil, fmt.Errorf("make the bridge: %w", err)
	}
	for i := range o.Validators + o.Followers {
		m, err := f.member(i)
		if m != nil {
			f.Members = append(f.Members, m)
		}
		if err != nil {
			return nil, fmt.Errorf("make member %d: %w", i, err)
		}
	}
	return f, f.follow()
}

// age moves the genesis an hour back, so that a validator whose clock is behind
// doesn't wait for it.
func (f *Federation) age() error {
	for i := range f.options.Validators {
		path := filepath.Join(f.options.Dir, fmt.Sprintf("v%d", i), "genesis.json")
		g, err := engine.ReadGenesis(path)
		if err != nil {
			return err
		}
		g.Time = g.Time.Add(-time.Hour)
		b, err := g.Encode()
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// follow gives followers the genesis and all validators as peers.
func (f *Federation) follow() error {
	for _, m := range f.Members[f.options.Validators:] {
		if err := os.MkdirAll(m.Dir, 0o700); err != nil {
			return err
		}
		genesis, err := os.ReadFile(filepath.Join(f.Members[0].Dir, "genesis.json"))
		if err != nil {
			return err
		}
		// Two lists of three name all four.
		var peers []string
		for _, v := range f.Members[:2] {
			b, err := os.ReadFile(filepath.Join(v.Dir, "peers"))
			if err != nil {
				return err
			}
			peers = append(peers, strings.Fields(string(b))...)
		}
		slices.Sort(peers)
		peers = slices.Compact(peers)
		if err := errors.Join(os.WriteFile(filepath.Join(m.Dir, "genesis.json"), genesis, 0o644),
			os.WriteFile(filepath.Join(m.Dir, "peers"), []byte(strings.Join(peers, "\n")+"\n"), 0o644)); err != nil {
			return err
		}
	}
	return nil
}

func address(i int) string { return fmt.Sprintf("10.77.0.%d", i+1) }

func environ(dir string) []string {
	return append(os.Environ(), "ZOS_DATA="+filepath.Join(dir, "data"), "ZOS_CACHE="+filepath.Join(dir, "cache"), "ZOS_RUN="+filepath.Join(dir, "run"),
		"ZOS_CONFIG=/dev/null", "ZOS_HUB=", "ZOS_KEY=", "ZOS_TENANT_KEY=", "ZOS_CONTEXT=", "ZOS_CHAIN=")
}

// namespace opens a new network namespace with loopback up.
func namespace() (ns int, err error) {
	err = thread.Discard(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	return ns, err
}

func (f *Federation) bridge() (err error) {
	if f.fabric, err = namespace(); err != nil {
		return err
	}
	if f.link, err = netlink.NewHandleAt(netns.NsHandle(f.fabric)); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "bridge"
	b := &netlink.Bridge{LinkAttrs: attrs}
	if err := f.link.LinkAdd(b); err != nil {
		return err
	}
	return f.link.LinkSetUp(b)
}

// member makes a namespace with a cable to the bridge.
func (f *Federation) member(i int) (*Member, error) {
	m := &Member{Dir: filepath.Join(f.options.Dir, fmt.Sprintf("v%d", i)), Addr: address(i), zos: f.options.Zos, number: i, log: &logBuffer{}, work: make(chan func())}
	var err error
	if m.ns, err = namespace(); err != nil {
		return nil, err
	}
	entered := make(chan error, 1)
	go m.thread(entered)
	if err := <-entered; err != nil {
		return m, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = port(i)
	if err := f.link.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(m.ns)}); err != nil {
		return m, fmt.Errorf("make the veth pair: %w", err)
	}
	b, err := f.link.LinkByName("bridge")
	if err != nil {
		return m, err
	}
	p, err := f.link.LinkByName(port(i))
	if err != nil {
		return m, err
	}
	if err := errors.Join(f.link.LinkSetMaster(p, b), f.link.LinkSetUp(p)); err != nil {
		return m, err
	}
	inside, err := netlink.NewHandleAt(netns.NsHandle(m.ns))
	if err != nil {
		return m, err
	}
	defer inside.Close()
	eth, err := inside.LinkByName("eth0")
	if err != nil {
		return m, err
	}
	a, err := netlink.ParseAddr(m.Addr + "/24")
	if err != nil {
		return m, err
	}
	if err := errors.Join(inside.AddrAdd(eth, a), inside.LinkSetUp(eth)); err != nil {
		return m, err
	}
	m.HTTP = &http.Client{Transport: &http.Transport{DialContext: m.dial, MaxIdleConnsPerHost: 64, ResponseHeaderTimeout: 15 * time.Second}}
	m.Client, err = client.New(fmt.Sprintf("http://127.0.0.1:%d", httpPort), m.HTTP)
	return m, err
}

func port(i int) string { return fmt.Sprintf("port%d", i) }

// thread is the life of a member's thread: processes that it starts are in the
// namespace, and die when it ends.
func (m *Member) thread(entered chan<- error) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	if unix.Gettid() == unix.Getpid() {
		// The main thread can't be given away.
		taken := make(chan struct{})
		go func() {
			close(taken)
			m.thread(entered)
		}()
		<-taken
		runtime.UnlockOSThread()
		return
	}
	err := unix.Setns(m.ns, unix.CLONE_NEWNET)
	entered <- err
	if err != nil {
		return
	}
	for f := range m.work {
		f()
	}
}

// dial connects inside of the member's namespace, so it works also when its
// cable is cut.
func (m *Member) dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = thread.Discard(func() error {
		if err := unix.Setns(m.ns, unix.CLONE_NEWNET); err != nil {
			return err
		}
		d := net.Dialer{Timeout: 5 * time.Second}
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Start starts all validators.
func (f *Federation) Start(ctx context.Context) error {
	for _, m := range f.Members[:f.options.Validators] {
		if err := m.Start(f.options.Args...); err != nil {
			return err
		}
	}
	for _, m := range f.Members[:f.options.Validators] {
		if err := m.Await(ctx, func() bool { h, err := m.Height(ctx); return err == nil && h > 0 }); err != nil {
			return fmt.Errorf("the first block of member %d: %w\n%s", m.number, err, m.Log())
		}
	}
	return nil
}

// Start starts the member's process.
func (m *Member) Start(args ...string) error {
	all := append([]string{"chain", "start", "--data", m.Dir, "--listen", fmt.Sprintf("0.0.0.0:%d", httpPort),
		"--peer-listen", fmt.Sprintf("0.0.0.0:%d", peerPort), "--peer-external", fmt.Sprintf("%s:%d", m.Addr, peerPort)}, args...)
	cmd := exec.Command(m.zos, append(all, m.Args...)...)
	cmd.Env = environ(m.Dir)
	cmd.Stdout, cmd.Stderr = m.log, m.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Ptrace: m.Prepare != nil}
	started := make(chan error, 1)
	m.work <- func() {
		err := cmd.Start()
		if err == nil && m.Prepare != nil {
			err = m.prepare(cmd.Process.Pid)
		}
		started <- err
	}
	if err := <-started; err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in ProcessState
		close(ended)
	}()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cmd, m.ended = cmd, ended
	return nil
}

// prepare lets Prepare work on a process that stands before its first
// instruction, and lets it go. Only the thread that started it can.
func (m *Member) prepare(pid int) error {
	var s unix.WaitStatus
	if _, err := unix.Wait4(pid, &s, 0, nil); err != nil || !s.Stopped() {
		return fmt.Errorf("member %d doesn't stop before its first instruction: %v, %w", m.number, s, err)
	}
	return errors.Join(m.Prepare(pid), unix.PtraceDetach(pid))
}

// Signal sends a signal to the process.
func (m *Member) Signal(s syscall.Signal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return fmt.Errorf("member %d was not started", m.number)
	}
	return m.cmd.Process.Signal(s)
}

// Ended is closed when the process has ended.
func (m *Member) Ended() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ended
}

// Kill ends the process at once and waits until it is gone.
func (m *Member) Kill() error { return m.end(syscall.SIGKILL) }

// Stop asks the process to end, waits, and says how it ended.
func (m *Member) Stop() error {
	if err := m.end(syscall.SIGTERM); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if code := m.cmd.ProcessState.ExitCode(); code != 0 && code != 130 {
		return fmt.Errorf("member %d ended with %s\n%s", m.number, m.cmd.ProcessState, m.Log())
	}
	return nil
}

func (m *Member) end(s syscall.Signal) error {
	if err := m.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-m.Ended():
	case <-time.After(30 * time.Second):
		return fmt.Errorf("member %d doesn't end after %v\n%s", m.number, s, m.Log())
	}
	m.HTTP.CloseIdleConnections()
	return nil
}

// Process is the process, nil when there was none yet.
func (m *Member) Process() *os.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return nil
	}
	return m.cmd.Process
}

// Log is the end of what the process said.
func (m *Member) Log() string { return m.log.String() }

// Height is the newest block of the member.
func (m *Member) Height(ctx context.Context) (uint64, error) {
	s, err := m.Client.Status(ctx)
	return s.Height, err
}

// Await asks until ok, at most until ctx ends, or a minute.
func (m *Member) Await(ctx context.Context, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-m.Ended():
			return fmt.Errorf("member %d has ended", m.number)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Cut takes the cable of a member off the bridge, or puts it back.
func (f *Federation) Cut(i int, off bool) error {
	l, err := f.link.LinkByName(port(i))
	if err != nil {
		return err
	}
	if off {
		return f.link.LinkSetDown(l)
	}
	return f.link.LinkSetUp(l)
}

// Close kills what runs and gives back the namespaces. The folder stays.
func (f *Federation) Close() error {
	var errs []error
	for _, m := range f.Members {
		if m.Process() != nil {
			errs = append(errs, m.Kill())
		}
		close(m.work)
		if m.HTTP != nil {
			m.HTTP.CloseIdleConnections()
		}
		errs = append(errs, unix.Close(m.ns))
	}
	if f.link != nil {
		f.link.Close()
	}
	if f.fabric >= 0 {
		errs = append(errs, unix.Close(f.fabric))
	}
	f.Members, f.link, f.fabric = nil, nil, -1
	return errors.Join(errs...)
}

// logBuffer keeps the last MiB.
type logBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	if n := len(l.b) - 1<<20; n > 0 {
		l.b = slices.Clone(l.b[n:])
	}
	return len(p), nil
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(bytes.Clone(l.b))
}
