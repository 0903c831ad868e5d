package mount

import (
	"os"
	"path/filepath"
	"testing"

	"zos.internal/flist/dataserver"
	"zos.internal/flist/mount/mounttest"
)

func testHost(t *testing.T, env ...string) Host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting EROFS needs root")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := filepath.Join(t.TempDir(), "run")
	return Host{
		RunDir: run,
		Keeper: []string{exe, "keeper", run},
		Tree:   []string{exe, "tree"},
		Env:    append(env, roleVar+"=1"),
	}
}

func TestFuseFile(t *testing.T) {
	h := testHost(t)
	img, err := mounttest.Pack(mounttest.Sample(1))
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(data, img.Data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []Mode{FuseFile, Loop} {
		target := t.TempDir()
		m, err := h.Mount(t.Context(), Request{ID: "a", Meta: img.Meta, DeviceSize: int64(len(img.Data)), Target: target, Mode: mode, Spec: mounttest.FileSpec{Path: data}.JSON(), Suid: true})
		if err != nil {
			b, _ := os.ReadFile(filepath.Join(h.RunDir, "keeper.log"))
			t.Fatal(err, string(b))
		}
		t.Log(m)
		for _, p := range mounttest.Compare(img.Root, target, mounttest.Options{}) {
			t.Error(p)
		}
		st, err := dataserver.Client{RunDir: h.RunDir}.Stat(t.Context())
		t.Logf("%+v %v", st, err)
		if err := h.Unmount(t.Context(), target); err != nil {
			t.Error(err)
		}
	}
}
