package dataserver

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// stopGrace is how long a data server may take to end by itself.
const stopGrace = 5 * time.Second

func mountOptions(fd int) string {
	return "fd=" + strconv.Itoa(fd) + ",rootmode=40000,user_id=0,group_id=0"
}

// supervise runs one data server after the other until ctx ends.
func (k *keeper) supervise(ctx context.Context) error {
	quick := 0 // deaths in a row within 10 s of the start
	for {
		stable := make(chan struct{})
		timer := time.AfterFunc(10*time.Second, func() { close(stable) })
		err := k.serveOnce(ctx)
		timer.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		k.mu.Lock()
		if !k.isUp {
			k.mu.Unlock()
			return fault.Errorf(fault.Unavailable, "start the data server %q: it ended before it was ready: %w", k.cfg.Cmd, err)
		}
		told := k.stopping
		k.stopping = false
		k.restarts++
		k.mu.Unlock()
		if told {
			k.cfg.Log.Info("data server replaced")
			quick = 0
		} else if err == nil {
			// It ends by itself only when the kernel closed the connection.
			return fault.Errorf(fault.Unavailable, "keep the data server: somebody unmounted %s; mount the images again", filepath.Join(k.cfg.RunDir, dataDir))
		} else {
			k.cfg.Log.Error("data server died", "error", err)
			if !k.params.Resend {
				return fault.Errorf(fault.Unavailable, "keep the data server: it died, and this kernel cannot send its requests again; unmount the images and mount them anew (Linux 6.9 and later go on): %w", err)
			}
			quick++
		}
		select {
		case <-stable:
			quick = 0
		default:
		}
		// The first deaths cost nothing; a server that can't start is tried
		// every 2 s.
		if quick > 8 {
			delay := time.NewTimer(min(2*time.Second, 10*time.Millisecond<<min(quick-8, 10)))
			select {
			case <-ctx.Done():
			case <-delay.C:
			}
			delay.Stop()
		}
	}
}

// serveOnce starts a data server and returns when it is gone.
func (k *keeper) serveOnce(ctx context.Context) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fault.Errorf(fault.Internal, "make a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "server"), os.NewFile(uintptr(pair[1]), "keeper")
	nc, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return fault.Errorf(fault.Internal, "use a socket pair: %w", err)
	}
	defer nc.Close()
	c := newConn(nc, maxMessage)
	c.lenient = true

	k.mu.Lock()
	cmd := exec.Command(k.cfg.Cmd[0], k.cfg.Cmd[1:]...)
	cmd.Env = append(os.Environ(), k.cfg.Env...)
	k.mu.Unlock()
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{k.fuse, theirs} // descriptors 3 and 4
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fault.Errorf(fault.Of(err), "start the data server %q: %w", cmd.Path, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()

	k.greet(c, cmd.Process.Pid)
	read := make(chan struct{})
	go func() {
		defer close(read)
		k.listenTo(c)
	}()

	select {
	case err = <-exited:
	case <-ctx.Done():
		err = k.stopServer(c, cmd, exited)
	}
	// What the server said before it died counts; its end of the pair is
	// closed, so this ends.
	<-read
	k.mu.Lock()
	k.server, k.pid = nil, 0
	for num, ack := range k.acks { // the next one opens them when they are read
		ack <- nil
		delete(k.acks, num)
	}
	for _, w := range k.statWait {
		close(w)
	}
	k.statWait = nil
	for _, s := range k.closing {
		close(s.gone)
	}
	k.closing = nil
	k.mu.Unlock()
	if k.params.Resend && ctx.Err() == nil {
		// All threads of the old server are gone: what it took and did not
		// answer comes again, to whoever reads next.
		if _, err := unix.Write(int(k.fuse.Fd()), resendMessage()); err != nil {
			k.cfg.Log.Error("kernel refused to send requests again", "error", err)
		}
	}
	return err
}

// greet tells a new data server all slots. Slots that are added meanwhile wait
// for the lock and follow.
func (k *keeper) greet(c *conn, pid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.params
	c.send(message{Op: "hello", Params: &p})
	for _, s := range k.slots {
		slot := s.slot
		c.send(message{Op: "add", Slot: &slot})
	}
	c.send(message{Op: "start"})
	k.server, k.pid = c, pid
}

func (k *keeper) stopServer(c *conn, cmd *exec.Cmd, exited chan error) error {
	c.send(message{Op: "stop"})
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case err := <-exited:
		return err
	case <-grace.C:
		cmd.Process.Kill()
		return <-exited
	}
}

// listenTo takes what the data server says, until it is gone.
func (k *keeper) listenTo(c *conn) {
	for {
		m, err := c.receive()
		if err != nil {
			return
		}
		k.mu.Lock()
		switch m.Op {
		case "ready":
			if !k.isUp {
				k.isUp = true
				close(k.up)
			}
		case "open":
			if s := k.byNum(m.Num); s != nil {
				s.handles[m.Handle] = true
			}
		case "release":
			if s := k.byNum(m.Num); s != nil {
				delete(s.handles, m.Handle)
				k.dropIfUnused(s)
			}
		case "added":
			if ack := k.acks[m.Num]; ack != nil {
				ack <- m.err()
				delete(k.acks, m.Num)
			}
		case "removed":
			k.closing = slices.DeleteFunc(k.closing, func(s *slotState) bool {
				if s.slot.Num == m.Num {
					close(s.gone)
				}
				return s.slot.Num == m.Num
			})
		case "event":
			k.failures++
			if m.Event != nil {
				k.events = append(k.events, *m.Event)
				k.events = k.events[max(0, len(k.events)-64):]
			}
		case "stat":
			if m.Stats != nil && len(k.statWait) > 0 {
				k.statWait[0] <- *m.Stats
				k.statWait = k.statWait[1:]
			}
		}
		k.mu.Unlock()
	}
}

func (k *keeper) byNum(num uint64) *slotState {
	for _, s := range k.slots {
		if s.slot.Num == num {
			return s
		}
	}
	return nil
}

// dropIfUnused takes a slot out that was removed and has no handle any more.
// The caller holds mu.
func (k *keeper) dropIfUnused(s *slotState) {
	if !s.removing || len(s.handles) > 0 {
		return
	}
	delete(k.slots, s.slot.Name)
	close(s.unused)
	if err := k.persist(); err != nil {
		k.cfg.Log.Error("slot table not written", "error", err)
	}
	if k.server != nil {
		k.closing = append(k.closing, s)
		k.server.send(message{Op: "remove", Num: s.slot.Num})
	} else {
		close(s.gone)
	}
	if len(k.slots) == 0 && !k.ending && !k.cfg.Forever {
		k.ending = true
		close(k.ended)
	}
}
