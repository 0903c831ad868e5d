package dataserver

import (
	"context"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// removeWait is how long a removal waits for the kernel to close its handles:
// it does so a moment after the last unmount.
const removeWait = time.Second

// closeWait is how long a removal waits for the Reader to be closed, which
// leaves what it recorded. A keeper that ends with its last slot gives its data
// server stopGrace for the same.
const closeWait = stopGrace

// openWait is how long an Opener may take when a slot is added.
const openWait = 2 * time.Minute

// accept serves clients until the listener closes.
func (k *keeper) accept(ctx context.Context) {
	for {
		nc, err := k.listen.AcceptUnix()
		if err != nil {
			return
		}
		k.clients.Go(func() {
			defer nc.Close()
			stop := context.AfterFunc(ctx, func() { nc.SetReadDeadline(time.Unix(1, 0)) })
			defer stop()
			k.client(ctx, nc)
		})
	}
}

func (k *keeper) client(ctx context.Context, nc *net.UnixConn) {
	c := newConn(nc, maxMessage)
	if err := checkPeer(nc); err != nil {
		c.send(errorMessage("denied", err))
		return
	}
	for {
		m, err := c.receive()
		if err != nil {
			if fault.Of(err) == fault.Invalid {
				c.send(errorMessage("error", err))
			}
			return
		}
		if c.send(k.command(ctx, m)) != nil {
			return
		}
	}
}

// checkPeer admits root and the user of the keeper.
func checkPeer(nc *net.UnixConn) error {
	raw, err := nc.SyscallConn()
	if err != nil {
		return fault.As(fault.Internal, err)
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return fault.Errorf(fault.Internal, "ask who the client is: %w", err)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fault.Errorf(fault.Denied, "control the data server: user %d is neither root nor user %d, who runs it", cred.Uid, os.Geteuid())
	}
	return nil
}

// command does what a client asks for and returns the answer.
func (k *keeper) command(ctx context.Context, m message) message {
	switch m.Op {
	case "ping":
		return message{Op: "ping"}
	case "add":
		if m.Slot == nil {
			return errorMessage("add", fault.Errorf(fault.Invalid, "add a slot: the message has none"))
		}
		slot, err := k.add(ctx, *m.Slot)
		if err != nil {
			return errorMessage("add", err)
		}
		slot.Spec = nil
		return message{Op: "add", Slot: &slot}
	case "remove":
		answer := errorMessage("remove", k.remove(ctx, m.Name))
		k.mu.Lock()
		answer.Ends = k.ending
		k.mu.Unlock()
		return answer
	case "stat":
		st := k.status(ctx)
		return message{Op: "stat", Status: &st}
	case "handover":
		return errorMessage("handover", k.takeOver(m.Cmd))
	case "upgrade":
		return errorMessage("upgrade", k.upgrade(m.Cmd))
	}
	return errorMessage(m.Op, fault.Errorf(fault.Unsupported, "the keeper doesn't know the command %.40q; both programs should be of one version", m.Op))
}

// add makes a slot, or revives the one that has the name.
func (k *keeper) add(ctx context.Context, slot Slot) (Slot, error) {
	k.mu.Lock()
	if k.ending {
		k.mu.Unlock()
		return Slot{}, fault.Errorf(fault.Unavailable, "add slot %s: this keeper ends; start another", slot.Name)
	}
	if s := k.slots[slot.Name]; s != nil {
		defer k.mu.Unlock()
		if s.slot.Size != slot.Size {
			return Slot{}, fault.Errorf(fault.Conflict, "add slot %s: it exists with %d bytes instead of %d; one id must have one size", slot.Name, s.slot.Size, slot.Size)
		}
		s.removing = false
		return s.slot, nil
	}
	if len(k.slots) >= maxSlots {
		defer k.mu.Unlock()
		return Slot{}, fault.Errorf(fault.Exhausted, "add slot %s: %d images are mounted; unmount some", slot.Name, maxSlots)
	}
	slot.Num = k.next
	k.next++
	s := newSlotState(slot)
	k.slots[slot.Name] = s
	if err := k.persist(); err != nil {
		delete(k.slots, slot.Name)
		k.mu.Unlock()
		return Slot{}, err
	}
	ack := make(chan error, 1)
	if k.server != nil {
		k.acks[slot.Num] = ack
		k.server.send(message{Op: "add", Slot: &slot})
	} else {
		ack <- nil // it is in the greeting of the server that starts
	}
	k.mu.Unlock()

	patience := time.NewTimer(openWait)
	defer patience.Stop()
	var err error
	select {
	case err = <-ack:
	case <-patience.C:
		err = fault.Errorf(fault.Unavailable, "add slot %s: its data could not be opened within %v", slot.Name, openWait)
	case <-ctx.Done():
		err = fault.Errorf(fault.Unavailable, "add slot %s: the keeper ends", slot.Name)
	}
	if err != nil {
		k.mu.Lock()
		s.removing = true
		delete(k.acks, slot.Num)
		k.dropIfUnused(s)
		k.mu.Unlock()
		return Slot{}, err
	}
	return slot, nil
}

// remove lets a slot go as soon as the kernel has no handle of it, and returns
// when its Reader is closed.
func (k *keeper) remove(ctx context.Context, name string) error {
	// An answer of the data server comes after what it said about handles
	// that were opened before the client asked.
	k.ask(ctx)
	k.mu.Lock()
	s := k.slots[name]
	if s == nil {
		k.mu.Unlock()
		return fault.Errorf(fault.NotFound, "remove slot %.140q: there is none", name)
	}
	s.removing = true
	k.dropIfUnused(s)
	k.mu.Unlock()
	wait := time.NewTimer(removeWait)
	defer wait.Stop()
	select {
	case <-s.unused:
	case <-wait.C: // a container still has it mounted: it goes with the container
		return nil
	case <-ctx.Done():
		return nil
	}
	patience := time.NewTimer(closeWait)
	defer patience.Stop()
	select {
	case <-s.gone:
	case <-patience.C:
		k.cfg.Log.Warn("the data of a removed image takes long to close", "image", name)
	case <-ctx.Done():
	}
	return nil
}

func (k *keeper) status(ctx context.Context) Status {
	k.mu.Lock()
	st := Status{
		Pid: os.Getpid(), ServerPid: k.pid, Cmd: slices.Clone(k.cfg.Cmd), Restarts: k.restarts,
		Params: k.params, Events: slices.Clone(k.events), Failures: k.failures,
	}
	for _, s := range k.slots {
		slot := s.slot
		slot.Spec = nil
		st.Slots = append(st.Slots, SlotStatus{Slot: slot, Handles: len(s.handles), Removing: s.removing})
	}
	k.mu.Unlock()
	slices.SortFunc(st.Slots, func(a, b SlotStatus) int { return int(int64(a.Num) - int64(b.Num)) })
	st.Stats = k.ask(ctx)
	return st
}

// ask is what the data server says about its work; zero while none runs.
func (k *keeper) ask(ctx context.Context) (st Stats) {
	wait := make(chan Stats, 1)
	k.mu.Lock()
	if k.server != nil {
		k.statWait = append(k.statWait, wait)
		k.server.send(message{Op: "stat"})
	} else {
		close(wait)
	}
	k.mu.Unlock()
	patience := time.NewTimer(2 * time.Second)
	defer patience.Stop()
	select {
	case st = <-wait:
	case <-patience.C:
	case <-ctx.Done():
	}
	return st
}

// upgrade replaces the data server by one that cmd starts; an empty cmd starts
// the same program again. Readers see a pause.
func (k *keeper) upgrade(cmd []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(cmd) > 0 {
		if st, err := os.Stat(cmd[0]); err != nil || st.Mode()&0o111 == 0 {
			return fault.Errorf(fault.Invalid, "upgrade the data server: %s is not a program that can be started; the old one goes on", cmd[0])
		}
		k.cfg.Cmd = slices.Clone(cmd)
	}
	if k.server != nil && !k.stopping {
		k.stopping = true
		k.server.send(message{Op: "stop"})
	}
	return nil
}
