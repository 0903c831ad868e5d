package dataserver

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"time"

	"zos.internal/internal/fault"
)

// Client talks to the keeper of a run directory. It holds no connection; its
// methods may be called by many goroutines.
type Client struct {
	RunDir string
	// Start is the command that runs Keep for RunDir in the foreground, started
	// when Add finds no keeper; nil refuses instead.
	Start []string
	// Env is added to the environment of Start.
	Env []string
}

func (c Client) call(ctx context.Context, m message) (message, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", filepath.Join(c.RunDir, socketName))
	if err != nil {
		return message{}, fault.Errorf(fault.Unavailable, "ask the keeper in %s: %w", c.RunDir, err)
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	k := newConn(nc, maxReply)
	if err := k.send(m); err != nil {
		return message{}, fault.Errorf(fault.Unavailable, "ask the keeper in %s: %w", c.RunDir, err)
	}
	answer, err := k.receive()
	if err != nil {
		return message{}, fault.Errorf(fault.Unavailable, "ask the keeper in %s: it went away: %w", c.RunDir, errors.Join(err, ctx.Err()))
	}
	return answer, answer.err()
}

// Ping reports whether a keeper works; Unavailable if not.
func (c Client) Ping(ctx context.Context) error {
	_, err := c.call(ctx, message{Op: "ping"})
	return err
}

// Add makes a slot, or finds the one with that name, and returns it with its
// number. A keeper is started if there is none. The file is at DataPath.
// An error of the Opener comes back with its kind.
func (c Client) Add(ctx context.Context, s Slot) (Slot, error) {
	s.Num = 0
	if err := s.check(); err != nil {
		return Slot{}, err
	}
	for try := 0; ; try++ {
		if err := c.ensure(ctx); err != nil {
			return Slot{}, err
		}
		m, err := c.call(ctx, message{Op: "add", Slot: &s})
		if err == nil && m.Slot == nil {
			return Slot{}, fault.Errorf(fault.Internal, "add slot %s: the keeper's answer has no slot", s.Name)
		}
		if err == nil {
			return *m.Slot, nil
		}
		// A keeper that ends while we ask: its successor takes the slot. Any
		// other answer, an Opener's Unavailable too, is final.
		if try == 3 || ctx.Err() != nil || fault.Of(err) != fault.Unavailable || c.Ping(ctx) == nil {
			return Slot{}, err
		}
	}
}

// Remove lets a slot go. It is served until the kernel closed its last handle;
// Remove waits a second for that, and then for its Reader to be closed. The
// keeper ends with its last slot; Remove waits for that.
func (c Client) Remove(ctx context.Context, name string) error {
	m, err := c.call(ctx, message{Op: "remove", Name: name})
	if err != nil || !m.Ends {
		return err
	}
	lock, err := takeLock(ctx, filepath.Join(c.RunDir, lockName))
	if err != nil { // it takes long, or another one started already
		return nil
	}
	return lock.Close()
}

// Stat reports what the keeper and its data server do.
func (c Client) Stat(ctx context.Context) (Status, error) {
	m, err := c.call(ctx, message{Op: "stat"})
	if err != nil {
		return Status{}, err
	}
	if m.Status == nil {
		return Status{}, fault.Errorf(fault.Internal, "ask the keeper in %s: its answer has no status", c.RunDir)
	}
	return *m.Status, nil
}

// Upgrade replaces the data server by the one that cmd starts; with no cmd it
// starts the same program again. No read fails.
func (c Client) Upgrade(ctx context.Context, cmd []string) error {
	_, err := c.call(ctx, message{Op: "upgrade", Cmd: cmd})
	return err
}

// Handover replaces the keeper's program by keeper, in place, and with it the
// data server. No read fails. It returns when the new keeper answers; a
// program that doesn't start leaves the old one at work.
func (c Client) Handover(ctx context.Context, keeper []string) error {
	if _, err := c.call(ctx, message{Op: "handover", Cmd: keeper}); err != nil {
		return err
	}
	return c.Ping(ctx)
}

// ensure starts a keeper if none answers. Several clients start only one.
func (c Client) ensure(ctx context.Context) error {
	if c.Ping(ctx) == nil {
		return nil
	}
	if len(c.Start) == 0 {
		return fault.Errorf(fault.Unavailable, "use the data server in %s: none runs there", c.RunDir)
	}
	if err := prepareRunDir(c.RunDir); err != nil {
		return err
	}
	lock, err := takeLock(ctx, filepath.Join(c.RunDir, "start.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if c.Ping(ctx) == nil {
		return nil
	}
	return Background(ctx, c.Start, c.Env, filepath.Join(c.RunDir, logName), nil)
}
