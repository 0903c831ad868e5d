package block

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"zos.internal/internal/fault"
)

func temps(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, dirTemp, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestDirCleansTempFiles(t *testing.T) {
	path := t.TempDir()
	if err := OpenDir(path).Write(t.Context(), "a/b", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if got := temps(t, path); len(got) > 0 {
		t.Errorf("a finished Write left %v", got)
	}
	err := OpenDir(path).Write(t.Context(), "a/c", errReader{fault.Errorf(fault.Denied, "no")})
	if got := temps(t, path); len(got) > 0 || !errors.Is(err, fault.Denied) {
		t.Errorf("a failed Write = %v, left %v", err, got)
	}
	// What a killed writer left is removed, what a living one has is not.
	dead := filepath.Join(path, dirTemp, "w-dead")
	if err := os.WriteFile(dead, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	pr, pw := io.Pipe()
	done := make(chan error)
	go func() { done <- OpenDir(path).Write(t.Context(), "slow", pr) }()
	if _, err := pw.Write([]byte("first half, ")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of a killed writer is still there: %v", err)
	}
	if err := OpenDir(path).Write(t.Context(), "quick", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if got := temps(t, path); len(got) != 1 {
		t.Errorf("temporary files while one is being written: %v", got)
	}
	if _, err := pw.Write([]byte("second half")); err != nil {
		t.Fatal(err)
	}
	pw.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// Published files are plain ones that a web server can read.
	b, err := os.ReadFile(filepath.Join(path, "slow"))
	if err != nil || string(b) != "first half, second half" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if st, err := os.Stat(filepath.Join(path, "slow")); err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("its mode is %v, %v", st.Mode(), err)
	}
}

func TestDirConflicts(t *testing.T) {
	d := OpenDir(t.TempDir())
	for _, key := range []string{"file", "dir/file"} {
		if err := d.Write(t.Context(), key, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"file/below", "dir"} {
		if err := d.Write(t.Context(), key, strings.NewReader("x")); !errors.Is(err, fault.Conflict) {
			t.Errorf("Write(%s) = %v, want conflict", key, err)
		}
	}
	if got := temps(t, d.path); len(got) > 0 {
		t.Errorf("the conflicts left %v", got)
	}
}

// Links and odd files in the directory are not part of the bucket.
func TestDirFollowsNoLink(t *testing.T) {
	path, outside := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(path, "link")); err != nil {
		t.Fatal(err)
	}
	d := OpenDir(path)
	if b, err := d.Read(t.Context(), "link", 0, 10); !errors.Is(err, fault.NotFound) {
		t.Errorf("Read of a link = %q, %v, want not found", b, err)
	}
	if _, err := d.Stat(t.Context(), "link"); !errors.Is(err, fault.NotFound) {
		t.Errorf("Stat of a link = %v, want not found", err)
	}
	for key, err := range d.List(t.Context(), "") {
		t.Errorf("List = %q, %v", key, err)
	}
	// A Write replaces the link and leaves its target alone.
	if err := d.Write(t.Context(), "link", strings.NewReader("new")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(secret); err != nil || string(b) != "hush" {
		t.Errorf("the target of the link holds %q, %v", b, err)
	}
	if b, err := d.Read(t.Context(), "link", 0, 10); err != nil || string(b) != "new" {
		t.Errorf("Read after Write = %q, %v", b, err)
	}
}

func TestDirThatIsNotThere(t *testing.T) {
	d := OpenDir(filepath.Join(t.TempDir(), "a", "b"))
	if _, err := d.Read(t.Context(), "k", 0, 1); !errors.Is(err, fault.NotFound) {
		t.Errorf("Read = %v, want not found", err)
	}
	for key, err := range d.List(t.Context(), "") {
		t.Errorf("List = %q, %v", key, err)
	}
	if err := d.Delete(t.Context(), "k"); err != nil {
		t.Errorf("Delete = %v", err)
	}
	if err := d.Write(t.Context(), "k", strings.NewReader("x")); err != nil {
		t.Errorf("Write = %v", err)
	}
}

func FuzzKey(f *testing.F) {
	for _, k := range []string{"a", "p/00", "..", "a/../b", "/a", "a//b", ".x", "a/.x", "a.b-c_D/9"} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if CheckKey(key) != nil {
			return
		}
		if len(key) > MaxKey || !filepath.IsLocal(key) || filepath.Clean(key) != key || filepath.ToSlash(key) != key {
			t.Fatalf("CheckKey accepts %q", key)
		}
	})
}
