package mounttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"zos.internal/flist/dataserver"
	"zos.internal/flist/mount"
)

// RoleVar makes a program that calls Play the one that Host starts. Its value
// is the deadline of a read, or "1".
const RoleVar = "ZOS_MOUNTTEST"

// Host is a mount.Host whose commands are this program. readTimeout 0 is the
// data server's own.
func Host(runDir string, readTimeout time.Duration) (mount.Host, error) {
	exe, err := os.Executable()
	if err != nil {
		return mount.Host{}, err
	}
	v := "1"
	if readTimeout > 0 {
		v = readTimeout.String()
	}
	return mount.Host{
		RunDir: runDir,
		Keeper: []string{exe, "keeper", runDir},
		Tree:   []string{exe, "tree"},
		Env:    []string{RoleVar + "=" + v},
	}, nil
}

// Play acts a part if the environment asks for it and reports whether it did;
// the first thing in main or TestMain. A part that fails exits the program.
func Play(args []string) bool {
	v := os.Getenv(RoleVar)
	if v == "" || len(args) == 0 {
		return false
	}
	opt := dataserver.Options{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if d, err := time.ParseDuration(v); err == nil {
		opt.ReadTimeout = d
	}
	if err := play(context.Background(), args, opt); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func play(ctx context.Context, args []string, opt dataserver.Options) error {
	switch args[0] {
	case "keeper":
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		return dataserver.Keep(ctx, dataserver.KeepConfig{RunDir: args[1], Cmd: []string{exe, "server"}, Log: opt.Log, Ready: dataserver.Ready})
	case "server":
		return dataserver.Child(ctx, OpenFile, opt)
	case "tree":
		return mount.ServeTree(ctx, os.Stdin, dataserver.Ready, OpenFile, opt)
	case "load":
		return load(args[1], args[2])
	case "private":
		return private(args[1:])
	case "user":
		return user(ctx, args[1], args[2])
	}
	return fmt.Errorf("there is no part %q", args[0])
}

// load reads the image at dir until its input ends and prints what it saw.
func load(meta, dir string) error {
	b, err := os.ReadFile(meta)
	if err != nil {
		return err
	}
	var want map[string]string
	if err := json.Unmarshal(b, &want); err != nil {
		return err
	}
	stop := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	fmt.Println("started")
	return json.NewEncoder(os.Stdout).Encode(Load(dir, want, 8, stop))
}

// private acts as root in a mount namespace of its own: it gives everybody a
// /dev/fuse there and goes on as user 65534 with the given arguments.
func private(args []string) error {
	dev := filepath.Join(args[1], "fuse")
	if err := errors.Join(unix.Mknod(dev, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))), os.Chmod(dev, 0o666)); err != nil {
		return err
	}
	if err := unix.Mount(dev, "/dev/fuse", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return cmd.Run()
}

// user mounts an image without root, compares and unmounts it; dir belongs to
// the user and data holds the image's data.
func user(ctx context.Context, dir, data string) error {
	img, err := Pack(UserSample())
	if err != nil {
		return err
	}
	h, err := Host(filepath.Join(dir, "run"), 0)
	if err != nil {
		return err
	}
	target := filepath.Join(dir, "target")
	if err := os.Mkdir(target, 0o700); err != nil {
		return err
	}
	r := mount.Request{ID: "sample", Meta: img.Meta, DeviceSize: int64(len(img.Data)), Target: target, Spec: FileSpec{Path: data}.JSON()}
	m, err := h.Mount(ctx, r)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range Compare(img.Root, target, Options{}) {
		errs = append(errs, errors.New(p))
	}
	if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EACCES) {
		errs = append(errs, fmt.Errorf("writing gave %v", err))
	}
	if infos, err := h.List(); err != nil || len(infos) != 1 || infos[0].Mode != mount.Tree || infos[0].Target != target {
		errs = append(errs, fmt.Errorf("List() = %+v, %v", infos, err))
	}
	if m.Mode != mount.Tree || len(m.Reasons) != 2 {
		errs = append(errs, fmt.Errorf("mounted as %+v, want tree and two reasons", m))
	}
	errs = append(errs, h.Unmount(ctx, target))
	if left, err := os.ReadDir(filepath.Join(dir, "run", "tree")); err != nil || len(left) > 0 {
		errs = append(errs, fmt.Errorf("the log of the tree is left: %v, %w", left, err))
	}
	return errors.Join(errs...)
}
