// Package dataserver serves the data devices of mounted images to the kernel.
//
// The kernel's EROFS reads an image's metadata from one file and its data from
// another. This package is that second file: a small FUSE file system with one
// directory and one read-only file per image, named by the image's id. FUSE
// sees only what the page cache of EROFS misses.
//
// Two processes share the work. The keeper (Keep) holds the /dev/fuse
// descriptor and the slot table and does nothing that can go wrong; on a node
// PID 1 is the keeper. The data server (Child, Serve) is its child and answers
// the kernel. When the data server dies or is upgraded the keeper starts
// another on the same descriptor, and the kernel sends again what was under
// way (FUSE_NOTIFY_RESEND, Linux 6.9): readers see a pause, no error.
//
// Guarantees: every READ is answered, at the latest when its deadline passes,
// then with EIO and an Event; memory for reads under way is bounded; a slot's
// number is its node id and is never given to another image; a removed slot is
// served until the kernel closed its last handle.
//
// It doesn't check bytes: the Reader does. It doesn't survive the death of the
// keeper: the descriptor is closed then and reads give EIO until the mount
// package cleaned up.
//
// Neither process may run from an image that it serves, nor map a file of one:
// a page fault there would wait for the process that has the fault.
//
//	open := func(s dataserver.Slot) (dataserver.Reader, error) { return openImage(s.Spec) }
//	err := dataserver.Child(ctx, open, dataserver.Options{Log: log})  // the hidden command that Keep starts
package dataserver

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"
)

// A Reader reads the data device of one image.
type Reader interface {
	// ReadAt fills p with the bytes from off. It is called by many goroutines
	// at a time. The range lies within the slot's size. Bytes were verified;
	// an error makes the read of the process fail with EIO, so retrying is
	// the Reader's business. It returns soon after ctx ends.
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// An Opener makes the Reader of a slot. When the Reader is an io.Closer it is
// closed once the slot is gone.
type Opener func(Slot) (Reader, error)

// Slot is one file of the data server.
type Slot struct {
	// Num is the node id, 2 or more. It is never used twice in the life of a
	// keeper. Who adds a slot leaves it 0.
	Num uint64 `json:"num"`
	// Name is the file's name: 1 to 128 of [0-9a-zA-Z._-], not starting with
	// a dot. Images use their id.
	Name string `json:"name"`
	// Size of the data device in bytes.
	Size int64 `json:"size"`
	// Spec tells the Opener what to read; the server doesn't look into it.
	Spec json.RawMessage `json:"spec,omitempty"`
}

// An Event reports a read that failed.
type Event struct {
	Kind   string `json:"kind"` // "read", "deadline" or "open"
	Slot   uint64 `json:"slot"`
	Name   string `json:"name"`
	Offset int64  `json:"offset"`
	Length int    `json:"length"`
	Error  string `json:"error"`
}

// Options of a data server. The zero value works.
type Options struct {
	// Log gets state changes and failed reads; nil discards them.
	Log *slog.Logger
	// OnEvent is called for every failed read; it must not block.
	OnEvent func(Event)
	// ReadTimeout is the deadline of one READ, 75 s if zero: more than a
	// fetch may take, so that the Reader's own error comes first.
	ReadTimeout time.Duration
	// MaxMemory bounds the bytes of the reads under way, 64 MiB if zero and at
	// least 2 MiB. One image uses at most half of it, so that an image whose
	// source hangs does not stop the others.
	MaxMemory int64
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnEvent == nil {
		o.OnEvent = func(Event) {}
	}
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = 75 * time.Second
	}
	if o.MaxMemory <= 0 {
		o.MaxMemory = 64 << 20
	}
	o.MaxMemory = max(o.MaxMemory, 2*maxRead)
	return o
}

// Stats counts what a data server did since it started.
type Stats struct {
	Requests int64 `json:"requests"`
	Reads    int64 `json:"reads"`
	Bytes    int64 `json:"bytes"`
	Errors   int64 `json:"errors"`
	Resent   int64 `json:"resent"`   // requests that a predecessor had taken
	Inflight int64 `json:"inflight"` // at this moment
}
