package fl

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"zos.internal/flist/config"
	"zos.internal/flist/convert"
	"zos.internal/flist/convert/fl/store"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// pattern is n bytes that differ from block to block and compress a little.
func pattern(n, seed int) string {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		if i%64 == 0 {
			x = x*1664525 + 1013904223
		}
		b[i] = byte(x >> (8 * (i % 4)))
	}
	return string(b)
}

func regular(content string) *tree.Node {
	return &tree.Node{Mode: tree.Regular | 0o644, Mtime: 1700000000, Size: int64(len(content)), Content: tree.Bytes(content)}
}

// write exports root and returns the file and the directory of its blocks.
func write(t testing.TB, root *tree.Node, cfg *config.Config, opts WriteOptions) (file, store string, rep *Report) {
	t.Helper()
	dir := t.TempDir()
	file, store = filepath.Join(dir, "x.fl"), filepath.Join(dir, "blocks")
	if opts.Stores == nil {
		opts.Stores = []string{"dir://" + store}
	}
	rep, err := Write(t.Context(), root, cfg, file, opts)
	if err != nil {
		t.Fatalf("Write: %v", err)
	}
	return file, store, rep
}

// contents is every file of a tree by path.
func contents(t testing.TB, root *tree.Node) map[string]string {
	t.Helper()
	m := make(map[string]string)
	for path, n := range root.Walk() {
		if n.IsRegular() {
			m[path] = fileBytes(t, root, path)
		}
	}
	return m
}

func TestRoundTripKeepsEverything(t *testing.T) {
	root := tree.NewDir(0o1777)
	root.UID, root.GID, root.Mtime = 1, 2, -77
	for path, n := range map[string]*tree.Node{
		"bin/su":                    {Mode: tree.Regular | 0o6755, UID: 0, GID: 42, Mtime: 5, Size: 3, Content: tree.Bytes("su\n")},
		"dev/null":                  {Mode: tree.Char | 0o666, Major: 1, Minor: 3, Mtime: 1},
		"dev/big":                   {Mode: tree.Block | 0o600, Major: tree.MaxMajor, Minor: tree.MaxMinor},
		"run/fifo":                  {Mode: tree.FIFO | 0o600, UID: 1<<32 - 1, GID: 1<<32 - 2, Mtime: 1 << 40},
		"run/sock":                  {Mode: tree.Socket | 0o700},
		"lnk":                       {Mode: tree.Symlink | 0o777, Target: "../\xff/ö"},
		"long":                      {Mode: tree.Symlink | 0o777, Target: strings.Repeat("t", tree.MaxTarget)},
		strings.Repeat("é", 127):    regular("é"),
		"' \"\n\t\\%?#":             regular("quote"),
		"empty":                     regular(""),
		"files/one":                 regular(pattern(1, 1)),
		"files/block less one":      regular(pattern(BlockSize-1, 2)),
		"files/block":               regular(pattern(BlockSize, 3)),
		"files/block and one":       regular(pattern(BlockSize+1, 4)),
		"files/two blocks less one": regular(pattern(2*BlockSize-1, 5)),
		"files/two blocks":          regular(pattern(2*BlockSize, 6)),
		"files/two blocks and one":  regular(pattern(2*BlockSize+1, 7)),
		"files/zeros":               regular(strings.Repeat("\x00", 3*BlockSize)),
	} {
		if err := root.Insert(path, n); err != nil {
			t.Fatal(err)
		}
	}
	file, _, rep := write(t, root, nil, WriteOptions{Strict: true})
	res := read(t, file, ReadOptions{})
	if d := cmp.Diff(root, res.Root, cmpopts.IgnoreFields(tree.Node{}, "Content"), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("tree differs (-want +got):\n%s", d)
	}
	if d := cmp.Diff(contents(t, root), contents(t, res.Root)); d != "" {
		t.Error("contents differ")
	}
	// The zeros are one block, stored once.
	if rep.Blocks != 3+1+1+1+2+2+2+3+3 || rep.NewBlocks != rep.Blocks-2 {
		t.Errorf("%d blocks, %d new ones, want 18 and 16", rep.Blocks, rep.NewBlocks)
	}
	if len(rep.Notes) != 1 || !strings.Contains(rep.Notes[0], "3 entries have another gid") {
		t.Errorf("Notes = %q, want the one about the gid", rep.Notes)
	}

	// The same tree gives the same bytes, and going round again changes none.
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	store := "dir://" + filepath.Join(filepath.Dir(file), "blocks")
	again := filepath.Join(t.TempDir(), "again.fl")
	if _, err := Write(t.Context(), res.Root, res.Config, again, WriteOptions{Stores: []string{store}}); err != nil {
		t.Fatal(err)
	}
	if second, _ := os.ReadFile(again); !bytes.Equal(first, second) {
		t.Error("Write(Read(x)) gives other bytes than x")
	}
}

// rfs finds a block at offset / 512 KiB, so all but the last are full.
func TestExportCutsForRfs(t *testing.T) {
	root := tree.NewDir(0o755)
	size := 3*BlockSize + 5
	if err := root.Insert("f", regular(pattern(size, 1))); err != nil {
		t.Fatal(err)
	}
	file, blocks, _ := write(t, root, nil, WriteOptions{})
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("select id, key from block where ino = 2 order by rowid")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var got []int
	for rows.Next() {
		var id, key []byte
		if err := rows.Scan(&id, &key); err != nil {
			t.Fatal(err)
		}
		b := store.Block{ID: store.ID(id), Key: store.Key(key)}
		stored, err := os.ReadFile(filepath.Join(blocks, b.ID.String()[:2], b.ID.String()))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := b.Open(stored)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, len(plain))
	}
	if d := cmp.Diff([]int{BlockSize, BlockSize, BlockSize, 5}, got); d != "" {
		t.Errorf("block sizes differ:\n%s", d)
	}
	var ino, parent, size2 int64
	var name, typ string
	if err := db.QueryRow("select ino, parent, name, typeof(name), size from inode order by ino limit 1").Scan(&ino, &parent, &name, &typ, &size2); err != nil {
		t.Fatal(err)
	}
	if ino != 1 || parent != 0 || name != "/" || typ != "text" {
		t.Errorf("root is inode %d, parent %d, name %q (%s)", ino, parent, name, typ)
	}
	var bad int
	if err := db.QueryRow("select count(*) from block where typeof(id) != 'blob' or typeof(key) != 'blob'").Scan(&bad); err != nil || bad != 0 {
		t.Errorf("%d blocks are not BLOBs (%v)", bad, err)
	}
}

func TestRoundTripOfAnyTree(t *testing.T) {
	name := rapid.StringMatching(`[a-zA-Z0-9 ._äß-]{1,20}`).Filter(func(s string) bool { return tree.CheckName(s) == nil })
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		root := tree.NewDir(uint32(rapid.IntRange(0, 0o7777).Draw(rt, "perm")))
		dirs := []*tree.Node{root}
		for range rapid.IntRange(0, 30).Draw(rt, "entries") {
			n := &tree.Node{
				Mode: uint32(rapid.IntRange(0, 0o7777).Draw(rt, "perm")),
				UID:  rapid.Uint32().Draw(rt, "uid"), GID: rapid.Uint32().Draw(rt, "gid"), Mtime: rapid.Int64().Draw(rt, "mtime"),
			}
			typ := rapid.SampledFrom([]uint32{tree.Regular, tree.Regular, tree.Directory, tree.Symlink, tree.Char, tree.Block, tree.FIFO, tree.Socket}).Draw(rt, "type")
			n.Mode |= typ
			switch typ {
			case tree.Regular:
				c := rapid.StringN(0, 100, 300).Draw(rt, "content")
				n.Size, n.Content = int64(len(c)), tree.Bytes(c)
			case tree.Symlink:
				n.Target = "t" + string(bytes.ReplaceAll(rapid.SliceOf(rapid.Byte()).Draw(rt, "target"), []byte{0}, nil))
			case tree.Char, tree.Block:
				n.Major, n.Minor = uint32(rapid.IntRange(0, tree.MaxMajor).Draw(rt, "major")), uint32(rapid.IntRange(0, tree.MaxMinor).Draw(rt, "minor"))
			case tree.Directory:
				dirs = append(dirs, n)
			}
			in := rapid.SampledFrom(dirs).Draw(rt, "parent")
			if in == n {
				in = root
			}
			s := name.Draw(rt, "name")
			if in.Lookup(s) != nil {
				continue
			}
			if err := in.Set(s, n); err != nil {
				rt.Fatal(err)
			}
		}
		mem := &flaky{blocks: make(map[store.ID][]byte), left: 1000}
		openers := map[string]store.Opener{"mem": func(context.Context, string) (store.Store, error) { return mem, nil }}
		file := filepath.Join(dir, "x.fl")
		if _, err := Write(t.Context(), root, nil, file, WriteOptions{Strict: true, Stores: []string{"mem://x"}, Openers: openers}); err != nil {
			rt.Fatal(err)
		}
		res, err := Read(t.Context(), file, ReadOptions{Openers: openers})
		if err != nil {
			rt.Fatal(err)
		}
		defer res.Close()
		if d := cmp.Diff(root, res.Root, cmpopts.IgnoreFields(tree.Node{}, "Content"), cmpopts.EquateEmpty()); d != "" {
			rt.Fatalf("tree differs (-want +got):\n%s", d)
		}
		for path, n := range root.Walk() {
			if n.IsRegular() {
				want, _ := tryContent(n)
				if got, err := tryContent(res.Root.At(path)); err != nil || !bytes.Equal(got, want) {
					rt.Fatalf("%s = %q, %v, want %q", path, got, err, want)
				}
			}
		}
	})
}

func TestLossesAreListedAndRefused(t *testing.T) {
	root := tree.NewDir(0o755)
	f := regular("x")
	f.Xattrs = []tree.Xattr{{Name: "user.a", Value: "b"}}
	f.Nsec = 1
	for _, path := range []string{"a", "b", "c"} {
		if err := root.Insert(path, f); err != nil {
			t.Fatal(err)
		}
	}
	cfg := &config.Config{Cmd: []string{"/a"}, User: "me", Labels: map[string]string{"maintainer": "me", "fl.tag.v": "1"}}
	want := []Loss{
		{"extended attributes are left out", 3, []string{"/a", "/b", "/c"}},
		{"hard links become copies", 2, []string{"/b", "/c"}},
		{"times lose what is below a second", 3, []string{"/a", "/b", "/c"}},
		{"settings of the image are left out", 2, []string{"label maintainer", "user"}},
	}
	dir := t.TempDir()
	opts := WriteOptions{Stores: []string{"dir://" + dir + "/blocks"}, Strict: true}
	if _, err := Write(t.Context(), root, cfg, dir+"/x.fl", opts); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "hard links become copies: 2 (/b, /c)") {
		t.Errorf("Write with Strict = %v, want a conflict with the losses", err)
	}
	nothing(t, dir)

	var told []Loss
	opts.Strict = false
	opts.Losses = func(ls []Loss) {
		told = ls
		nothing(t, dir)
	}
	rep, err := Write(t.Context(), root, cfg, dir+"/x.fl", opts)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, told); d != "" {
		t.Errorf("losses differ:\n%s", d)
	}
	if d := cmp.Diff(want, rep.Losses); d != "" {
		t.Errorf("losses of the report differ:\n%s", d)
	}
	res := read(t, dir+"/x.fl", ReadOptions{})
	for _, path := range []string{"a", "b", "c"} {
		if got := fileBytes(t, res.Root, path); got != "x" {
			t.Errorf("%s = %q", path, got)
		}
	}

	bad := tree.NewDir(0o755)
	if err := bad.Insert("d/\xff", regular("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(t.Context(), bad, nil, dir+"/y.fl", opts); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), `"d/\xff" is not UTF-8`) {
		t.Errorf("Write of a name that is not UTF-8 = %v, want invalid", err)
	}
}

// nothing fails if anything is in dir.
func nothing(t *testing.T, dir string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		t.Errorf("%s was left behind", e.Name())
	}
}

// flaky is a store in memory that counts and fails.
type flaky struct {
	mu      sync.Mutex
	blocks  map[store.ID][]byte
	puts    int
	left    int // puts that work
	flushed bool
}

func (f *flaky) Get(_ context.Context, id store.ID) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.blocks[id]
	if !ok {
		return nil, fault.Errorf(fault.NotFound, "not there")
	}
	return bytes.Clone(b), nil
}

func (f *flaky) Put(_ context.Context, id store.ID, b []byte) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.blocks[id]; ok {
		return false, nil
	}
	if f.left--; f.left < 0 {
		return false, fault.Errorf(fault.Unavailable, "the store is gone")
	}
	f.puts++
	f.blocks[id] = bytes.Clone(b)
	return true, nil
}

func (f *flaky) Flush(context.Context) error { f.flushed = true; return nil }

func TestInterruptedWriteResumes(t *testing.T) {
	root := tree.NewDir(0o755)
	for i := range 20 {
		if err := root.Insert(fmt.Sprintf("f%02d", i), regular(pattern(1000, i))); err != nil {
			t.Fatal(err)
		}
	}
	mem := &flaky{blocks: make(map[store.ID][]byte), left: 7}
	opts := WriteOptions{Stores: []string{"mem://x"}, Openers: map[string]store.Opener{"mem": func(context.Context, string) (store.Store, error) { return mem, nil }}}
	dir := t.TempDir()
	file := dir + "/x.fl"
	if _, err := Write(t.Context(), root, nil, file, opts); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "store a block of") {
		t.Fatalf("Write = %v, want unavailable", err)
	}
	nothing(t, dir)
	mem.left = 100
	ctx, cancel := context.WithCancel(t.Context())
	stopped := opts
	stopped.Contents = func(n *tree.Node) (io.ReadCloser, error) {
		cancel()
		return tree.Bytes(strings.Repeat("y", int(n.Size))).Open()
	}
	stop := tree.NewDir(0o755)
	if err := stop.Insert("f", &tree.Node{Mode: tree.Regular, Size: 9}); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(ctx, stop, nil, file, stopped); !errors.Is(err, fault.Unavailable) {
		t.Fatalf("Write with a cancelled context = %v, want unavailable", err)
	}
	nothing(t, dir)

	before := mem.puts
	if before != 7 {
		t.Fatalf("%d blocks were put, want 7", before)
	}
	rep, err := Write(t.Context(), root, nil, file, opts)
	if err != nil {
		t.Fatal(err)
	}
	if rep.NewBlocks != 13 || rep.Blocks != 20 || mem.puts != 20 || !mem.flushed {
		t.Errorf("the second run: %+v, %d puts in all, flushed %v; want the 13 missing ones", rep, mem.puts, mem.flushed)
	}
	res := read(t, file, ReadOptions{Openers: opts.Openers})
	if err := readAllFiles(res.Root); err != nil {
		t.Error(err)
	}

	// A failure leaves the file that is there; a killed run's part is used up.
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/.x.fl.part", []byte("left by a killed run"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := root.Insert("new", regular(pattern(1000, 99))); err != nil {
		t.Fatal(err)
	}
	mem.left = 0
	if _, err := Write(t.Context(), root, nil, file, opts); err == nil {
		t.Error("Write to a store that fails went well")
	}
	if now, _ := os.ReadFile(file); !bytes.Equal(old, now) {
		t.Error("a failed Write changed the file")
	}
	mem.left = 1
	if _, err := Write(t.Context(), root, nil, file, opts); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/.x.fl.part"); err == nil {
		t.Error("the part is still there")
	}
}

func TestWriteRefuses(t *testing.T) {
	root := tree.NewDir(0o755)
	if err := root.Insert("f", regular("x")); err != nil {
		t.Fatal(err)
	}
	lying := func(size int64, content string) *tree.Node {
		r := tree.NewDir(0o755)
		n := regular(content)
		n.Size = size
		if err := r.Insert("f", n); err != nil {
			t.Fatal(err)
		}
		return r
	}
	cmd := &config.Config{Cmd: []string{"/f"}}
	taken := tree.NewDir(0o755)
	if err := taken.Insert(".startup.toml/x", regular("x")); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	d := "dir://" + dir + "/blocks"
	for name, tt := range map[string]struct {
		root   *tree.Node
		cfg    *config.Config
		stores []string
		kind   fault.Kind
		want   string
	}{
		"no store":     {root, nil, nil, fault.Invalid, "--store"},
		"half a store": {root, nil, []string{"00-7f=" + d, "90-ff=" + d}, fault.Invalid, "no store takes the blocks 80-8f"},
		"http":         {root, nil, []string{"http://localhost:1/"}, fault.Unsupported, "read only"},
		"zdb":          {root, nil, []string{"zdb://localhost/ns"}, fault.Unsupported, "storage issue"},
		"other":        {root, nil, []string{"ftp://localhost/ns"}, fault.Unsupported, `"ftp"`},
		"bad url":      {root, nil, []string{"blocks"}, fault.Invalid, "blocks"},
		"short":        {lying(3, "xy"), nil, []string{d}, fault.Conflict, "/f"},
		"long":         {lying(1, "xy"), nil, []string{d}, fault.Conflict, "/f"},
		"negative":     {lying(-1, "xy"), nil, []string{d}, fault.Invalid, "negative"},
		"no content":   {lying(1, ""), nil, []string{d}, fault.Conflict, "/f"},
		"not a dir":    {regular("x"), nil, []string{d}, fault.Invalid, "directory"},
		"startup dir":  {taken, cmd, []string{d}, fault.Invalid, "no place"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Write(t.Context(), tt.root, tt.cfg, dir+"/x.fl", WriteOptions{Stores: tt.stores})
			if fault.Of(err) != tt.kind || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("Write = %v (%s), want %s with %q", err, fault.Of(err), tt.kind, tt.want)
			}
			if _, err := os.Stat(dir + "/x.fl"); err == nil {
				t.Error("a file was made")
			}
			if _, err := os.Stat(dir + "/.x.fl.part"); err == nil {
				t.Error("a part was left")
			}
		})
	}
	p, err := newPart(dir + "/x.fl")
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if _, err := Write(t.Context(), root, nil, dir+"/x.fl", WriteOptions{Stores: []string{d}}); !errors.Is(err, fault.Conflict) {
		t.Errorf("Write beside another = %v, want conflict", err)
	}
	if _, err := Write(t.Context(), root, nil, dir, WriteOptions{Stores: []string{d}}); !errors.Is(err, fault.Invalid) {
		t.Errorf("Write to a directory = %v, want invalid", err)
	}
}

func TestWriteStripsPasswords(t *testing.T) {
	mem := &flaky{blocks: make(map[store.ID][]byte), left: 100}
	openers := map[string]store.Opener{"zdb": func(_ context.Context, url string) (store.Store, error) {
		if !strings.Contains(url, "secret") {
			return nil, fault.Errorf(fault.Denied, "open %s: no password", url)
		}
		return mem, nil
	}}
	root := tree.NewDir(0o755)
	if err := root.Insert("f", regular("x")); err != nil {
		t.Fatal(err)
	}
	for _, keep := range []bool{false, true} {
		file, _, rep := write(t, root, nil, WriteOptions{Stores: []string{"zdb://me:secret@host:9900/ns"}, Openers: openers, KeepPasswords: keep})
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(raw, []byte("secret")); got != keep {
			t.Errorf("KeepPasswords %v: the password is in the file: %v", keep, got)
		}
		if !bytes.Contains(raw, []byte("zdb://me")) || strings.Contains(fmt.Sprint(rep), "secret") {
			t.Errorf("report %v", rep)
		}
		_, err = Read(t.Context(), file, ReadOptions{Openers: openers})
		if got := err == nil; got != keep {
			t.Errorf("KeepPasswords %v: Read without --store = %v", keep, err)
		}
		res := read(t, file, ReadOptions{Openers: openers, Stores: []string{"zdb://me:secret@host:9900/ns"}})
		if got := fileBytes(t, res.Root, "f"); got != "x" {
			t.Errorf("f = %q", got)
		}
	}
}

func TestWriteProgress(t *testing.T) {
	root := tree.NewDir(0o755)
	if err := root.Insert("f", regular(pattern(2*BlockSize+10, 1))); err != nil {
		t.Fatal(err)
	}
	var got []string
	write(t, root, nil, WriteOptions{WriteOptions: convert.WriteOptions{Progress: func(phase string, done, total int64) {
		got = append(got, fmt.Sprint(phase, done, "/", total))
	}}})
	if d := cmp.Diff([]string{"write524288/1048586", "write1048576/1048586", "write1048586/1048586"}, got); d != "" {
		t.Errorf("progress differs:\n%s", d)
	}
}

// SQLite takes the name of a file as a URL; any name must do.
func TestFileNames(t *testing.T) {
	root := tree.NewDir(0o755)
	if err := root.Insert("f", regular("x")); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "a b?mode=memory&x#y%20%zz:é;'\"\xff")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "?#%41.fl")
	if _, err := Write(t.Context(), root, nil, file, WriteOptions{Stores: []string{"dir://" + t.TempDir()}}); err != nil {
		t.Fatal(err)
	}
	if err := SetTags(t.Context(), file, []Tag{{"a", "b"}}); err != nil {
		t.Fatal(err)
	}
	res := read(t, file, ReadOptions{})
	if got := fileBytes(t, res.Root, "f"); got != "x" || res.Config.Labels["fl.tag.a"] != "b" {
		t.Errorf("f = %q, labels %v", got, res.Config.Labels)
	}
	t.Chdir(dir)
	if _, err := Inspect(t.Context(), "?#%41.fl"); err != nil {
		t.Errorf("Inspect by a relative name: %v", err)
	}
	if es, err := os.ReadDir("."); err != nil || len(es) != 1 {
		t.Errorf("the directory has %v (%v), want one file", es, err)
	}
}
