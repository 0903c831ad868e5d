package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"zos.internal/flist"
	"zos.internal/flist/executables"
	"zos.internal/internal/fault"
	"zos.internal/node/compute"
	"zos.internal/node/compute/guard"
)

// maxAudit is the most bytes of audit records that a container leaves: a record
// is made once for each file, so only an image with very many programs gets
// there.
const maxAudit = 16 << 20

func (a *app) auditPath(id string) string  { return filepath.Join(a.runPath(id), "audit") }
func (a *app) recordPath(id string) string { return filepath.Join(a.runPath(id), "executables") }

// guardCommand is the process that the kernel asks before a program of an image
// starts. It ends with the zos that started it, when its stdin closes, and is
// replaced by that when it ends or hangs.
func (a *app) guardCommand() *cobra.Command {
	return &cobra.Command{
		Use: "guard ID", Hidden: true, Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := args[0]
			b, err := os.ReadFile(a.recordPath(id))
			if err != nil {
				return err
			}
			list, err := executables.Parse(b)
			if err != nil {
				return err
			}
			audit, err := os.OpenFile(a.auditPath(id), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
			if err != nil {
				return err
			}
			defer audit.Close()
			st, err := audit.Stat()
			if err != nil {
				return err
			}
			pings, ok := a.stdin.(*os.File)
			if !ok {
				return fault.Errorf(fault.Invalid, "the guard is started by zos run, with a pipe as its input")
			}
			return guard.Serve(cmd.Context(), guard.Options{
				Root: a.rootPath(id), Executables: list, Instance: id, Audit: &bounded{w: audit, left: maxAudit - int(st.Size())},
				Pings: pings, Pongs: a.stdout, Clock: a.clock, Log: a.logger(),
			})
		},
	}
}

// bounded drops what comes after left bytes.
type bounded struct {
	w    io.Writer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return len(p), nil
	}
	return b.w.Write(p)
}

// startGuard starts the guard of a sealed run and returns what ends it. The
// other locks of the seal hold without it, so a machine without fanotify runs
// on with a warning.
func (a *app) startGuard(ctx context.Context, spec compute.Spec, img *flist.Image) (stop func(), err error) {
	none := func() {}
	if spec.Sealed == compute.Off || img.Executables == nil {
		return none, nil
	}
	b, err := executables.Encode(img.Executables)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(a.recordPath(spec.ID), b, 0o600); err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "find this program: %w", err)
	}
	kept, err := guard.Keeper{
		Command: func() *exec.Cmd {
			cmd := exec.Command(exe, "guard", spec.ID)
			cmd.Env = append(os.Environ(), "ZOS_RUN="+a.runDir())
			cmd.Stderr = a.stderr
			// Ctrl-C is for the workload; the guard goes when its stdin closes.
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			return cmd
		},
		OnEnd: func(end error) { a.unwatched(spec.ID, end) },
		Log:   a.logger(),
	}.Start(ctx)
	if err != nil {
		a.logger().Warn("execs are not recorded: the guard doesn't work here; the other locks of the seal hold", "error", err)
		return none, nil
	}
	return kept.Close, nil
}

// unwatched notes in the audit of a container that its guard ended and another
// one takes over.
func (a *app) unwatched(id string, end error) {
	r := guard.Record{Time: a.clock.Now(), Instance: id, Verdict: "unwatched", Why: fmt.Sprint(end)}
	b, err := json.Marshal(r)
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(a.auditPath(id), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err == nil {
			_, err = f.Write(append(b, '\n'))
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		a.logger().Warn("write the audit record", "verdict", r.Verdict, "error", err)
	}
}

// auditCommand shows which programs of an image ran in a container.
func (a *app) auditCommand() *cobra.Command {
	return &cobra.Command{
		Use: "audit NAME", Short: "Show which programs started in a sealed container, and which were refused", Args: args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, l, err := a.find(args[0])
			if err != nil {
				return err
			}
			f, err := os.Open(a.auditPath(l.ID))
			if err != nil {
				return fault.Errorf(fault.NotFound, "container %s has no audit records: it is not sealed, or the guard doesn't work on this machine (zos doctor)", l.Name)
			}
			defer f.Close()
			records := []guard.Record{}
			seen := make(map[string]bool) // a guard that took over records anew
			dec := json.NewDecoder(f)
			for {
				var r guard.Record
				err := dec.Decode(&r)
				if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
					break // the last one may still be written
				}
				if err != nil {
					return fault.Errorf(fault.Invalid, "read the audit records of %s: %w", l.Name, err)
				}
				if key := r.Verdict + r.Path; r.Verdict == "unwatched" || !seen[key] {
					seen[key] = true
					records = append(records, r)
				}
			}
			t := table{columns: []string{"time", "verdict", "kind", "path", "+hash", "+why"}}
			var names []string
			for _, r := range records {
				t.rows = append(t.rows, []string{r.Time.UTC().Format("2006-01-02 15:04:05"), r.Verdict, r.Kind, printable(r.Path), r.Hash, printable(r.Why)})
				if r.Path != "" {
					names = append(names, printable(r.Path))
				}
			}
			return a.print(records, t, names...)
		},
	}
}
