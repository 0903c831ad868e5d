package identity_test

import (
	"path/filepath"
	"sync"
	"testing"

	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// TestSaveNeverOverwrites: of several keys that are saved under one name at the
// same time one is there after, and its writer is the only one that is told so.
func TestSaveNeverOverwrites(t *testing.T) {
	for round := range 30 {
		path := filepath.Join(t.TempDir(), "key")
		var wg sync.WaitGroup
		errs := make([]error, 8)
		start := make(chan struct{})
		for i := range errs {
			wg.Go(func() {
				<-start
				errs[i] = identity.FromSeed([32]byte{byte(i)}).Save(path)
			})
		}
		close(start)
		wg.Wait()
		saved := -1
		for i, err := range errs {
			switch {
			case err == nil && saved < 0:
				saved = i
			case fault.Of(err) != fault.Conflict:
				t.Fatalf("round %d: Save of a second key = %v, want a conflict", round, err)
			}
		}
		k, err := identity.Load(path)
		if err != nil || saved < 0 || k.Public() != identity.FromSeed([32]byte{byte(saved)}).Public() {
			t.Fatalf("round %d: key %d was saved and the file has another: %v", round, saved, err)
		}
	}
}
