package dataserver

import (
	"context"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// The descriptors that the keeper gives to its data server.
const (
	childFuseFD    = 3
	childControlFD = 4
)

// Child is the data server's process: the command that Keep starts calls it.
// It takes the descriptors 3 (/dev/fuse) and 4 (the keeper), serves until the
// keeper tells it to stop or is gone, and then returns nil.
func Child(ctx context.Context, open Opener, opt Options) error {
	var st unix.Stat_t
	if err := unix.Fstat(childControlFD, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fault.Errorf(fault.Invalid, "start the data server: descriptor %d is not the keeper's socket; the keeper starts this command itself", childControlFD)
	}
	unix.CloseOnExec(childFuseFD)
	unix.CloseOnExec(childControlFD)
	f := os.NewFile(childControlFD, "keeper")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return fault.Errorf(fault.Internal, "start the data server: use the keeper's socket: %w", err)
	}
	defer c.Close()
	keeper := newConn(c, maxMessage)
	keeper.lenient = true
	return child(ctx, childFuseFD, keeper, open, opt)
}

func child(ctx context.Context, fuseFD int, keeper *conn, open Opener, opt Options) error {
	hello, err := keeper.receive()
	if err != nil || hello.Op != "hello" || hello.Params == nil {
		return fault.Errorf(fault.Internal, "start the data server: no greeting by the keeper: %w", err)
	}
	table := new(Table)
	for {
		m, err := keeper.receive()
		if err != nil {
			return fault.Errorf(fault.Internal, "start the data server: read the slots: %w", err)
		}
		if m.Op == "start" {
			break
		}
		if m.Op != "add" || m.Slot == nil {
			return fault.Errorf(fault.Internal, "start the data server: the keeper said %q between the slots", m.Op)
		}
		if err := table.Add(*m.Slot); err != nil {
			return err
		}
	}
	notify := opt.OnEvent
	opt.OnEvent = func(e Event) {
		if notify != nil {
			notify(e)
		}
		keeper.send(message{Op: "event", Event: &e})
	}
	s, err := newServer(fuseFD, table, open, opt)
	if err != nil {
		return err
	}
	s.resend.Store(hello.Params.Resend)
	s.opened = func(slot, handle uint64) { keeper.send(message{Op: "open", Num: slot, Handle: handle}) }
	s.closed = func(slot, handle uint64) { keeper.send(message{Op: "release", Num: slot, Handle: handle}) }

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the connection, which Child closes
		defer cancel()
		for {
			m, err := keeper.receive()
			if err != nil || m.Op == "stop" {
				return
			}
			s.command(m, keeper)
		}
	}()
	if err := keeper.send(message{Op: "ready"}); err != nil {
		return fault.Errorf(fault.Unavailable, "start the data server: tell the keeper: %w", err)
	}
	return s.run(ctx)
}

// command does what the keeper asks for.
func (s *server) command(m message, keeper *conn) {
	switch m.Op {
	case "add":
		if m.Slot == nil {
			return
		}
		slot := *m.Slot
		if err := s.table.Add(slot); err != nil {
			keeper.send(errorMessage("added", err).withNum(slot.Num))
			return
		}
		// Opening may wait for the network; other commands don't wait for it.
		go func() {
			_, err := s.device(slot).reader(slot, s.open)
			keeper.send(errorMessage("added", err).withNum(slot.Num))
		}()
	case "remove":
		s.table.Remove(m.Num)
		s.drop(m.Num, func() { keeper.send(message{Op: "removed", Num: m.Num}) })
	case "stat":
		st := s.stats()
		keeper.send(message{Op: "stat", Stats: &st})
	}
}

func (m message) withNum(n uint64) message { m.Num = n; return m }

// Status is what a keeper reports about itself.
type Status struct {
	Pid       int          `json:"pid"`
	ServerPid int          `json:"server_pid"` // 0 while none runs
	Cmd       []string     `json:"cmd"`
	Restarts  int          `json:"restarts"` // of the data server
	Params    Params       `json:"params"`
	Stats     Stats        `json:"stats"` // of the data server that runs now
	Slots     []SlotStatus `json:"slots"`
	Events    []Event      `json:"events"` // the last 64
	Failures  int64        `json:"failures"`
}

// SlotStatus is one image that a keeper serves.
type SlotStatus struct {
	Slot
	Handles  int  `json:"handles"`  // open by the kernel: mounts and loop devices
	Removing bool `json:"removing"` // gone when the last handle closes
}
