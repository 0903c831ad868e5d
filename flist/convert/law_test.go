package convert_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/config"
	"zos.internal/flist/convert"
	"zos.internal/flist/convert/dir"
	"zos.internal/flist/convert/internal/treetest"
	"zos.internal/flist/convert/oci"
	"zos.internal/flist/convert/tar"
)

// The law: build(export(x)) = x, by id, through every format that holds
// everything.
func TestLaw(t *testing.T) {
	base := treetest.Dir(t)
	features := treetest.Features{
		Devices: true, Sockets: true, Owners: true, MinTime: math.MinInt32 + 1, MaxTime: 1 << 33, MaxTarget: 4000,
		Xattrs: []string{"trusted.a", "security.zos"}, UserXattrs: []string{"user.a"},
	}
	i := 0
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		x := treetest.Draw(rt, features)
		cfg := &config.Config{Cmd: []string{"/init"}, Ports: []string{"80/tcp"}}
		id := func(res *convert.Result) flist.ID {
			report, err := flist.Build(ctx, res.Root, new(block.Mem), flist.BuildOptions{Config: cfg, Platform: "linux/amd64"})
			if err != nil {
				rt.Fatal(err)
			}
			return report.ID
		}
		want := id(&convert.Result{Root: x})
		i++
		at := filepath.Join(base, fmt.Sprint(i))
		check := func(name string, res *convert.Result, err error) {
			if err != nil {
				rt.Fatalf("%s: %v", name, err)
			}
			defer res.Close()
			if got := id(res); got != want {
				rt.Errorf("%s: id %v, want %v\n%s", name, got, want, treetest.Diff(x, res.Root))
			}
		}
		var buf bytes.Buffer
		if err := tar.Write(ctx, &buf, x, convert.WriteOptions{}); err != nil {
			rt.Fatal(err)
		}
		res, err := tar.ReadFrom(ctx, &buf, 0, convert.Options{TempDir: base})
		check("tar", res, err)
		if _, err := oci.Write(ctx, at, x, cfg, oci.WriteOptions{Platform: "linux/amd64"}); err != nil {
			rt.Fatal(err)
		}
		res, err = oci.ReadLayout(ctx, at, convert.Options{TempDir: base})
		check("oci", res, err)
		os.RemoveAll(at)
		if os.Geteuid() != 0 {
			return
		}
		report, err := dir.Write(ctx, at, x, convert.WriteOptions{})
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(at)
		if len(report.Skipped) > 0 {
			rt.Skip("the file system can't hold the tree: ", report.Skipped)
		}
		res, err = dir.Read(ctx, at, convert.Options{})
		check("dir", res, err)
	})
}
