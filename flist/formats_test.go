package flist_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/fetch"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

var (
	alice = identity.FromSeed([32]byte{1})
	bob   = identity.FromSeed([32]byte{2})
)

func sampleRoot() *flist.Root {
	n := block.Sum([]byte("x"))
	return &flist.Root{Metadata: flist.Ref{Size: 4096, Name: n}, Map: flist.Ref{Size: 24, Name: n}, Config: flist.Ref{Size: 1, Name: n},
		DeviceBlocks: 1, Entries: 2, Content: 3, Platform: "linux/amd64"}
}

func TestRootLimits(t *testing.T) {
	for name, change := range map[string]func(*flist.Root){
		"no metadata":        func(r *flist.Root) { r.Metadata.Size = 0 },
		"huge metadata":      func(r *flist.Root) { r.Metadata.Size = flist.MaxObject + 1 },
		"huge map":           func(r *flist.Root) { r.Map.Size = 1 << 63 },
		"huge config":        func(r *flist.Root) { r.Config.Size = flist.MaxConfig + 1 },
		"huge device":        func(r *flist.Root) { r.DeviceBlocks = 1<<32 + 1 },
		"no entries":         func(r *flist.Root) { r.Entries = 0 },
		"too many entries":   func(r *flist.Root) { r.Entries = 1 << 25 },
		"impossible content": func(r *flist.Root) { r.Content = 1 << 63 },
		"long platform":      func(r *flist.Root) { r.Platform = string(make([]byte, 65)) },
		"short domain":       func(r *flist.Root) { r.Domain = []byte{1} },
		"empty executables":  func(r *flist.Root) { r.Executables = &flist.Ref{} },
	} {
		r := sampleRoot()
		change(r)
		if _, _, err := r.Encode(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: Encode = %v, want invalid", name, err)
		}
		r.Magic, r.Version = "zos.flist", 1
		if _, err := flist.ParseRoot(canon.MustMarshal(r)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: ParseRoot = %v, want invalid", name, err)
		}
	}
	r := sampleRoot()
	r.Magic, r.Version = "zos.flist", 2
	if _, err := flist.ParseRoot(canon.MustMarshal(r)); !errors.Is(err, fault.Unsupported) {
		t.Errorf("version 2: ParseRoot = %v, want unsupported", err)
	}
	r.Magic, r.Version = "zos.other", 1
	if _, err := flist.ParseRoot(canon.MustMarshal(r)); !errors.Is(err, fault.Invalid) {
		t.Errorf("other magic: ParseRoot = %v, want invalid", err)
	}
}

func pointer(t *testing.T, key *identity.PrivateKey, p flist.Pointer) []byte {
	t.Helper()
	p.Owner = key.Public().Address()
	b, err := p.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPointerIsBoundToItsOwner(t *testing.T) {
	p := flist.Pointer{Name: "web", Tag: "1.0", Seq: 3, ID: block.Sum(nil), Time: 5}
	b := pointer(t, alice, p)
	got, key, err := flist.OpenPointer(b)
	if err != nil || key != alice.Public() || got.Name != "web" || got.Seq != 3 || got.Owner != alice.Public().Address() {
		t.Fatalf("OpenPointer = %+v, %v, %v", got, key, err)
	}
	if _, err := (flist.Pointer{Owner: alice.Public().Address(), Name: "web", Seq: 1}).Sign(bob); !errors.Is(err, fault.Denied) {
		t.Errorf("signing another owner's name = %v, want denied", err)
	}
	// Bob signs a payload that says it is alice's.
	got.Owner = alice.Public().Address()
	payload := canon.MustMarshal(got)
	forged := canon.MustMarshal(flist.Signed{Payload: payload, Key: []byte(bob.Public()), Signature: bob.Sign("zos.flist.pointer.1", payload)})
	if _, _, err := flist.OpenPointer(forged); !errors.Is(err, fault.Denied) {
		t.Errorf("a pointer signed by another key = %v, want denied", err)
	}
	// A signature over the same bytes for another purpose.
	other := canon.MustMarshal(flist.Signed{Payload: payload, Key: []byte(alice.Public()), Signature: alice.Sign("zos.flist.sig.1", payload)})
	if _, _, err := flist.OpenPointer(other); !errors.Is(err, fault.Denied) {
		t.Errorf("a pointer with the tag of a signature = %v, want denied", err)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, _, err := flist.OpenPointer(bad); err == nil {
			t.Fatalf("byte %d flipped was accepted", i)
		}
	}
	for _, bad := range []string{"", "UPPER", "a/b", "..", "a..b", ".a", string(make([]byte, 200))} {
		if err := flist.CheckName(bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("CheckName(%q) = %v, want invalid", bad, err)
		}
	}
}

func TestSignaturesOfAnImage(t *testing.T) {
	id := block.Sum([]byte("image"))
	b, err := flist.SignImage(nil, id, []flist.Claim{{Name: "source", Value: "x"}, {Name: "builder", Value: "y"}}, alice)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = flist.SignImage(b, id, nil, bob); err != nil {
		t.Fatal(err)
	}
	again, err := flist.SignImage(b, id, []flist.Claim{{Name: "source", Value: "z"}}, alice)
	if err != nil {
		t.Fatal(err)
	}
	said, err := flist.OpenSignatures(again, id)
	if err != nil || len(said) != 2 || said[1].Key != alice.Public() || said[1].Claims[0].Value != "z" {
		t.Errorf("OpenSignatures = %+v, %v; want bob and the new statement of alice", said, err)
	}
	if _, err := flist.OpenSignatures(b, block.Sum([]byte("other"))); !errors.Is(err, fault.Denied) {
		t.Errorf("signatures of another image = %v, want denied", err)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, err := flist.OpenSignatures(bad, id); err == nil {
			t.Fatalf("byte %d flipped was accepted", i)
		}
	}
}

func TestTraceIsSigned(t *testing.T) {
	id := block.Sum([]byte("image"))
	b, err := flist.SignTrace(fetch.Trace{Image: id, Runs: []fetch.Run{{First: 1, Count: 2}}}, alice)
	if err != nil {
		t.Fatal(err)
	}
	got, key, err := flist.OpenTrace(b, id)
	if err != nil || key != alice.Public() || got.Chunks() != 2 {
		t.Errorf("OpenTrace = %v, %v, %v", got, key, err)
	}
	if _, _, err := flist.OpenTrace(b, block.Sum(nil)); !errors.Is(err, fault.Denied) {
		t.Errorf("the trace of another image = %v, want denied", err)
	}
}

// Whatever is accepted encodes to the same bytes again, and nothing panics.

func FuzzRoot(f *testing.F) {
	b, _, err := sampleRoot().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := flist.ParseRoot(b)
		if err != nil {
			return
		}
		again, _, err := r.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("accepted %x, which encodes to %x, %v", b, again, err)
		}
	})
}

func FuzzSigned(f *testing.F) {
	p, err := flist.Pointer{Owner: alice.Public().Address(), Name: "n", Seq: 1}.Sign(alice)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	s, err := flist.SignImage(nil, block.Name{}, nil, alice)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := flist.OpenPointer(b); err == nil && !bytes.Equal(b, p) {
			t.Errorf("accepted a pointer that nobody signed: %x", b)
		}
		if said, err := flist.OpenSignatures(b, block.Name{}); err == nil && len(said) > 0 && !bytes.Equal(b, s) {
			t.Errorf("accepted a signature that nobody made: %x", b)
		}
		_, _, _ = flist.OpenTrace(b, block.Name{})
	})
}

func FuzzObject(f *testing.F) {
	plain := []byte("some object, some object, some object")
	ref, stored, err := flist.EncodeObject(block.Domain{}, plain)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(stored)
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := flist.DecodeObject(block.Domain{}, ref, b); err == nil && !bytes.Equal(got, plain) {
			t.Errorf("DecodeObject(%x) = %q, want %q", b, got, plain)
		}
	})
}

// A frame that unpacks to far more than the reference says must not be
// unpacked.
func TestObjectBombDies(t *testing.T) {
	ref, bomb, err := flist.EncodeObject(block.Domain{}, make([]byte, 64<<20))
	if err != nil {
		t.Fatal(err)
	}
	ref.Size = 1000
	allocs := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := flist.DecodeObject(block.Domain{}, ref, bomb); err == nil {
				b.Fatal("the bomb was accepted")
			}
		}
	})
	if got := allocs.AllocedBytesPerOp(); got > 8<<20 {
		t.Errorf("refusing a bomb took %d bytes, want at most 8 MiB", got)
	}
}

// Released images stay readable for ever: each file of the corpus is a store
// with the id in its name.
func TestCorpus(t *testing.T) {
	if os.Getenv("UPDATE") != "" {
		addToCorpus(t)
	}
	dirs, err := filepath.Glob("testdata/images/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no corpus: %v, %v", dirs, err)
	}
	for _, dir := range dirs {
		id, err := block.ParseName(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		store := block.OpenDir(dir)
		rep, err := flist.Verify(t.Context(), block.NewMirrors(nil, block.Source{Name: dir, Bucket: store}), id, flist.VerifyOptions{Deep: true})
		if err != nil || len(rep.Problems) > 0 || rep.Checked != rep.Chunks || len(rep.Signers) != 1 {
			t.Errorf("%s: %+v, %v", dir, rep, err)
		}
	}
}

// addToCorpus adds the image that the code makes today.
func addToCorpus(t *testing.T) {
	t.Helper()
	var b block.Mem
	root := smallTree()
	rep := build(t, &b, root, flist.BuildOptions{Platform: "linux/amd64"})
	dir := block.OpenDir(filepath.Join("testdata/images", rep.ID.String()))
	for key, err := range b.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		body, err := b.Read(t.Context(), key, 0, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if err := dir.Write(t.Context(), key, bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := flist.SignImage(nil, rep.ID, []flist.Claim{{Name: "source", Value: "corpus"}}, alice)
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Write(t.Context(), flist.SignaturesKey(rep.ID), bytes.NewReader(s)); err != nil {
		t.Fatal(err)
	}
}
