package client

import (
	"context"
	"io"
	"os"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/internal/fault"
)

// repacker puts chunks that the hub lacks into new packs, as they are stored:
// nothing is decoded or encoded again.
type repacker struct {
	p    *push
	file *os.File
	w    *block.PackWriter
	at   map[block.Name][]int // chunk → its numbers, of the pack being written
	made []madePack
}

type madePack struct {
	ref   block.PackRef
	piece piece
	where map[int]block.Location // by number of the chunk; Pack is not set
}

// add appends chunk i.
func (r *repacker) add(ctx context.Context, i int) error {
	w := r.p.loc.Where[i]
	key := flist.PackPrefix + r.p.loc.Packs[w.Pack].Name.String()
	body, err := r.p.from.Read(ctx, key, int64(w.Off), int64(w.Stored))
	if err != nil {
		return err
	}
	if len(body) != int(w.Stored) {
		return fault.Errorf(fault.Invalid, "%s ends inside chunk %v; build or pull the image again", key, r.p.names[i])
	}
	if r.w == nil {
		if r.file, err = os.CreateTemp("", "zos-push-*"); err != nil {
			return fault.Errorf(fault.Unavailable, "make a temporary pack: %w", err)
		}
		r.p.temps = append(r.p.temps, r.file)
		if err := os.Remove(r.file.Name()); err != nil { // nothing is left, whatever ends the program
			return err
		}
		r.w, r.at = block.NewPackWriter(r.file), make(map[block.Name][]int)
	}
	plain := int(r.p.plain[i])
	enc := block.DeriveEnc(plain, len(body), r.p.root.Private())
	if err := r.w.Add(r.p.names[i], enc, plain, body); err != nil {
		return err
	}
	r.at[r.p.names[i]] = append(r.at[r.p.names[i]], i)
	if r.w.Full() {
		return r.finish()
	}
	return nil
}

// finish closes the pack being written.
func (r *repacker) finish() error {
	name, size, entries, err := r.w.Close()
	if err != nil {
		return err
	}
	file := r.file
	m := madePack{
		ref: block.PackRef{Name: name, Size: size},
		piece: piece{flist.PackPrefix + name.String(), size, func(context.Context) (io.ReadSeeker, error) {
			return io.NewSectionReader(file, 0, size), nil
		}},
		where: make(map[int]block.Location),
	}
	for _, e := range entries {
		for _, i := range r.at[e.Name] {
			m.where[i] = block.Location{Off: uint64(e.Off), Stored: uint32(e.Stored)}
		}
	}
	r.made = append(r.made, m)
	r.w, r.file, r.at = nil, nil, nil
	return nil
}

func (r *repacker) close() ([]madePack, error) {
	if r.w != nil {
		if err := r.finish(); err != nil {
			return nil, err
		}
	}
	return r.made, nil
}
