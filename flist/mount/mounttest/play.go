package mounttest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

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
