package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	ociname "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"zos": main})
}

// TestScripts runs every command against the real main. Each script has data,
// cache and run directories of its own below its work directory.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "mounts":
				_, err := os.Stat("/dev/fuse")
				return os.Geteuid() == 0 && err == nil, nil
			case "containers":
				_, err := exec.LookPath("crun")
				return os.Geteuid() == 0 && err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Setup: func(env *testscript.Env) error {
			for _, v := range []string{"DATA", "CACHE", "RUN"} {
				env.Setenv("ZOS_"+v, filepath.Join(env.WorkDir, ".zos", strings.ToLower(v)))
			}
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("PATH", env.Getenv("PATH")+":/usr/sbin:/sbin")
			env.Defer(func() { noMountsBelow(t, env.WorkDir) })
			env.Defer(func() { endContainers(env) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"hub":      startHub,
			"chain":    startChain,
			"setid":    setID,
			"app":      buildApp,
			"registry": startRegistry,
		},
	})
}

// endContainers stops what a script that failed left running.
func endContainers(env *testscript.Env) {
	var names strings.Builder
	run(context.Background(), env.Getenv, []string{"ps", "-o", "name"}, strings.NewReader(""), &names, io.Discard)
	for _, name := range strings.Fields(names.String()) {
		run(context.Background(), env.Getenv, []string{"stop", name}, strings.NewReader(""), io.Discard, io.Discard)
	}
}

// noMountsBelow is the leak check after each script.
func noMountsBelow(t *testing.T, dir string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
		return
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, " "+dir+"/") {
			t.Errorf("a mount is left: %s", line)
			if f := strings.Fields(line); len(f) > 4 {
				syscall.Unmount(f[4], syscall.MNT_DETACH)
			}
		}
	}
}

// startHub runs `zos hub serve` in the background until the script ends and
// sets the variable HUB to its address: hub ARGUMENT…
func startHub(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("hub does not support !")
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan int, 1)
	getenv := func(k string) string { return ts.Getenv(k) }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	addr := l.Addr().String()
	l.Close()
	full := append([]string{"hub", "serve", "--listen", addr}, args...)
	for i, a := range full {
		if i > 0 && (full[i-1] == "--dir" || full[i-1] == "--publishers") {
			full[i] = ts.MkAbs(a)
		}
	}
	go func() {
		done <- run(ctx, getenv, full, strings.NewReader(""), io.Discard, w)
		w.Close()
	}()
	lines := bufio.NewScanner(r)
	ready := make(chan string, 1)
	go func() {
		for lines.Scan() {
			if url, ok := strings.CutPrefix(lines.Text(), "hub: "); ok {
				ready <- url
			}
		}
	}()
	select {
	case url := <-ready:
		ts.Setenv("HUB", url)
	case <-done:
		cancel()
		ts.Fatalf("the hub ended")
	case <-time.After(30 * time.Second):
		cancel()
		ts.Fatalf("the hub doesn't start")
	}
	ts.Defer(func() {
		cancel()
		if code := <-done; code != exitOK && code != exitInterrupted {
			ts.Logf("the hub ended with %d", code)
		}
	})
}

// setID sets a variable to the first line of the latest standard output:
// setid NAME
func setID(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: setid NAME")
	}
	line, _, _ := strings.Cut(ts.ReadFile("stdout"), "\n")
	if line == "" {
		ts.Check(errors.New("the command wrote nothing"))
	}
	ts.Setenv(args[0], line)
}

// buildApp builds the program that runs in containers: app FILE
func buildApp(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: app FILE")
	}
	// The script has directories of its own; the compiler keeps its cache.
	cmd := exec.Command("go", "build", "-o", ts.MkAbs(args[0]), "./testdata/app")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("build the program for containers: %v\n%s", err, out)
	}
}

// startRegistry runs a container registry until the script ends, with an image
// of a directory, and sets the variable REGISTRY to its address:
// registry NAME:TAG DIRECTORY
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: registry NAME:TAG DIRECTORY")
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	ts.Defer(server.Close)
	addr := server.Listener.Addr().String()
	layer := ts.MkAbs("layer.tar")
	if out, err := exec.Command("tar", "-C", ts.MkAbs(args[1]), "-cf", layer, ".").CombinedOutput(); err != nil {
		ts.Fatalf("tar: %v\n%s", err, out)
	}
	l, err := tarball.LayerFromFile(layer)
	ts.Check(err)
	img, err := mutate.AppendLayers(empty.Image, l)
	ts.Check(err)
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: rootFS(ts, img)})
	ts.Check(err)
	tag, err := ociname.NewTag(addr+"/"+args[0], ociname.Insecure)
	ts.Check(err)
	ts.Check(remote.Write(tag, img))
	ts.Setenv("REGISTRY", addr)
}

func rootFS(ts *testscript.TestScript, img v1.Image) v1.RootFS {
	cf, err := img.ConfigFile()
	ts.Check(err)
	return cf.RootFS
}

// startChain runs `zos chain start` in the background until the script ends and
// sets the variable ZOS_CHAIN to its address: chain ARGUMENT…
func startChain(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("chain does not support !")
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan int, 1)
	full := append([]string{"chain", "start", "--listen", "127.0.0.1:0"}, args...)
	go func() {
		done <- run(ctx, func(k string) string { return ts.Getenv(k) }, full, strings.NewReader(""), io.Discard, w)
		w.Close()
	}()
	ready := make(chan string, 1)
	var said strings.Builder
	go func() {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			if url, ok := strings.CutPrefix(lines.Text(), "chain: "); ok {
				ready <- url
				break
			}
			said.WriteString(lines.Text() + "\n")
		}
		io.Copy(io.Discard, r)
	}()
	select {
	case url := <-ready:
		ts.Setenv("ZOS_CHAIN", url)
	case <-done:
		cancel()
		ts.Fatalf("the chain ended: %s", said.String())
	case <-time.After(60 * time.Second):
		cancel()
		ts.Fatalf("the chain doesn't start")
	}
	ts.Defer(func() {
		cancel()
		if code := <-done; code != exitOK && code != exitInterrupted {
			ts.Logf("the chain ended with %d", code)
		}
	})
}
