package compute

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/convert"
	"zos.internal/flist/convert/dir"
	"zos.internal/flist/dataserver"
	"zos.internal/flist/lazy"
	"zos.internal/flist/mount"
	"zos.internal/internal/fault"
)

// play acts as the process of a mount if the arguments ask for it.
func play(args []string) error {
	switch args[0] {
	case "keeper":
		return dataserver.Keep(context.Background(), dataserver.KeepConfig{RunDir: args[1], Cmd: []string{os.Args[0], "dataserver"}, Ready: dataserver.Ready})
	case "dataserver":
		return dataserver.Child(context.Background(), (&lazy.Opener{}).Slot, dataserver.Options{})
	}
	return errors.New("no part " + args[0])
}

// imageOf builds an image of a directory and mounts it as a node does: EROFS
// whose data comes from a data server.
func imageOf(t *testing.T, from string) (root string, img *flist.Image) {
	t.Helper()
	work := t.TempDir()
	store := block.OpenDir(filepath.Join(work, "store"))
	r, err := dir.Read(t.Context(), from, convert.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	built, err := flist.Build(t.Context(), r.Root, store, flist.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := block.NewMirrors(nil, block.Source{Name: "store", Bucket: store})
	if img, err = flist.Open(t.Context(), m, built.ID, flist.OpenOptions{}); err != nil {
		t.Fatal(err)
	}
	spec, err := lazy.Prepare(t.Context(), img, m, filepath.Join(work, "prepared"), lazy.Spec{Sources: []string{filepath.Join(work, "store")}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp("", "zc") // a short path for sockets
	if err != nil {
		t.Fatal(err)
	}
	h := mount.Host{RunDir: run, Keeper: []string{os.Args[0], "keeper", run}, Env: []string{"COMPUTE_TEST_MOUNT=1"}}
	root = filepath.Join(work, "image")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = h.Mount(t.Context(), mount.Request{ID: img.ID.String(), Meta: img.Metadata, DeviceSize: img.DeviceSize(), Target: root, Mode: mount.FuseFile, Suid: true, Spec: b})
	if k := fault.Of(err); k == fault.Unsupported || k == fault.Denied {
		os.RemoveAll(run)
		t.Skipf("this machine can't mount images: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Unmount(context.Background(), root); err != nil {
			t.Error(err)
		}
		os.RemoveAll(run)
	})
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil || fs.Type != unix.EROFS_SUPER_MAGIC_V1 {
		t.Fatalf("%s is of type %#x, %v, want EROFS", root, fs.Type, err)
	}
	return root, img
}

// The whole battery on a mounted image, with a guard and without, and while the
// guard is killed and stopped all the time (row F4).
func TestBatteryOnImage(t *testing.T) {
	from := testRoot(t, "iconv")
	eachDriver(t, func(t *testing.T, driver string) {
		addAttacker(t, from)
		root, img := imageOf(t, from)
		for _, run := range []batteryRun{
			{name: "control", level: Off, userns: "off"},
			{name: "files", level: Files, userns: "on"},
			{name: "files without user namespace", level: Files, userns: "off"},
			{name: "files as a user", level: Files, userns: "on", user: "user"},
			{name: "files by exec", level: Files, userns: "on", exec: true},
			{name: "strict", level: Strict, userns: "on"},
			{name: "strict without user namespace", level: Strict, userns: "off"},
			{name: "strict by exec", level: Strict, userns: "on", exec: true},
		} {
			t.Run(run.name, func(t *testing.T) { run.judge(t, driver, root) })
		}
		guarded := []batteryRun{
			{name: "files", level: Files, userns: "on"},
			{name: "files as a user", level: Files, userns: "on", user: "user"},
			{name: "files by exec", level: Files, userns: "on", exec: true},
			{name: "strict", level: Strict, userns: "on"},
		}
		for _, run := range guarded {
			t.Run("guarded, "+run.name, func(t *testing.T) {
				g := keepGuard(t, root, img.Executables)
				run.judge(t, driver, root)
				g.kept.Close()
				if n := len(g.ends); n > 0 {
					t.Errorf("the guard ended %d times", n)
				}
				audit := g.audit(t)
				for _, want := range []string{`"path":"/bin/attack"`, `"verdict":"allow"`} {
					if !strings.Contains(audit, want) {
						t.Errorf("the audit has no %s: the guard saw nothing: %s", want, audit)
					}
				}
				if strings.Contains(audit, `"deny"`) {
					t.Errorf("the guard refused a file of the image: %s", audit)
				}
			})
		}
		for _, run := range guarded {
			t.Run("guard attacked, "+run.name, func(t *testing.T) {
				g := keepGuard(t, root, img.Executables)
				killed := g.attack(t)
				run.judge(t, driver, root)
				if n := killed(); n < 3 {
					t.Errorf("the guard was attacked only %d times meanwhile", n)
				}
			})
		}
		t.Run("guard attacked, unlisted", func(t *testing.T) { unlisted(t, driver, root, img) })
	})
}

// unlisted runs an undeclared program again and again while the guard is
// killed: whenever a guard watches it is refused, and nothing hangs.
func unlisted(t *testing.T, driver, root string, img *flist.Image) {
	listed := slices.Clone(img.Executables)
	for i, e := range listed {
		if e.Path == "bin/victim" {
			listed = slices.Delete(listed, i, i+1)
			break
		}
	}
	if len(listed) == len(img.Executables) {
		t.Fatal("the image has no victim")
	}
	g := keepGuard(t, root, listed)
	r := runtimeFor(t)
	s := Spec{RootFS: root, Driver: driver, UserNS: "on", Executables: listed}
	refused := func() {
		t.Helper()
		if exit, out := sh(t, r, s, "/bin/victim"); exit.Code != 126 {
			t.Errorf("an undeclared program under a guard: %+v %q", exit, out)
		}
	}
	refused()
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGSTOP} {
		old := g.kept.PID()
		if err := unix.Kill(old, sig); err != nil {
			t.Fatal(err)
		}
		// Nobody refuses it now; the end of the hung guard lets it pass.
		if exit, out := sh(t, r, s, "/bin/victim"); exit.Code != 0 && exit.Code != 126 {
			t.Errorf("while the guard is away: %+v %q", exit, out)
		}
		if err := <-g.ends; err == nil {
			t.Errorf("after %v the guard ended well", sig)
		}
		g.next(t, old)
		refused()
	}
}
