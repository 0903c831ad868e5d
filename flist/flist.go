// Package flist is the image: a signed root that binds the metadata of a file
// tree, the map of its data and its configuration.
//
// An image lives in a block.Bucket (a directory, a hub, an S3 bucket, a static
// mirror) as a handful of immutable files; its id is the BLAKE3 of the root.
// Open fetches and checks everything that is needed to list the tree; content
// is read later through flist/fetch, block by block. Build makes an image from
// a tree, Diff compares two, Verify checks one completely. The same tree gives
// the same id on every machine.
//
//	img, err := flist.Open(ctx, block.OpenDir("images"), id, flist.OpenOptions{})
//	for path, node := range img.Tree.Walk() { … }
//
// The package doesn't mount (flist/mount) and doesn't know where trees come
// from (flist/convert). The format is specified in docs/reference/flist.md.
package flist

import (
	"fmt"
	"strconv"
	"strings"

	"zos.internal/block"
	"zos.internal/flist/tree"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// Limits of one image, checked at build and at open.
const (
	MaxRoot       = 4 << 10 // bytes of a root, pointer or signature statement
	MaxConfig     = 256 << 10
	MaxObject     = 1 << 30 // bytes of metadata, of the map and of the executables record, each
	MaxSignatures = 64 << 10
	MaxDevice     = 1 << 44 // bytes of the data device
)

const (
	rootMagic = "zos.flist"
	// BlockSize is the unit of the data device in bytes.
	BlockSize = 4096
)

// Ref names an object and its plain size in bytes.
type Ref struct {
	_    struct{} `cbor:",toarray"`
	Size uint64
	Name block.Name
}

// Root binds all parts of an image. Nothing in it depends on compressor, pack
// layout, mirrors or trace.
type Root struct {
	Magic        string `cbor:"0,keyasint"`
	Version      uint64 `cbor:"1,keyasint"`
	Metadata     Ref    `cbor:"2,keyasint"` // EROFS image
	Map          Ref    `cbor:"3,keyasint"` // chunk map
	Config       Ref    `cbor:"4,keyasint"`
	DeviceBlocks uint64 `cbor:"5,keyasint"` // of 4096 bytes
	Entries      uint64 `cbor:"6,keyasint"` // names in the tree, the root included
	Content      uint64 `cbor:"7,keyasint"` // bytes of all regular files, hard links once
	Platform     string `cbor:"8,keyasint"` // "linux/amd64"; empty if any
	Domain       []byte `cbor:"9,keyasint,omitempty"`
	Executables  *Ref   `cbor:"10,keyasint,omitempty"`
}

// ID is the name of an image: the BLAKE3 of the bytes of its root.
type ID = block.Name

// Private reports whether names are keyed and chunks are sealed.
func (r *Root) Private() bool { return len(r.Domain) > 0 }

// Encode returns the canonical bytes of r and the id of the image.
func (r *Root) Encode() ([]byte, ID, error) {
	r.Magic, r.Version = rootMagic, 1
	b, err := canon.Marshal(r)
	if err != nil {
		return nil, ID{}, fmt.Errorf("encode root: %w", err)
	}
	if err := r.check(len(b)); err != nil {
		return nil, ID{}, err
	}
	return b, block.Sum(b), nil
}

// ParseRoot decodes a root. Bytes that Encode would not have written are
// Invalid; a version from the future is Unsupported.
func ParseRoot(b []byte) (*Root, error) {
	if len(b) > MaxRoot {
		return nil, fault.Errorf(fault.Invalid, "parse image root: more than %d bytes", MaxRoot)
	}
	var r Root
	if err := canon.Unmarshal(b, &r); err != nil {
		return nil, fault.Errorf(fault.Invalid, "parse image root: this is no image of this system: %w", err)
	}
	if r.Magic != rootMagic {
		return nil, fault.Errorf(fault.Invalid, "parse image root: it starts with %.20q instead of %q", r.Magic, rootMagic)
	}
	if r.Version != 1 {
		return nil, fault.Errorf(fault.Unsupported, "parse image root: format version %d; this program reads version 1, update it", r.Version)
	}
	if err := r.check(len(b)); err != nil {
		return nil, err
	}
	return &r, nil
}

func (r *Root) check(size int) error {
	for _, x := range []struct {
		what  string
		ref   Ref
		limit uint64
	}{{"metadata", r.Metadata, MaxObject}, {"map", r.Map, MaxObject}, {"config", r.Config, MaxConfig}} {
		if x.ref.Size == 0 || x.ref.Size > x.limit {
			return fault.Errorf(fault.Invalid, "image root: %s of %d bytes; 1 to %d are allowed", x.what, x.ref.Size, x.limit)
		}
	}
	switch {
	case size > MaxRoot:
		return fault.Errorf(fault.Invalid, "image root: %d bytes, %d are allowed", size, MaxRoot)
	case r.Executables != nil && (r.Executables.Size == 0 || r.Executables.Size > MaxObject):
		return fault.Errorf(fault.Invalid, "image root: executables record of %d bytes", r.Executables.Size)
	case r.DeviceBlocks > MaxDevice/BlockSize:
		return fault.Errorf(fault.Invalid, "image root: a device of %d blocks, %d are allowed", r.DeviceBlocks, MaxDevice/BlockSize)
	case r.Entries == 0 || r.Entries > tree.MaxEntries:
		return fault.Errorf(fault.Invalid, "image root: %d entries, 1 to %d are allowed", r.Entries, tree.MaxEntries)
	case r.Content > 1<<62:
		return fault.Errorf(fault.Invalid, "image root: %d bytes of content", r.Content)
	case len(r.Platform) > 64:
		return fault.Errorf(fault.Invalid, "image root: platform %.64q… is too long", r.Platform)
	case len(r.Domain) != 0 && len(r.Domain) != 16:
		return fault.Errorf(fault.Invalid, "image root: a domain id of %d bytes instead of 16", len(r.Domain))
	}
	return nil
}

// Keys under which the parts of images are published in a block.Bucket.

// RootKey is where the root of an image is.
func RootKey(id ID) string { return "r/" + id.String() }

// ObjectKey is where metadata, map, config or executables of that name are.
func ObjectKey(n block.Name) string { return "o/" + n.String() }

// PackPrefix is where packs are; the key of one is the prefix and its name.
const PackPrefix = "p/"

// LocatorKey is where the packs of an image are listed.
func LocatorKey(id ID) string { return "l/" + id.String() }

// TraceKey is where the recorded start of an image is.
func TraceKey(id ID) string { return "t/" + id.String() }

// SignaturesKey is where the signatures of an image are.
func SignaturesKey(id ID) string { return "s/" + id.String() }

// PointerKey is where the current pointer of a name is.
func PointerKey(owner identity.Address, name string) string {
	return "f/" + owner.String() + "/" + name
}

// TagKey is where the pointer of a tag of a name is.
func TagKey(owner identity.Address, name, tag string) string {
	return "g/" + owner.String() + "/" + name + "/" + tag
}

// HistoryKey is where the pointer with that sequence number stays for ever.
func HistoryKey(owner identity.Address, name string, seq uint64) string {
	return "h/" + owner.String() + "/" + name + "/" + strconv.FormatUint(seq, 10)
}

// CheckName reports whether s can be the name of an image or a tag: 1 to 128
// of [a-z0-9._-], starting with a letter or digit, without "..".
func CheckName(s string) error {
	ok := len(s) >= 1 && len(s) <= 128 && !strings.Contains(s, "..")
	for i, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		ok = ok && (alnum || i > 0 && (c == '.' || c == '_' || c == '-'))
	}
	if !ok {
		return fault.Errorf(fault.Invalid, "the name %.140q is not allowed; use 1 to 128 of a-z 0-9 . _ - and start with a letter or digit", s)
	}
	return nil
}
