// Package thread runs code on an operating system thread that is thrown away.
//
// Namespaces belong to a thread: one that entered a namespace can't serve other
// goroutines again. Discard gives a function such a thread and ends it after.
//
//	err := thread.Discard(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Discard runs f on a thread of its own, ends the thread and returns the error
// of f. Processes that f starts keep the thread's namespaces.
func Discard(f func() error) error {
	result := make(chan error, 1)
	var work func()
	work = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread can't be thrown away. It is held until another
			// one has taken the work.
			defer runtime.UnlockOSThread()
			taken := make(chan struct{})
			go func() {
				runtime.LockOSThread()
				close(taken)
				work()
			}()
			<-taken
			return
		}
		// Never unlocked: the thread ends with the goroutine.
		result <- f()
	}
	go work()
	return <-result
}
