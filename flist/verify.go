package flist

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"slices"

	"zos.internal/block"
	"zos.internal/flist/chunkmap"
	"zos.internal/internal/fault"
)

// Places finds the stored bytes of an image's chunks by name. It costs 12 bytes
// a chunk beside the locator, since a machine keeps one for every mounted image.
type Places struct {
	index  []placeKey // sorted
	loc    block.Locator
	chunk  func(int) chunkmap.Chunk
	sealed bool
}

type placeKey struct {
	head [8]byte // of the name
	i    uint32
}

// NewPlaces indexes n chunks; chunk returns the i-th of them.
func NewPlaces(loc block.Locator, n int, chunk func(int) chunkmap.Chunk, sealed bool) *Places {
	p := &Places{index: make([]placeKey, n), loc: loc, chunk: chunk, sealed: sealed}
	for i := range n {
		name := chunk(i).Name
		p.index[i] = placeKey{[8]byte(name[:8]), uint32(i)}
	}
	slices.SortFunc(p.index, func(a, b placeKey) int {
		return cmp.Compare(binary.BigEndian.Uint64(a.head[:]), binary.BigEndian.Uint64(b.head[:]))
	})
	return p
}

// Find is the place of the chunk with that name.
func (p *Places) Find(name block.Name) (block.Place, bool) {
	head := binary.BigEndian.Uint64(name[:8])
	k, _ := slices.BinarySearchFunc(p.index, head, func(x placeKey, h uint64) int {
		return cmp.Compare(binary.BigEndian.Uint64(x.head[:]), h)
	})
	for ; k < len(p.index) && binary.BigEndian.Uint64(p.index[k].head[:]) == head; k++ {
		i := int(p.index[k].i)
		if c := p.chunk(i); c.Name == name {
			return p.loc.Place(i, int(c.Plain), p.sealed)
		}
	}
	return block.Place{}, false
}

// Places indexes where the chunks of img are.
func (img *Image) Places(loc block.Locator) *Places {
	return NewPlaces(loc, len(img.Map.Chunks), func(i int) chunkmap.Chunk { return img.Map.Chunks[i] }, img.Domain.Private())
}

// Getter reads the chunks of img from the packs of the mirrors.
func (img *Image) Getter(m *block.Mirrors, loc block.Locator) *block.PackGetter {
	return block.NewPackGetter(m, PackPrefix, img.Domain, img.Places(loc).Find, block.Singles("c/"))
}

// VerifyOptions say how thoroughly an image is checked.
type VerifyOptions struct {
	Domain   block.Domain
	Deep     bool // read and check every chunk, and the directories of its packs
	Progress func(done, total int64)
}

// VerifyReport says what Verify checked.
type VerifyReport struct {
	ID         ID          `json:"id"`
	Entries    uint64      `json:"entries"`
	Chunks     int         `json:"chunks"`
	Content    uint64      `json:"content"`
	Signers    []Statement `json:"signers"`
	Checked    int         `json:"checked_chunks"` // by their bytes; 0 unless deep
	CheckedLen int64       `json:"checked_bytes"`
	Problems   []string    `json:"problems"`
}

// Verify checks an image: hashes and canonical form of everything but content,
// every signature, that the locator names packs that are there, and when Deep
// every chunk. What is wrong with signatures, packs and chunks is listed in the
// report; the error is for an image that can't be opened at all.
func Verify(ctx context.Context, m *block.Mirrors, id ID, opt VerifyOptions) (*VerifyReport, error) {
	img, err := Open(ctx, m, id, OpenOptions{Domain: opt.Domain})
	if err != nil {
		return nil, err
	}
	rep := &VerifyReport{ID: id, Entries: img.Root.Entries, Chunks: len(img.Map.Chunks), Content: img.Root.Content,
		Signers: []Statement{}, Problems: []string{}}
	problem := func(err error) { rep.Problems = append(rep.Problems, err.Error()) }
	switch b, err := m.Read(ctx, SignaturesKey(id), 0, MaxSignatures+1); {
	case err == nil:
		if rep.Signers, err = OpenSignatures(b, id); err != nil {
			problem(err)
		}
	case !errors.Is(err, fault.NotFound):
		problem(err)
	}
	loc, err := ReadLocator(ctx, m, img)
	if err != nil {
		problem(err)
		return rep, ctx.Err()
	}
	for _, p := range loc.Packs {
		size, err := m.Stat(ctx, PackPrefix+p.Name.String())
		switch {
		case err != nil:
			problem(fault.Errorf(fault.Of(err), "pack %v: %w", p.Name, err))
		case size != p.Size:
			problem(fault.Errorf(fault.Invalid, "pack %v has %d bytes, the locator says %d", p.Name, size, p.Size))
		}
	}
	if !opt.Deep {
		return rep, ctx.Err()
	}
	for k, err := range img.checkPacks(ctx, m, loc) {
		problem(fault.Errorf(fault.Of(err), "pack %v: %w", loc.Packs[k].Name, err))
	}
	names := make([]block.Name, len(img.Map.Chunks))
	var total int64
	for i, c := range img.Map.Chunks {
		names[i] = c.Name
		total += int64(c.Plain)
	}
	for c, err := range img.Getter(m, loc).Get(ctx, names) {
		if err != nil {
			problem(fault.Errorf(fault.Of(err), "chunk %v: %w", c.Name, err))
			continue
		}
		rep.Checked++
		rep.CheckedLen += int64(len(c.Data))
		if opt.Progress != nil {
			opt.Progress(rep.CheckedLen, total)
		}
	}
	return rep, ctx.Err()
}

// checkPacks compares the directories of the packs with the locator. It yields
// the number of each pack that is wrong. Hubs index packs by their directories.
func (img *Image) checkPacks(ctx context.Context, m *block.Mirrors, loc block.Locator) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		in := make([][]int, len(loc.Packs)) // chunks
		for i, w := range loc.Where {
			if w.Stored > 0 && int(w.Pack) < len(in) {
				in[w.Pack] = append(in[w.Pack], i)
			}
		}
		for k, p := range loc.Packs {
			entries, err := block.ReadPackDir(packReader{ctx, m, PackPrefix + p.Name.String()}, p.Size)
			at := make(map[int64]block.Name, len(entries))
			for _, e := range entries {
				at[e.Off] = e.Name
			}
			for _, i := range in[k] {
				if err == nil && at[int64(loc.Where[i].Off)] != img.Map.Chunks[i].Name {
					err = fault.Errorf(fault.Invalid, "its directory and the locator disagree about chunk %v", img.Map.Chunks[i].Name)
				}
			}
			if err != nil && !yield(k, err) {
				return
			}
		}
	}
}

// packReader reads ranges of one pack.
type packReader struct {
	ctx context.Context
	m   *block.Mirrors
	key string
}

func (r packReader) ReadAt(p []byte, off int64) (int, error) {
	b, err := r.m.Read(r.ctx, r.key, off, int64(len(p)))
	n := copy(p, b)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}
