package fl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"zos.internal/internal/fault"
)

// What SQLite would compute is refused before a row is read.
func TestReadRefusesSchemas(t *testing.T) {
	rename := "alter table inode rename to was"
	for name, tt := range map[string]struct {
		sql  []string
		want string
	}{
		"endless view": {[]string{rename, `create view inode as with recursive r(ino) as (select 1 union all select ino + 1 from r)
			select ino, ino as rowid, 0 as parent, 'x' as name, 0 as size, 0 as uid, 0 as gid, 33188 as mode, 0 as rdev, 0 as ctime, 0 as mtime from r`}, "only plain tables"},
		"view beside":       {[]string{"create view v as select 1"}, "only plain tables"},
		"trigger":           {[]string{"create trigger g after insert on tag begin delete from inode; end"}, "only plain tables"},
		"virtual table":     {[]string{"drop table tag", "create virtual table tag using fts5(key, value)"}, "only plain tables"},
		"computed column":   {[]string{"drop table tag", "create table tag (key text, value text as (hex(zeroblob(500000000))))"}, "is computed"},
		"stored column":     {[]string{"drop table tag", "create table tag (key text, value text as (key || key) stored)"}, "is computed"},
		"without rowid":     {[]string{"drop table tag", "create table tag (key text primary key, value text) without rowid"}, "not a .fl"},
		"no table":          {[]string{"drop table route"}, `the table "route" is missing`},
		"no column":         {[]string{"alter table block drop column key"}, `no column "key"`},
		"unknown column":    {[]string{"alter table inode add column acl"}, `unknown column "acl"`},
		"column rowid":      {[]string{"drop table block", "create table block (rowid, ino, id, key)"}, `unknown column "rowid"`},
		"ino is not a key":  {[]string{rename, "create table inode as select ino, parent, name, size, uid, gid, mode, rdev, ctime, mtime from was order by ino desc"}, "ino must be its INTEGER PRIMARY KEY"},
		"very many objects": {many(300), "more than 256 rows"},
	} {
		t.Run(name, func(t *testing.T) {
			f := sample(t)
			for _, q := range tt.sql {
				f.exec(q)
			}
			_, err := Read(t.Context(), f.file, ReadOptions{})
			if k := fault.Of(err); k != fault.Invalid && k != fault.Exhausted || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("Read = %v (%s), want invalid with %q", err, k, tt.want)
			}
			if err := SetTags(t.Context(), f.file, []Tag{{"a", "b"}}); err == nil && name != "ino is not a key" {
				t.Error("SetTags went well")
			}
		})
	}
}

func many(n int) (sql []string) {
	for i := range n {
		sql = append(sql, fmt.Sprintf("create table t%d (a)", i))
	}
	return sql
}

func TestReadRefusesOtherFiles(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		content string
		kind    fault.Kind
		want    string
	}{
		"empty":    {"", fault.Invalid, "not a .fl"},
		"text":     {"hello, this is some text\n", fault.Invalid, "not a .fl"},
		"gzip":     {"\x1f\x8b\x08 and so on, and on", fault.Unsupported, "0-fs"},
		"header":   {"SQLite format 3\x00", fault.Invalid, "damaged"},
		"nonsense": {"SQLite format 3\x00" + strings.Repeat("nonsense", 512), fault.Invalid, "damaged"},
	} {
		file := dir + "/" + name
		if err := os.WriteFile(file, []byte(tt.content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(t.Context(), file, ReadOptions{}); fault.Of(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Read = %v (%s), want %s with %q", name, err, fault.Of(err), tt.kind, tt.want)
		}
	}
	if _, err := Read(t.Context(), dir+"/none", ReadOptions{}); !errors.Is(err, fault.NotFound) {
		t.Errorf("Read of no file = %v", err)
	}
	if _, err := Read(t.Context(), dir, ReadOptions{}); !errors.Is(err, fault.Invalid) {
		t.Errorf("Read of a directory = %v", err)
	}
	big := dir + "/big"
	if err := os.WriteFile(big, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, MaxFile+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), big, ReadOptions{}); !errors.Is(err, fault.Exhausted) {
		t.Errorf("Read of a huge file = %v", err)
	}
	f := sample(t)
	f.db.Close()
	for _, suffix := range []string{"-wal", "-journal"} {
		if err := os.WriteFile(f.file+suffix, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(t.Context(), f.file, ReadOptions{}); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), suffix) {
			t.Errorf("Read beside %s = %v, want conflict", suffix, err)
		}
		if err := os.Remove(f.file + suffix); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, f.file, ReadOptions{}); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Read with a cancelled context = %v", err)
	}
}

// A file in WAL mode is read as it is, and its directory stays clean.
func TestReadWALFile(t *testing.T) {
	f := sample(t)
	f.exec("pragma journal_mode = wal")
	f.db.Close()
	res := read(t, f.file, ReadOptions{})
	if got := fileBytes(t, res.Root, "sudo"); got != "0123456789" {
		t.Errorf("sudo = %q", got)
	}
	if err := SetTags(t.Context(), f.file, []Tag{{"a", "b"}}); err != nil {
		t.Error(err)
	}
	if es, _ := os.ReadDir(f.file[:strings.LastIndexByte(f.file, '/')]); len(es) != 2 {
		t.Errorf("the directory has %v", es)
	}
}

// A b-tree that leads back to a page it has passed would never end.
func TestReadRefusesLoops(t *testing.T) {
	f := sample(t)
	f.exec("begin")
	for i := range 2000 {
		f.inode(int64(100+i), 1, fmt.Sprintf("many-%d", i), 0o100644, 0)
	}
	f.exec("commit")
	var page int64
	if err := f.db.QueryRow("select rootpage from sqlite_schema where name = 'inode'").Scan(&page); err != nil {
		t.Fatal(err)
	}
	f.db.Close()
	raw, err := os.ReadFile(f.file)
	if err != nil {
		t.Fatal(err)
	}
	root := raw[(page-1)*512 : page*512]
	if root[0] != 5 {
		t.Fatalf("page %d has the type %d, want an interior table page", page, root[0])
	}
	cells := int(binary.BigEndian.Uint16(root[3:]))
	first := binary.BigEndian.Uint16(root[12:])
	for name, child := range map[string]uint32{"one child for all": binary.BigEndian.Uint32(root[first:]), "the root itself": uint32(page)} {
		c := append([]byte(nil), raw...)
		root := c[(page-1)*512 : page*512]
		for i := range cells {
			at := binary.BigEndian.Uint16(root[12+2*i:])
			binary.BigEndian.PutUint32(root[at:], child)
		}
		file := t.TempDir() + "/loop.fl"
		if err := os.WriteFile(file, c, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(t.Context(), file, ReadOptions{}); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: Read = %v, want invalid", name, err)
		}
	}
}

// A deep tree whose every path is long costs memory for its names only.
func TestDeepTreeMemory(t *testing.T) {
	f := newFixture(t)
	f.exec("begin")
	f.inode(1, 0, "/", 0o40755, 0)
	const depth, files = 800, 3000 // 3000 paths of 160 kB would be 480 MB
	for i := range int64(depth) {
		f.inode(2+i, 1+i, strings.Repeat("d", 200), 0o40755, 0)
	}
	for i := range int64(files) {
		f.inode(2+depth+i, 1+depth, fmt.Sprint(i), 0o100644, 0)
	}
	f.exec("commit")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	root, err := List(t.Context(), f.file)
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
		t.Errorf("List allocated %d bytes for %d entries", got, depth+files)
	}
	at := root
	for range depth {
		at = at.Entries[0].Node
	}
	if len(at.Entries) != files {
		t.Errorf("the deepest directory has %d entries, want %d", len(at.Entries), files)
	}
}

// Whatever byte of the file is damaged, Read gives an error or a checked tree.
func TestDamagedDatabase(t *testing.T) {
	f := sample(t)
	f.db.Close()
	raw, err := os.ReadFile(f.file)
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/damaged.fl"
	try := func(b []byte) {
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		readAnything(t, file)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 150 {
		c := append([]byte(nil), raw...)
		for range 1 + r.IntN(3) {
			c[r.IntN(len(c))] = byte(r.Uint32())
		}
		try(c)
	}
	for cut := 0; cut < len(raw); cut += 211 {
		try(raw[:cut])
	}
}

// readAnything reads a file of unknown quality and fails on a tree that is
// not one.
func readAnything(t testing.TB, file string) {
	t.Helper()
	res, err := Read(t.Context(), file, ReadOptions{Stores: []string{"dir:///nonexistent"}})
	if err != nil {
		if k := fault.Of(err); k == fault.Internal || k == fault.Denied {
			t.Errorf("Read = %v (%s)", err, k)
		}
		return
	}
	defer res.Close()
	if err := res.Root.Check(); err != nil {
		t.Errorf("the tree is not one: %v", err)
	}
	for path, n := range res.Root.Walk() {
		if n.IsRegular() && n.Size > 0 {
			if _, err := tryContent(n); err == nil {
				t.Errorf("%s has content, from nowhere", path)
			}
		}
	}
}
