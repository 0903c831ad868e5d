package fl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"zos.internal/flist/convert/fl/store"
	"zos.internal/internal/fault"
)

func TestInspectAndList(t *testing.T) {
	f := sample(t)
	f.exec("insert into route values (16, 31, 'zdb://me:secret@host/ns')")
	f.block(10, []byte("456789")) // the same once more
	f.exec("update inode set size = 16 where ino = 10")
	got, err := Inspect(t.Context(), f.file)
	if err != nil {
		t.Fatal(err)
	}
	want := &Info{
		Entries: 11, Files: 4, Dirs: 2, Links: 1, Others: 4, Bytes: 26, Blocks: 5, Distinct: 4,
		Tags: []Tag{{"author", "me"}, {"version", "1"}}, Routes: []string{"00-ff=dir://" + f.store, "10-1f=zdb://me:xxxxx@host/ns"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Inspect differs (-want +got):\n%s", d)
	}
	if err := os.RemoveAll(f.store); err != nil { // no store is asked
		t.Fatal(err)
	}
	root, err := List(t.Context(), f.file)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for path := range root.Walk() {
		paths = append(paths, path)
	}
	if d := cmp.Diff([]string{"", "disk", "empty", "etc", "etc/grüße", "etc/hostname", "fifo", "link", "null", "sock", "sudo"}, paths); d != "" {
		t.Errorf("List differs:\n%s", d)
	}
}

func TestClone(t *testing.T) {
	f := sample(t)
	f.inode(30, 1, "again", 0o100644, 4)
	f.block(30, []byte("zos\n"))
	to := t.TempDir()
	opts := CloneOptions{Stores: []string{"00-7f=dir://" + to + "/a", "80-ff=dir://" + to + "/b"}}
	rep, err := Clone(t.Context(), f.file, opts)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Blocks != 4 || rep.Copied != 4 || rep.Present != 0 || rep.Bytes == 0 {
		t.Errorf("Clone = %+v, want 4 blocks copied", rep)
	}
	res := read(t, f.file, ReadOptions{Stores: opts.Stores})
	if err := readAllFiles(res.Root); err != nil {
		t.Error(err)
	}
	// Again: one block is gone, one is damaged, the others are there.
	var blocks []string
	err = filepath.WalkDir(to, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			blocks = append(blocks, path)
		}
		return err
	})
	if err != nil || len(blocks) != 4 {
		t.Fatalf("blocks %v, %v", blocks, err)
	}
	if err := errors.Join(os.Remove(blocks[0]), os.Truncate(blocks[1], 1)); err != nil {
		t.Fatal(err)
	}
	if rep, err = Clone(t.Context(), f.file, opts); err != nil {
		t.Fatal(err)
	}
	if rep.Copied != 2 || rep.Present != 2 {
		t.Errorf("the second Clone = %+v, want 2 copied, 2 present", rep)
	}
	// A block that is not right is not copied.
	_, id, _ := sealByHand([]byte("456789"))
	if err := os.WriteFile(filepath.Join(f.store, store.ID(id).String()[:2], store.ID(id).String()), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	_, err = Clone(t.Context(), f.file, CloneOptions{Stores: []string{"dir://" + empty}, Workers: 1})
	if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), `inode 10 "/sudo" block 1`) {
		t.Errorf("Clone of a damaged block = %v, want invalid with the place", err)
	}
	// Nor one whose key is wrong, also if it is there already.
	f.exec("update block set key = ? where ino = 3", make([]byte, 32))
	_, err = Clone(t.Context(), f.file, opts)
	if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), `inode 3 "/etc/hostname" block 0`) {
		t.Errorf("Clone with a wrong key = %v, want invalid with the place", err)
	}
	for _, stores := range [][]string{nil, {"http://localhost/"}, {"00-10=dir://" + to}} {
		if _, err := Clone(t.Context(), f.file, CloneOptions{Stores: stores}); err == nil {
			t.Errorf("Clone to %q went well", stores)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Clone(ctx, f.file, opts); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Clone with a cancelled context = %v", err)
	}
}

func TestTagsAndRoutesAreEdited(t *testing.T) {
	f := sample(t)
	f.db.Close()
	ctx := t.Context()
	if err := os.Chmod(f.file, 0o640); err != nil {
		t.Fatal(err)
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tags := func(want ...Tag) {
		t.Helper()
		got, err := Tags(ctx, f.file)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("Tags: %v, differs (-want +got):\n%s", err, d)
		}
	}
	routes := func(want ...string) {
		t.Helper()
		rs, err := Routes(ctx, f.file)
		var got []string
		for _, r := range rs {
			got = append(got, fmt.Sprintf("%02x-%02x=%s", r.Start, r.End, r.URL))
		}
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("Routes: %v, differs (-want +got):\n%s", err, d)
		}
	}
	own := "00-ff=dir://" + f.store
	tags(Tag{"author", "me"}, Tag{"version", "1"})
	do(SetTags(ctx, f.file, []Tag{{"version", "2"}, {"description", "d'ö\n"}}))
	tags(Tag{"author", "me"}, Tag{"description", "d'ö\n"}, Tag{"version", "2"})
	do(DeleteTags(ctx, f.file, "author", "version"))
	tags(Tag{"description", "d'ö\n"})
	if err := DeleteTags(ctx, f.file, "description", "nope"); !errors.Is(err, fault.NotFound) {
		t.Errorf("DeleteTags of what is not there = %v, want not found", err)
	}
	tags(Tag{"description", "d'ö\n"})
	do(DeleteAllTags(ctx, f.file))
	tags()
	for _, bad := range []Tag{{"", "x"}, {"k\x00", "x"}, {"k", "\xff"}, {"k", strings.Repeat("x", MaxTag+1)}} {
		if err := SetTags(ctx, f.file, []Tag{bad}); !errors.Is(err, fault.Invalid) {
			t.Errorf("SetTags(%.20q) = %v, want invalid", bad, err)
		}
	}
	// Over the limit of all together: refused, and the file stays readable.
	big := strings.Repeat("x", MaxTag-1)
	if err := SetTags(ctx, f.file, []Tag{{"a", big}, {"b", big}, {"c", big}}); !errors.Is(err, fault.Invalid) {
		t.Errorf("SetTags over the limit = %v, want invalid", err)
	}
	tags()

	routes(own)
	do(AddRoutes(ctx, f.file, []string{"10-1f=zdb://me:secret@host/ns", own}, false))
	routes(own, "10-1f=zdb://me@host/ns")
	do(AddRoutes(ctx, f.file, []string{"20-2f=zdb://me:secret@host/ns"}, true))
	routes(own, "10-1f=zdb://me@host/ns", "20-2f=zdb://me:secret@host/ns")
	if err := DeleteRoutes(ctx, f.file, "zdb://me@host/ns", "zdb://a:secret@b/c"); !errors.Is(err, fault.NotFound) || strings.Contains(err.Error(), "secret") {
		t.Errorf("DeleteRoutes of what is not there = %v, want not found", err)
	}
	do(DeleteRoutes(ctx, f.file, "zdb://me@host/ns"))
	routes(own, "20-2f=zdb://me:secret@host/ns")
	if err := AddRoutes(ctx, f.file, []string{"nowhere"}, false); !errors.Is(err, fault.Invalid) {
		t.Errorf("AddRoutes = %v, want invalid", err)
	}
	do(DeleteAllRoutes(ctx, f.file))
	routes()
	do(AddRoutes(ctx, f.file, []string{own}, false))

	res := read(t, f.file, ReadOptions{})
	if err := readAllFiles(res.Root); err != nil {
		t.Errorf("the edited file: %v", err)
	}
	if st, err := os.Stat(f.file); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v (%v), want 0640", st.Mode(), err)
	}
	es, err := os.ReadDir(filepath.Dir(f.file))
	if err != nil || len(es) != 2 {
		t.Errorf("the directory has %v, want the file and its blocks", es)
	}
	if err := SetTags(ctx, filepath.Join(t.TempDir(), "none.fl"), []Tag{{"a", "b"}}); !errors.Is(err, fault.NotFound) {
		t.Errorf("SetTags of no file = %v", err)
	}
}

// A route that can't be read can still be deleted.
func TestDeleteBrokenRoutes(t *testing.T) {
	f := sample(t)
	f.exec("insert into route values (300, 'x', x'00')")
	f.db.Close()
	if _, err := Routes(t.Context(), f.file); !errors.Is(err, fault.Invalid) {
		t.Errorf("Routes = %v, want invalid", err)
	}
	if err := DeleteAllRoutes(t.Context(), f.file); err != nil {
		t.Fatal(err)
	}
	res := read(t, f.file, ReadOptions{Stores: []string{"dir://" + f.store}})
	if err := readAllFiles(res.Root); err != nil {
		t.Error(err)
	}
}
