// Package block names, cuts, encodes, packs, stores and checks content.
//
// A block is a piece of content named by its hash; a chunk is a block cut
// from files. Everything above (images, snapshots, caches, backups) reads
// chunks through a Getter and keeps packs in Blobs; policy such as retry,
// failover or a rate limit is a wrapper that is itself a Getter, Blobs or
// Bucket. Bytes are checked where they enter: a Getter never hands out bytes
// that do not have the name that was asked for.
//
// The package doesn't know files, images or servers, and keeps no index: who
// made a pack says with a Locator or a map where a chunk lies.
//
//	mirrors := block.NewMirrors(log, block.Source{Name: "disk", Bucket: block.OpenDir(dir)})
//	chunks := block.NewPackGetter(mirrors, "p/", block.Domain{}, places)
//	for chunk, err := range chunks.Get(ctx, names) {
//		...
//	}
//
// The formats are specified in docs/reference/blocks.md.
package block

import (
	"context"
	"encoding/hex"
	"io"
	"iter"

	"github.com/zeebo/blake3"

	"zos.internal/internal/fault"
)

// Name is the BLAKE3-256 hash that names a block; in a private domain it is
// the keyed hash (Domain). Its text form is 64 lower-case hex digits.
type Name [32]byte

// Sum names b in the public domain.
func Sum(b []byte) Name { return blake3.Sum256(b) }

// ParseName reads the text form. Upper-case digits and other lengths are
// Invalid, so that one name has one spelling.
func ParseName(s string) (Name, error) {
	var n Name
	if len(s) != 2*len(n) {
		return n, fault.Errorf(fault.Invalid, "the name %.80q has %d characters instead of 64", s, len(s))
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return n, fault.Errorf(fault.Invalid, "the name %q is not lower-case hexadecimal", s)
		}
	}
	_, err := hex.Decode(n[:], []byte(s))
	return n, err
}

// String is the text form.
func (n Name) String() string { return hex.EncodeToString(n[:]) }

// IsZero reports whether n is the zero name, which names nothing.
func (n Name) IsZero() bool { return n == Name{} }

// Chunk is one answered block: its name and its plain bytes.
type Chunk struct {
	Name Name
	Data []byte
}

// A Getter reads plain chunks. It checks every chunk against its name before
// it yields it, so a caller never sees bytes that do not hash to the name.
//
// Every name asked for is answered exactly once, in any order, by the chunk or
// by an error beside a Chunk that has only the Name. The kinds are NotFound
// (no source has it), Invalid (bytes were wrong everywhere) and Unavailable.
// A Getter does not retry; wrappers do. The yielded Data belongs to the caller.
// Stopping the iteration early cancels what is under way.
type Getter interface {
	Get(ctx context.Context, names []Name) iter.Seq2[Chunk, error]
}

// Blobs keeps immutable bytes (packs, objects, shards) named by the BLAKE3 of
// the bytes.
type Blobs interface {
	// Read returns size bytes from off. Fewer bytes than asked for is an
	// error, so that a truncated blob is noticed. The bytes are not checked.
	Read(ctx context.Context, n Name, off, size int64) ([]byte, error)
	// Put stores the bytes of r. It verifies them against n before they become
	// visible and is idempotent.
	Put(ctx context.Context, n Name, r io.Reader) error
	// Stat is the size in bytes, or NotFound.
	Stat(ctx context.Context, n Name) (int64, error)
	List(ctx context.Context) iter.Seq2[Name, error]
	// Delete removes n; a blob that is not there is not an error.
	Delete(ctx context.Context, n Name) error
}

// A Bucket keeps files by key, as a directory, an S3 bucket or a web server
// does. It is what a hub publishes from and what a client reads from. Keys are
// slash-separated, relative, and hold only [0-9a-zA-Z._-] besides the slash.
type Bucket interface {
	// Read returns at most size bytes from off of the file at key; fewer only
	// where the file ends. NotFound if there is no such file.
	Read(ctx context.Context, key string, off, size int64) ([]byte, error)
	// Write makes the bytes of r visible at key, all or nothing, and replaces
	// what was there.
	Write(ctx context.Context, key string, r io.Reader) error
	// Stat is the size in bytes, or NotFound.
	Stat(ctx context.Context, key string) (int64, error)
	// List yields the keys that start with prefix, sorted.
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
	// Delete removes key; a key that is not there is not an error.
	Delete(ctx context.Context, key string) error
}
