package flist

import (
	"context"
	"encoding/binary"

	"zos.internal/block"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// StartKey is where the start file of an image is.
func StartKey(id ID) string { return "b/" + id.String() }

// MaxStart is the most bytes of a start file.
const MaxStart = 8 << 20

const (
	startMagic     = "ZST1"
	maxStartHeader = 4 << 10
)

// Start is a start file: the root of an image and the other small files that a
// first start needs, so that one request brings them. It adds no trust: every
// part is checked exactly as if it had come alone. It is specified in
// docs/reference/flist.md.
type Start struct {
	ID   ID
	Root *Root
	// Parts are published files by their keys: the root, signatures, trace,
	// locator and objects. An empty one says that there is no such file; what is
	// not there may exist, and didn't fit.
	Parts map[string][]byte
}

// startKeys is the one order of the parts.
func startKeys(id ID, root *Root) []string {
	keys := []string{RootKey(id), SignaturesKey(id), TraceKey(id), LocatorKey(id), ObjectKey(root.Config.Name)}
	if root.Executables != nil {
		keys = append(keys, ObjectKey(root.Executables.Name))
	}
	keys = append(keys, ObjectKey(root.Map.Name), ObjectKey(root.Metadata.Name))
	seen := make(map[string]bool, len(keys))
	uniq := keys[:0]
	for _, k := range keys {
		if !seen[k] {
			seen[k] = true
			uniq = append(uniq, k)
		}
	}
	return uniq
}

type startPart struct {
	_    struct{} `cbor:",toarray"`
	Key  string
	Size uint32
}

// Encode writes the one encoding of s.
func (s *Start) Encode() ([]byte, error) {
	var parts []startPart
	size := 0
	for _, k := range startKeys(s.ID, s.Root) {
		if b, ok := s.Parts[k]; ok {
			parts = append(parts, startPart{Key: k, Size: uint32(len(b))})
			size += len(b)
		}
	}
	header, err := canon.Marshal(parts)
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "write start file: %w", err)
	}
	if n := len(startMagic) + 4 + len(header) + size; n > MaxStart || len(header) > maxStartHeader {
		return nil, fault.Errorf(fault.Invalid, "write start file of %v: %d bytes, %d are allowed", s.ID, n, MaxStart)
	}
	b := make([]byte, 0, len(startMagic)+4+len(header)+size)
	b = append(b, startMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(header)))
	b = append(b, header...)
	for _, p := range parts {
		b = append(b, s.Parts[p.Key]...)
	}
	return b, nil
}

// ParseStart takes a start file apart and checks its root; the other parts are
// as unchecked as any answer of a server. Bytes that Encode doesn't write are
// Invalid. The parts are slices of b.
func ParseStart(b []byte) (*Start, error) {
	bad := func(format string, args ...any) (*Start, error) {
		return nil, fault.Errorf(fault.Invalid, "read start file: "+format, args...)
	}
	const fixed = len(startMagic) + 4
	if len(b) > MaxStart {
		return bad("more than %d bytes", MaxStart)
	}
	if len(b) < fixed || string(b[:len(startMagic)]) != startMagic {
		return bad("it does not start with %q", startMagic)
	}
	n := binary.LittleEndian.Uint32(b[len(startMagic):])
	if n > maxStartHeader || int(n) > len(b)-fixed {
		return bad("a header of %d bytes in a file of %d", n, len(b))
	}
	var parts []startPart
	if err := canon.Unmarshal(b[fixed:fixed+int(n)], &parts); err != nil {
		return bad("its header: %w", err)
	}
	rest := b[fixed+int(n):]
	if len(parts) == 0 || uint64(parts[0].Size) > uint64(len(rest)) {
		return bad("it has no root")
	}
	first := rest[:parts[0].Size]
	root, err := ParseRoot(first)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read start file: %w", err)
	}
	s := &Start{ID: block.Sum(first), Root: root, Parts: make(map[string][]byte, len(parts))}
	keys := startKeys(s.ID, root)
	if parts[0].Key != keys[0] {
		return bad("its first part is %.80q and not the root of image %v", parts[0].Key, s.ID)
	}
	for _, p := range parts {
		for len(keys) > 0 && keys[0] != p.Key {
			keys = keys[1:]
		}
		switch {
		case len(keys) == 0:
			return bad("the part %.80q is twice in it, not in its place, or no part of image %v", p.Key, s.ID)
		case uint64(p.Size) > uint64(len(rest)):
			return bad("it ends inside the part %s", p.Key)
		}
		keys = keys[1:]
		s.Parts[p.Key], rest = rest[:p.Size:p.Size], rest[p.Size:]
	}
	if len(rest) > 0 {
		return bad("%d bytes follow its last part", len(rest))
	}
	return s, nil
}

// MakeStart makes the start file of the image id out of the files in from. Parts
// are taken in their order as long as they fit, so a large image has its
// metadata outside.
func MakeStart(ctx context.Context, from block.Bucket, id ID) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fault.Errorf(fault.Of(err), "make the start file of image %v: %w", id, err)
	}
	rootBytes, err := from.Read(ctx, RootKey(id), 0, MaxRoot+1)
	if err != nil {
		return fail(err)
	}
	root, err := ParseRoot(rootBytes)
	if err == nil && block.Sum(rootBytes) != id {
		err = fault.Errorf(fault.Invalid, "the root has another hash")
	}
	if err != nil {
		return fail(err)
	}
	s := &Start{ID: id, Root: root, Parts: map[string][]byte{RootKey(id): rootBytes}}
	left := int64(MaxStart - maxStartHeader - len(startMagic) - 4 - len(rootBytes))
	for _, k := range startKeys(id, root)[1:] {
		size, err := from.Stat(ctx, k)
		if fault.Of(err) == fault.NotFound && (k == SignaturesKey(id) || k == TraceKey(id)) {
			s.Parts[k] = nil
			continue
		}
		if err != nil {
			return fail(err)
		}
		if size == 0 || size > left {
			continue
		}
		b, err := from.Read(ctx, k, 0, left+1)
		if err != nil {
			return fail(err)
		}
		if len(b) == 0 || int64(len(b)) > left {
			continue // it was replaced meanwhile
		}
		s.Parts[k] = b
		left -= int64(len(b))
	}
	return s.Encode()
}

// opened are the checked parts of an image, from a start file or one by one.
type opened struct {
	rootBytes []byte
	root      *Root
	objects   map[block.Name][]byte // plain, checked
	start     *Start                // nil: there was none
}

// openStart reads the start file of id from one of several sources and checks
// every part that has a name. A source whose file has a wrong part is passed
// over. nil: there is none that can be used, or it is not worth to ask.
func openStart(ctx context.Context, from block.Bucket, id ID, dom block.Domain) *opened {
	m, ok := from.(*block.Mirrors)
	if !ok {
		return nil // one bucket, which costs nothing to ask again
	}
	if near := m.Near(); near != nil {
		if _, err := near.Stat(ctx, RootKey(id)); err == nil {
			return nil // what is here needn't come again
		}
		m = m.Far()
	}
	var o *opened
	_, err := m.ReadChecked(ctx, StartKey(id), 0, MaxStart+1, func(b []byte) error {
		s, err := ParseStart(b)
		if err != nil {
			return err
		}
		if s.ID != id {
			return fault.Errorf(fault.Invalid, "it is the start file of image %v", s.ID)
		}
		if b := s.Parts[SignaturesKey(id)]; len(b) > 0 {
			if _, err := OpenSignatures(b, id); err != nil {
				return err
			}
		}
		if b := s.Parts[TraceKey(id)]; len(b) > 0 {
			if _, _, err := OpenTrace(b, id); err != nil {
				return err
			}
		}
		o = &opened{rootBytes: s.Parts[RootKey(id)], root: s.Root, objects: make(map[block.Name][]byte), start: s}
		domain := dom
		if !s.Root.Private() {
			domain = block.Domain{}
		} else if d := dom.ID(); string(s.Root.Domain) != string(d[:]) {
			return nil // Open says what is wrong
		}
		refs := []Ref{s.Root.Metadata, s.Root.Map, s.Root.Config}
		if s.Root.Executables != nil {
			refs = append(refs, *s.Root.Executables)
		}
		for _, ref := range refs {
			stored, ok := s.Parts[ObjectKey(ref.Name)]
			if !ok {
				continue
			}
			if o.objects[ref.Name], err = DecodeObject(domain, ref, stored); err != nil {
				return err
			}
			s.Parts[ObjectKey(ref.Name)] = nil // the plain bytes are enough
		}
		return nil
	})
	if err != nil {
		return nil
	}
	return o
}

// ReadPart reads a file that goes with the image, such as its locator, at most
// limit bytes: what came with its start file, which is used once, else from
// from. There is no check, as with any read of a bucket.
func (img *Image) ReadPart(ctx context.Context, from block.Bucket, key string, limit int64) ([]byte, error) {
	if img.start != nil {
		if b, ok := img.start.Parts[key]; ok {
			delete(img.start.Parts, key)
			if len(b) == 0 {
				return nil, fault.Errorf(fault.NotFound, "%s is not there", key)
			}
			if int64(len(b)) <= limit {
				return b, nil
			}
		}
	}
	return from.Read(ctx, key, 0, limit)
}
