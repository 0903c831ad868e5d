package dataserver

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/internal/fault"
)

// readyFD is the descriptor on which a process of Background says that it is
// ready.
const readyFD = 3

// Ready tells the program that started this one with Background that it works:
// the value for KeepConfig.Ready.
func Ready() {
	f := os.NewFile(readyFD, "ready")
	io.WriteString(f, "ready\n")
	f.Close()
}

// Background starts a program that outlives this one, gives it the bytes of
// input, and returns once it called Ready. What the program prints goes to the
// file logPath. A program that ends before it is ready is Unavailable, with
// the end of what it printed.
func Background(ctx context.Context, argv, env []string, logPath string, input io.Reader) error {
	log, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fault.Errorf(fault.Of(err), "open %s: %w", logPath, err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return fault.Errorf(fault.Internal, "make a pipe: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = input, log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fault.Errorf(fault.Of(err), "start %q: %w", cmd.Path, err)
	}
	go cmd.Wait() // if this program outlives it; else init does it
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said, _ := io.ReadAll(io.LimitReader(r, 64))
	if strings.HasPrefix(string(said), "ready") {
		return nil
	}
	if ctx.Err() != nil {
		unix.Kill(cmd.Process.Pid, unix.SIGTERM)
		return fault.Errorf(fault.Unavailable, "start %q: it did not get ready: %w", cmd.Path, ctx.Err())
	}
	text, _ := os.ReadFile(logPath)
	text = text[max(0, len(text)-1000):]
	return fault.Errorf(fault.Unavailable, "start %q: it ended at once: %s", strings.Join(argv, " "), strings.TrimSpace(string(text)))
}
