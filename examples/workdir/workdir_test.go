package workdir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"zos.internal/examples/workdir"
)

func TestClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "below", "dir")
	cleaned := 0
	clean := func() error {
		cleaned++
		return os.RemoveAll(dir)
	}
	unlock, err := workdir.Claim(dir, clean)
	if err != nil || cleaned != 0 {
		t.Fatalf("Claim() = %v after %d cleanings", err, cleaned)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", st, err)
	}
	if _, err := workdir.Claim(dir, clean); err == nil || !strings.Contains(err.Error(), "another run uses") || cleaned != 0 {
		t.Errorf("Claim() of a claimed directory = %v", err)
	}
	unlock()

	// What a killed run left is cleaned, and only by who has the lock.
	left := filepath.Join(dir, "left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if unlock, err = workdir.Claim(dir, clean); err != nil || cleaned != 1 {
		t.Fatalf("Claim() = %v after %d cleanings, want one", err, cleaned)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was left is there: %v", err)
	}
	unlock()
	bad := errors.New("it is mounted")
	if _, err := workdir.Claim(dir, func() error { return bad }); !errors.Is(err, bad) {
		t.Errorf("Claim() = %v, want the error of the cleaning", err)
	}
	if _, err := os.Stat(dir + ".lock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lock is left: %v", err)
	}
}
