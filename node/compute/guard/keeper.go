package guard

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os/exec"
	"sync"
	"time"

	"zos.internal/internal/fault"
)

// Ready is what a guard says first on its Pongs.
const Ready = "ready\n"

// Keeper keeps one guard running in a process of its own. It pings it, kills
// it when it doesn't answer, and starts another one whenever one ended. In
// between execs pass unwatched; whoever waits for a hung guard's answer is let
// through by its end.
type Keeper struct {
	Command  func() *exec.Cmd // makes the process that calls Serve with its stdin as Pings and its stdout as Pongs
	Every    time.Duration    // between pings; 0 is a second
	Patience time.Duration    // how long an answer may take; 0 is two seconds
	Startup  time.Duration    // how long a guard may take until it watches; 0 is ten seconds
	OnEnd    func(error)      // called for each guard that ended unasked, before the next one starts; may be nil
	Log      *slog.Logger     // nil discards
}

// Kept is a guard that is kept.
type Kept struct {
	k      Keeper
	cancel context.CancelFunc
	done   chan struct{}

	mu  sync.Mutex
	now *process // the one that runs, nil between two
}

// Start starts the guard and returns when it watches. Its error is that of the
// first guard; later ones are tried again. The guard is kept until Close,
// whatever happens to ctx.
func (k Keeper) Start(ctx context.Context) (*Kept, error) {
	if k.Every <= 0 {
		k.Every = time.Second
	}
	if k.Patience <= 0 {
		k.Patience = 2 * time.Second
	}
	if k.Startup <= 0 {
		k.Startup = 10 * time.Second
	}
	if k.Log == nil {
		k.Log = slog.New(slog.DiscardHandler)
	}
	p, err := k.begin(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	kept := &Kept{k: k, cancel: cancel, done: make(chan struct{}), now: p}
	go kept.keep(ctx, p)
	return kept, nil
}

// PID is the process of the guard that runs now, 0 between two.
func (k *Kept) PID() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now == nil {
		return 0
	}
	return k.now.cmd.Process.Pid
}

// Close ends the guard.
func (k *Kept) Close() {
	k.cancel()
	<-k.done
}

func (k *Kept) set(p *process) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now = p
}

func (k *Kept) keep(ctx context.Context, p *process) {
	defer close(k.done)
	for {
		if p != nil {
			err := p.watch(ctx, k.k.Every, k.k.Patience)
			k.set(nil)
			if ctx.Err() != nil {
				return
			}
			k.k.Log.Warn("guard ended, another one is started", "err", err)
			if k.k.OnEnd != nil {
				k.k.OnEnd(err)
			}
		}
		// One that never answered would only end again.
		if p == nil || !p.answered {
			select {
			case <-ctx.Done():
				return
			case <-time.After(k.k.Every):
			}
		}
		var err error
		if p, err = k.k.begin(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			k.k.Log.Warn("guard doesn't start", "err", err)
			continue
		}
		k.set(p)
	}
}

// process is one guard.
type process struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	pongs    chan struct{} // closed when its stdout ends
	answered bool
}

// begin starts a guard and waits, not longer than ctx and Startup, until it
// watches.
func (k Keeper) begin(ctx context.Context) (*process, error) {
	p := &process{cmd: k.Command(), pongs: make(chan struct{}, 1)}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, fault.Errorf(fault.Internal, "start the guard: %w", err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "start the guard: %w", err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fault.Errorf(fault.Unavailable, "start the guard: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, k.Startup)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); line != Ready {
		_ = p.in.Close()
		_ = p.cmd.Process.Kill()
		return nil, fault.Errorf(fault.Unavailable, "start the guard: it doesn't watch: %w", errors.Join(err, p.cmd.Wait(), ctx.Err()))
	}
	go func() {
		defer close(p.pongs)
		for {
			if _, err := r.ReadByte(); err != nil {
				return
			}
			p.pongs <- struct{}{}
		}
	}()
	return p, nil
}

// watch pings until the guard ended, whose reason it returns, or was killed
// since it doesn't answer. The end of ctx ends it in order. It leaves no
// process and no goroutine.
func (p *process) watch(ctx context.Context, every, patience time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	late.Stop()
	asked := false
	for {
		select {
		case <-ctx.Done():
			_ = p.in.Close()
			late.Reset(patience)
			return p.end(late)
		case <-tick.C:
			if !asked {
				// An error means that it ended, which pongs says.
				_, _ = p.in.Write([]byte{'.'})
				asked = true
				late.Reset(patience)
			}
		case _, ok := <-p.pongs:
			if !ok {
				_ = p.in.Close()
				late.Reset(patience)
				return p.end(late)
			}
			p.answered, asked = true, false
			late.Stop()
		case <-late.C:
			_ = p.cmd.Process.Kill()
			late.Reset(patience)
			return errors.Join(fault.Errorf(fault.Unavailable, "the guard did not answer for %v and was killed", patience), p.end(late))
		}
	}
}

// end waits for the end of the process, which late hurries.
func (p *process) end(late *time.Timer) error {
	for {
		select {
		case _, ok := <-p.pongs:
			if !ok {
				// Its stdout is closed: it is gone, or goes.
				if err := p.cmd.Wait(); err != nil {
					return fault.Errorf(fault.Unavailable, "the guard ended: %w", err)
				}
				return nil
			}
		case <-late.C:
			_ = p.cmd.Process.Kill()
		}
	}
}
