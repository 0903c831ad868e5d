package erofs

import (
	"bytes"
	"io/fs"
	"strings"
	"testing"

	goerofs "github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"zos.internal/flist/tree"
)

// A reader that others wrote must see the same tree.
func TestOtherReaderAgrees(t *testing.T) {
	root := nasty(t, 3000)
	blocks := layOut(root)
	image := mustEncode(t, root, blocks)
	data := make([]byte, blocks*BlockSize)
	for _, n := range root.Walk() {
		if n.Content != nil {
			b, err := n.ReadAll(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			copy(data[n.Offset:], b)
		}
	}
	fsys, err := goerofs.Open(bytes.NewReader(image), goerofs.WithExtraDevices(bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	// Where that reader is known to be wrong (the kernel agrees with us): its
	// modes keep bits of st_mode and drop setuid, setgid and sticky; the names
	// of ACL attributes end in a dot.
	const modes = fs.ModeType | fs.ModePerm
	links := root.Links()
	type facts struct {
		Mode                  fs.FileMode
		Size                  int64
		UID, GID, Nsec, Nlink uint32
		Sec                   int64
		Rdev                  uint32
		Xattrs                map[string]string
		Target, Content       string
	}
	for p, n := range root.Walk() {
		if p == "" {
			p = "."
		}
		if !fs.ValidPath(p) {
			continue // io/fs knows only names in UTF-8
		}
		fi, err := fs.Lstat(fsys, p)
		if err != nil {
			t.Fatalf("%.80q: %v", p, err)
		}
		st := fi.Sys().(*goerofs.Stat)
		got := facts{
			Mode: fi.Mode() & modes, Size: fi.Size(), UID: st.UID, GID: st.GID, Sec: int64(st.Mtime), Nsec: st.MtimeNs,
			Nlink: uint32(st.Nlink), Rdev: st.Rdev, Xattrs: st.Xattrs,
		}
		for name, value := range st.Xattrs {
			if fixed, ok := strings.CutSuffix(name, "."); ok {
				delete(st.Xattrs, name)
				st.Xattrs[fixed] = value
			}
		}
		w := wantState(n, links[n])
		want := facts{
			Mode: fileMode(n.Mode) & modes, Size: w.Size, UID: n.UID, GID: n.GID, Sec: n.Mtime, Nsec: n.Nsec,
			Nlink: uint32(w.Nlink), Xattrs: w.Xattrs, Target: n.Target, Content: w.Content,
		}
		switch n.Type() {
		case tree.Char, tree.Block:
			want.Rdev = encodeDevice(n.Major, n.Minor)
		case tree.Symlink:
			if got.Target, err = fs.ReadLink(fsys, p); err != nil {
				t.Fatalf("%.80q: %v", p, err)
			}
		case tree.Regular:
			b, err := fs.ReadFile(fsys, p)
			if err != nil {
				t.Fatalf("%.80q: %v", p, err)
			}
			got.Content = string(b)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%.80q differs (-want +got):\n%.1000s", p, d)
		}
	}
}
