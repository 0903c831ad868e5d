package fl

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/blake2b"

	"zos.internal/flist/tree"
)

// fixture makes a .fl by SQL and blocks by hand, so that what Read is tested
// with does not come from Write.
type fixture struct {
	t     testing.TB
	db    *sql.DB
	file  string
	store string // directory of the blocks
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{t: t, file: filepath.Join(dir, "f.fl"), store: filepath.Join(dir, "blocks")}
	var err error
	if f.db, err = sql.Open("sqlite", "file:"+f.file+"?_pragma=page_size(512)&_pragma=synchronous(0)&_pragma=journal_mode(memory)"); err != nil {
		t.Fatal(err)
	}
	f.db.SetMaxOpenConns(1)
	t.Cleanup(func() { f.db.Close() })
	for _, q := range []string{
		"create table inode (ino integer primary key autoincrement, parent integer, name varchar(255), size integer, uid integer, gid integer, mode integer, rdev integer, ctime integer, mtime integer)",
		"create index parents on inode (parent)",
		"create index names on inode (name)",
		"create table extra (ino integer primary key, data varchar(4096))",
		"create table block (ino integer, id varchar(32), key varchar(32))",
		"create index block_ino on block (ino)",
		"create table tag (key varchar(10) primary key, value varchar(255))",
		"create table route (start integer, end integer, url varchar(2048))",
	} {
		f.exec(q)
	}
	return f
}

func (f *fixture) exec(q string, args ...any) {
	f.t.Helper()
	if _, err := f.db.Exec(q, args...); err != nil {
		f.t.Fatalf("%s: %v", q, err)
	}
}

func (f *fixture) inode(ino, parent int64, name string, mode, size int64) {
	f.t.Helper()
	f.exec("insert into inode values (?,?,?,?,?,?,?,?,?,?)", ino, parent, name, size, 0, 0, mode, 0, 7, 1700000000+ino)
}

// sealByHand follows docs/reference/fl.md without the code under test: the
// snappy body has only literals.
func sealByHand(plain []byte) (stored []byte, id, key [32]byte) {
	body := binary.AppendUvarint(nil, uint64(len(plain)))
	for rest := plain; len(rest) > 0; {
		n := min(len(rest), 1<<16)
		body = append(body, 61<<2, byte(n-1), byte((n-1)>>8))
		body = append(body, rest[:n]...)
		rest = rest[n:]
	}
	return sealBody(body, blake2b.Sum256(plain))
}

func sealBody(body []byte, key [32]byte) (stored []byte, id, k [32]byte) {
	c, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(c)
	if err != nil {
		panic(err)
	}
	stored = gcm.Seal(nil, key[:12], body, nil)
	return stored, blake2b.Sum256(stored), key
}

// put stores bytes as the block id.
func (f *fixture) put(id [32]byte, stored []byte) string {
	f.t.Helper()
	name := hex.EncodeToString(id[:])
	path := filepath.Join(f.store, name[:2], name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, stored, 0o644); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// block adds a block to a file and returns the path of its bytes.
func (f *fixture) block(ino int64, plain []byte) string {
	f.t.Helper()
	stored, id, key := sealByHand(plain)
	f.exec("insert into block values (?,?,?)", ino, id[:], key[:])
	return f.put(id, stored)
}

// sample is a tree with one of everything.
func sample(t testing.TB) *fixture {
	t.Helper()
	f := newFixture(t)
	f.inode(1, 0, "/", 0o40755, 4096)
	f.inode(2, 1, "etc", 0o40750, 4096)
	f.inode(3, 2, "hostname", 0o100644, 4)
	f.inode(4, 1, "link", 0o120777, 3)
	f.inode(5, 1, "null", 0o20666, 0)
	f.inode(6, 1, "disk", 0o60660, 0)
	f.inode(7, 1, "fifo", 0o10600, 0)
	f.inode(8, 1, "sock", 0o140755, 0)
	f.inode(9, 1, "empty", 0o100600, 0)
	f.inode(10, 1, "sudo", 0o104755, 10)
	f.inode(11, 2, "grüße", 0o100644, 6)
	f.exec("update inode set uid = 1000, gid = 4294967295, mtime = -5 where ino = 10")
	f.exec("update inode set rdev = ? where ino = 5", 1<<8|3)
	f.exec("update inode set rdev = ? where ino = 6", int64(8<<8|0x34|0x12000000)) // 8:0x12034
	f.exec("insert into extra values (4, ?)", []byte("a/\xff"))
	// Rows of different files lie between one another, as parallel packers
	// leave them, and blocks may be short anywhere.
	f.block(3, []byte("zos\n"))
	f.block(10, []byte("0123"))
	f.block(11, []byte("hello\n"))
	f.block(10, []byte("456789"))
	f.exec("insert into tag values ('version', '1'), ('author', 'me')")
	f.exec("insert into route values (0, 255, ?)", "dir://"+f.store)
	return f
}

// fileBytes reads a file of a tree.
func fileBytes(t testing.TB, root *tree.Node, path string) string {
	t.Helper()
	b, err := tryContent(root.At(path))
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return string(b)
}

func tryContent(n *tree.Node) ([]byte, error) {
	r, err := n.Content.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b bytes.Buffer
	_, err = io.Copy(&b, r)
	return b.Bytes(), err
}

// readAllFiles reads every file of a tree and returns the first error.
func readAllFiles(root *tree.Node) error {
	for _, n := range root.Walk() {
		if n.IsRegular() && n.Size > 0 {
			if _, err := tryContent(n); err != nil {
				return err
			}
		}
	}
	return nil
}
