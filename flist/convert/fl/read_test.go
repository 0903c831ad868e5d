package fl

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"zos.internal/flist/convert"
	"zos.internal/flist/convert/fl/store"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

func read(t testing.TB, file string, opts ReadOptions) *convert.Result {
	t.Helper()
	res, err := Read(t.Context(), file, opts)
	if err != nil {
		t.Fatalf("Read(%s): %v", file, err)
	}
	t.Cleanup(func() {
		if err := res.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return res
}

func TestReadByHandMadeFile(t *testing.T) {
	f := sample(t)
	res := read(t, f.file, ReadOptions{})
	want := &tree.Node{Mode: 0o40755, Mtime: 1700000001, Entries: []tree.Entry{
		{Name: "disk", Node: &tree.Node{Mode: 0o60660, Mtime: 1700000006, Major: 8, Minor: 0x12034}},
		{Name: "empty", Node: &tree.Node{Mode: 0o100600, Mtime: 1700000009}},
		{Name: "etc", Node: &tree.Node{Mode: 0o40750, Mtime: 1700000002, Entries: []tree.Entry{
			{Name: "grüße", Node: &tree.Node{Mode: 0o100644, Mtime: 1700000011, Size: 6}},
			{Name: "hostname", Node: &tree.Node{Mode: 0o100644, Mtime: 1700000003, Size: 4}},
		}}},
		{Name: "fifo", Node: &tree.Node{Mode: 0o10600, Mtime: 1700000007}},
		{Name: "link", Node: &tree.Node{Mode: 0o120777, Mtime: 1700000004, Target: "a/\xff"}},
		{Name: "null", Node: &tree.Node{Mode: 0o20666, Mtime: 1700000005, Major: 1, Minor: 3}},
		{Name: "sock", Node: &tree.Node{Mode: 0o140755, Mtime: 1700000008}},
		{Name: "sudo", Node: &tree.Node{Mode: 0o104755, UID: 1000, GID: 4294967295, Mtime: -5, Size: 10}},
	}}
	if d := cmp.Diff(want, res.Root, cmpopts.IgnoreFields(tree.Node{}, "Content"), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("tree differs (-want +got):\n%s", d)
	}
	for path, want := range map[string]string{"etc/hostname": "zos\n", "sudo": "0123456789", "etc/grüße": "hello\n", "empty": ""} {
		if got := fileBytes(t, res.Root, path); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	if d := cmp.Diff(map[string]string{"fl.tag.version": "1", "fl.tag.author": "me"}, res.Config.Labels); d != "" {
		t.Errorf("labels differ:\n%s", d)
	}
	if !strings.HasPrefix(res.Source, "fl:blake3:") {
		t.Errorf("Source = %q", res.Source)
	}
	for _, suffix := range []string{"-journal", "-wal", "-shm"} {
		if _, err := os.Stat(f.file + suffix); err == nil {
			t.Errorf("Read left %s behind", suffix)
		}
	}
}

// A structure that is not one tree is refused at once, by inode.
func TestReadRefusesStructure(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(f *fixture)
		kind   fault.Kind
		want   string
	}{
		"no root":            {func(f *fixture) { f.exec("delete from inode where ino = 1") }, fault.Invalid, "no valid root"},
		"root is a file":     {func(f *fixture) { f.exec("update inode set mode = 33188 where ino = 1") }, fault.Invalid, "inode 1 "},
		"root has a parent":  {func(f *fixture) { f.exec("update inode set parent = 2 where ino = 1") }, fault.Invalid, "the root must be"},
		"root has a name":    {func(f *fixture) { f.exec("update inode set name = 'x' where ino = 1") }, fault.Invalid, "the root must be"},
		"second root":        {func(f *fixture) { f.inode(20, 0, "x", 0o40755, 0) }, fault.Invalid, "inode 20 (name \"x\", parent 0) is an orphan"},
		"orphan":             {func(f *fixture) { f.inode(20, 99, "x", 0o100644, 0) }, fault.Invalid, "inode 20 (name \"x\", parent 99) is an orphan"},
		"parent is a file":   {func(f *fixture) { f.inode(20, 3, "x", 0o100644, 0) }, fault.Invalid, "inode 20 (name \"x\", parent 3) is an orphan: its parent is not a directory"},
		"cycle":              {func(f *fixture) { f.inode(20, 21, "x", 0o40755, 0); f.inode(21, 20, "y", 0o40755, 0) }, fault.Invalid, "inode 20 (name \"x\", parent 21) is in or below a cycle"},
		"own parent":         {func(f *fixture) { f.inode(20, 20, "x", 0o40755, 0) }, fault.Invalid, "inode 20"},
		"below a cycle":      {func(f *fixture) { f.inode(20, 21, "x", 0o100644, 0); f.inode(21, 21, "y", 0o40755, 0) }, fault.Invalid, "cycle"},
		"same name":          {func(f *fixture) { f.inode(20, 2, "hostname", 0o100644, 0) }, fault.Invalid, "inode 3 has the same name"},
		"dot dot":            {func(f *fixture) { f.inode(20, 1, "..", 0o40755, 0) }, fault.Invalid, "inode 20"},
		"dot":                {func(f *fixture) { f.inode(20, 1, ".", 0o40755, 0) }, fault.Invalid, "inode 20"},
		"no name":            {func(f *fixture) { f.inode(20, 1, "", 0o40755, 0) }, fault.Invalid, "inode 20"},
		"slash":              {func(f *fixture) { f.inode(20, 1, "a/b", 0o100644, 0) }, fault.Invalid, "inode 20"},
		"absolute":           {func(f *fixture) { f.inode(20, 1, "/etc", 0o100644, 0) }, fault.Invalid, "inode 20"},
		"zero byte":          {func(f *fixture) { f.inode(20, 1, "a\x00b", 0o100644, 0) }, fault.Invalid, "inode 20"},
		"long name":          {func(f *fixture) { f.inode(20, 1, strings.Repeat("x", 256), 0o100644, 0) }, fault.Invalid, "inode 20"},
		"name is not UTF-8":  {func(f *fixture) { f.inode(20, 1, "a\xff", 0o100644, 0) }, fault.Invalid, "not UTF-8"},
		"name is a blob":     {func(f *fixture) { f.exec("update inode set name = x'6162' where ino = 3") }, fault.Invalid, "inode 3"},
		"name is null":       {func(f *fixture) { f.exec("update inode set name = null where ino = 3") }, fault.Invalid, "inode 3"},
		"mode without type":  {func(f *fixture) { f.exec("update inode set mode = 420 where ino = 3") }, fault.Invalid, "inode 3"},
		"mode too large":     {func(f *fixture) { f.exec("update inode set mode = 4294967295 where ino = 3") }, fault.Invalid, "mode"},
		"uid too large":      {func(f *fixture) { f.exec("update inode set uid = 4294967296 where ino = 3") }, fault.Invalid, "uid"},
		"gid negative":       {func(f *fixture) { f.exec("update inode set gid = -1 where ino = 3") }, fault.Invalid, "gid"},
		"size is text":       {func(f *fixture) { f.exec("update inode set size = 'x' where ino = 3") }, fault.Invalid, "size"},
		"size negative":      {func(f *fixture) { f.exec("update inode set size = -1 where ino = 3") }, fault.Invalid, "size"},
		"mtime null":         {func(f *fixture) { f.exec("update inode set mtime = null where ino = 3") }, fault.Invalid, "mtime"},
		"device range":       {func(f *fixture) { f.exec("update inode set rdev = ? where ino = 5", int64(1)<<44) }, fault.Invalid, "device"},
		"huge size":          {func(f *fixture) { f.exec("update inode set size = ? where ino = 3", int64(1)<<50) }, fault.Invalid, "inode 3 "},
		"largest size":       {func(f *fixture) { f.exec("update inode set size = ? where ino = 3", int64(1<<63-1)) }, fault.Invalid, "inode 3 "},
		"size, no block":     {func(f *fixture) { f.exec("update inode set size = 1 where ino = 9") }, fault.Invalid, "inode 9 "},
		"block, no size":     {func(f *fixture) { f.exec("update inode set size = 0 where ino = 3") }, fault.Invalid, "inode 3 "},
		"more blocks":        {func(f *fixture) { f.exec("update inode set size = 1 where ino = 10") }, fault.Invalid, "inode 10 "},
		"block of nothing":   {func(f *fixture) { f.block(99, []byte("x")) }, fault.Invalid, "inode 99"},
		"block of a dir":     {func(f *fixture) { f.block(2, []byte("x")) }, fault.Invalid, "inode 2"},
		"block id short":     {func(f *fixture) { f.exec("update block set id = x'00' where ino = 3") }, fault.Invalid, "inode 3 (name \"hostname\", parent 2) block 0"},
		"block id is text":   {func(f *fixture) { f.exec("update block set id = 'x' where ino = 3") }, fault.Invalid, "block 0"},
		"block key null":     {func(f *fixture) { f.exec("update block set key = null where ino = 10 and rowid = 4") }, fault.Invalid, "inode 10 (name \"sudo\", parent 1) block 1"},
		"link has no target": {func(f *fixture) { f.exec("delete from extra") }, fault.Invalid, "inode 4 "},
		"link target long":   {func(f *fixture) { f.exec("update extra set data = ?", make([]byte, 5000)) }, fault.Invalid, "inode 4 "},
		"extra of nothing":   {func(f *fixture) { f.exec("insert into extra values (77, x'00')") }, fault.Invalid, "inode 77"},
		"route range":        {func(f *fixture) { f.exec("update route set end = 256") }, fault.Invalid, "route"},
		"route url":          {func(f *fixture) { f.exec("update route set url = 'blocks'") }, fault.Invalid, "route"},
		"tag is a blob":      {func(f *fixture) { f.exec("update tag set value = x'00ff'") }, fault.Invalid, "tag"},
		"tag too large":      {func(f *fixture) { f.exec("update tag set value = ?", strings.Repeat("x", MaxTag+1)) }, fault.Invalid, "tag"},
		"deep": {func(f *fixture) {
			parent := int64(1)
			f.exec("begin")
			for i := range int64(tree.MaxDepth) {
				f.inode(100+i, parent, strings.Repeat("d", 200), 0o40755, 0)
				parent = 100 + i
			}
			f.exec("commit")
		}, fault.Invalid, "directories deep"},
		"only zdb": {func(f *fixture) { f.exec("update route set url = 'zdb://u:secret@host:9900/ns'") }, fault.Unsupported, "zdb stores join with the storage issue"},
		"only s3s": {func(f *fixture) { f.exec("update route set url = 's3s://host:9000/b'") }, fault.Unsupported, "s3s stores join"},
		"no route": {func(f *fixture) { f.exec("delete from route") }, fault.NotFound, "inode 3 \"/etc/hostname\" block 0 of 1"},
	} {
		t.Run(name, func(t *testing.T) {
			f := sample(t)
			tt.change(f)
			_, err := Read(t.Context(), f.file, ReadOptions{})
			if fault.Of(err) != tt.kind || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("Read = %v (%s), want %s with %q", err, fault.Of(err), tt.kind, tt.want)
			}
			if strings.Contains(fmt.Sprint(err), "secret") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

// Damage of a block is seen when the file is read, named by inode and block,
// and by a partial read at once.
func TestReadRefusesDamagedBlocks(t *testing.T) {
	write := func(path string, b []byte) {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			panic(err)
		}
	}
	// replace gives block 1 of inode 10 another row and stored bytes.
	replace := func(f *fixture, stored []byte, id, key [32]byte) {
		f.put(id, stored)
		f.exec("update block set id = ?, key = ? where rowid = 4", id[:], key[:])
	}
	for name, tt := range map[string]struct {
		change func(f *fixture, path string)
		kind   fault.Kind
		want   string
	}{
		"missing":   {func(f *fixture, path string) { os.Remove(path) }, fault.NotFound, "the block is not there"},
		"flipped":   {func(f *fixture, path string) { b, _ := os.ReadFile(path); b[5] ^= 1; write(path, b) }, fault.Invalid, "hashes to"},
		"truncated": {func(f *fixture, path string) { b, _ := os.ReadFile(path); write(path, b[:len(b)-1]) }, fault.Invalid, "hashes to"},
		"empty":     {func(f *fixture, path string) { write(path, nil) }, fault.Invalid, "hashes to"},
		"longer":    {func(f *fixture, path string) { b, _ := os.ReadFile(path); write(path, append(b, 0)) }, fault.Invalid, "hashes to"},
		"huge":      {func(f *fixture, path string) { os.Truncate(path, 1<<40) }, fault.Invalid, "at most"},
		"directory": {func(f *fixture, path string) { os.Remove(path); os.Mkdir(path, 0o755) }, fault.Invalid, "not a regular file"},
		"swapped with another valid block": {func(f *fixture, path string) {
			stored, _, _ := sealByHand([]byte("hello\n"))
			write(path, stored)
		}, fault.Invalid, "hashes to"},
		"wrong key": {func(f *fixture, path string) {
			f.exec("update block set key = ? where rowid = 4", bytes.Repeat([]byte{7}, 32))
		}, fault.Invalid, "the key in the .fl is wrong"},
		"key that opens but is not the hash": {func(f *fixture, path string) {
			stored, id, key := sealBody([]byte("\x06\x14456789"), [32]byte{1, 2, 3})
			replace(f, stored, id, key)
		}, fault.Invalid, "do not hash to its key"},
		"broken snappy": {func(f *fixture, path string) {
			stored, id, key := sealBody([]byte("\x06\xf0"), [32]byte{1})
			replace(f, stored, id, key)
		}, fault.Invalid, "snappy"},
		"lying length": {func(f *fixture, path string) {
			stored, id, key := sealBody([]byte("\x80\x80\x80\x01\x00x"), [32]byte{1}) // 2 MiB of one byte
			replace(f, stored, id, key)
		}, fault.Invalid, "can't hold so many"},
		"length over the limit": {func(f *fixture, path string) {
			stored, id, key := sealBody([]byte("\xff\xff\xff\xff\x0f\x00x"), [32]byte{1})
			replace(f, stored, id, key)
		}, fault.Invalid, "plain bytes where"},
		"empty block":  {func(f *fixture, path string) { stored, id, key := sealByHand(nil); replace(f, stored, id, key) }, fault.Invalid, "0 plain bytes"},
		"size larger":  {func(f *fixture, path string) { f.exec("update inode set size = 11 where ino = 10") }, fault.Invalid, "have 10 bytes, the size of the file is 11"},
		"size smaller": {func(f *fixture, path string) { f.exec("update inode set size = 9 where ino = 10") }, fault.Invalid, "have 10 bytes, the size of the file is 9"},
	} {
		t.Run(name, func(t *testing.T) {
			f := sample(t)
			_, id, _ := sealByHand([]byte("456789"))
			tt.change(f, f.store+"/"+store.ID(id).String()[:2]+"/"+store.ID(id).String())
			check := func(what string, err error) {
				t.Helper()
				if fault.Of(err) != tt.kind || !strings.Contains(fmt.Sprint(err), tt.want) || !strings.Contains(fmt.Sprint(err), `inode 10 "/sudo" block 1`) {
					t.Errorf("%s = %v (%s), want %s with %q and the place", what, err, fault.Of(err), tt.kind, tt.want)
				}
			}
			res := read(t, f.file, ReadOptions{})
			got, err := tryContent(res.Root.At("sudo"))
			check("read", err)
			if string(got) != "0123" {
				t.Errorf("the damaged file gave %q, want only the block that is right", got)
			}
			if got := fileBytes(t, res.Root, "etc/hostname"); got != "zos\n" {
				t.Errorf("a whole file beside it = %q", got)
			}

			var report bytes.Buffer
			res, err = Read(t.Context(), f.file, ReadOptions{Partial: &report})
			check("Read with Partial", err)
			if res != nil {
				t.Error("Read with Partial made an image of a damaged file")
			}
			if n := strings.Count(report.String(), "\n"); n != 1 || !strings.Contains(report.String(), tt.want) {
				t.Errorf("the report has %d lines, want the one problem:\n%s", n, report.String())
			}
		})
	}
}

func TestPartialListsEverything(t *testing.T) {
	f := sample(t)
	f.inode(20, 99, "orphan", 0o100644, 0)
	f.inode(21, 1, "..", 0o40755, 0)
	f.inode(22, 2, "hostname", 0o100644, 0)
	if err := os.RemoveAll(f.store); err != nil {
		t.Fatal(err)
	}
	var report bytes.Buffer
	_, err := Read(t.Context(), f.file, ReadOptions{Partial: &report})
	if err == nil || !strings.Contains(err.Error(), "7 problems") {
		t.Errorf("Read = %v, want 7 problems", err)
	}
	for _, want := range []string{"inode 20", "inode 21", "inode 3 has the same name", `"/etc/hostname" block 0`, `"/sudo" block 0`, `"/sudo" block 1`, `"/etc/grüße" block 0`} {
		if !strings.Contains(report.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, report.String())
		}
	}

	report.Reset()
	res := read(t, sample(t).file, ReadOptions{Partial: &report})
	if fileBytes(t, res.Root, "sudo") != "0123456789" || !strings.Contains(report.String(), "no problems in 11 inodes") {
		t.Errorf("a whole file: report %q", report.String())
	}
}

func TestStoresReplaceRoutes(t *testing.T) {
	f := sample(t)
	f.exec("update route set url = 'zdb://host/ns'")
	res := read(t, f.file, ReadOptions{Stores: []string{"dir://" + f.store}})
	if err := readAllFiles(res.Root); err != nil {
		t.Error(err)
	}
	// A scheme without an opener is no harm while another route has the block.
	f.exec("insert into route values (0, 255, ?)", "dir://"+f.store)
	res = read(t, f.file, ReadOptions{})
	if err := readAllFiles(res.Root); err != nil {
		t.Error(err)
	}
	// A block that is wrong in one store is taken from the next.
	bad := t.TempDir()
	_, id, _ := sealByHand([]byte("zos\n"))
	if err := os.WriteFile(bad+"/"+store.ID(id).String(), []byte("bad"), 0o644); err != nil {
		t.Fatal(err)
	}
	res = read(t, f.file, ReadOptions{Stores: []string{"dir://" + bad, "dir://" + f.store}})
	if got := fileBytes(t, res.Root, "etc/hostname"); got != "zos\n" {
		t.Errorf("hostname = %q", got)
	}
	// Ranges send each block to its own store.
	lo, hi := fmt.Sprintf("%02x-%02x=", 0, id[0]-1), fmt.Sprintf("%02x-ff=", id[0])
	res = read(t, f.file, ReadOptions{Stores: []string{lo + "dir://" + f.store, hi + "dir://" + bad}})
	if _, err := tryContent(res.Root.At("etc/hostname")); !errors.Is(err, fault.Invalid) {
		t.Errorf("the block of the other range = %v, want invalid", err)
	}
}

func TestReadLimits(t *testing.T) {
	f := sample(t)
	for name, lim := range map[string]convert.Limits{"entries": {Entries: 5}, "bytes": {Bytes: 19}} {
		if _, err := Read(t.Context(), f.file, ReadOptions{Options: convert.Options{Limits: lim}}); !errors.Is(err, fault.Exhausted) {
			t.Errorf("%s: Read = %v, want exhausted", name, err)
		}
	}
	res := read(t, f.file, ReadOptions{Options: convert.Options{Exclude: []string{"etc"}, Limits: convert.Limits{Entries: 11, Bytes: 20}}})
	if res.Root.At("etc") != nil || res.Root.At("sudo") == nil {
		t.Error("Exclude was not applied")
	}
}

func TestContentAfterClose(t *testing.T) {
	f := sample(t)
	res, err := Opener(ReadOptions{})(t.Context(), f.file, convert.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tryContent(res.Root.At("sudo")); !errors.Is(err, fault.Unavailable) {
		t.Errorf("content after Close = %v, want unavailable", err)
	}
}
