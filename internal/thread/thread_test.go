package thread

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDiscardNeverUsesTheMainThread(t *testing.T) {
	boom := errors.New("boom")
	for range 50 {
		err := Discard(func() error {
			if unix.Gettid() == unix.Getpid() {
				t.Error("the work ran on the main thread")
			}
			return boom
		})
		if err != boom {
			t.Fatalf("Discard = %v, want %v", err, boom)
		}
	}
}
