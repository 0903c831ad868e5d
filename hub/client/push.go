package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub/protocol"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// PushOptions say who publishes an image under which name.
type PushOptions struct {
	Key *identity.PrivateKey
	// Name moves this name of the key's address to the image; empty: the image
	// is reachable by its id only, and the hub collects it after a while.
	Name string
	// Tag, if not empty, moves this tag of the name too.
	Tag string
	// Domain opens a private image. Without it whole packs are sent, also where
	// the hub has some of their chunks.
	Domain block.Domain
	// Progress is called with the bytes sent so far and to send: packs, objects,
	// locator and root. Calls come one at a time; done falls when something has to
	// be sent again.
	Progress func(done, total int64)
}

// Report says what a push moved. Sizes are bytes on the wire.
type Report struct {
	ID       flist.ID `json:"id"`
	Packs    int      `json:"packs"`    // sent
	Objects  int      `json:"objects"`  // sent
	Sent     int64    `json:"sent"`     // packs, objects, locator and root
	Skipped  int64    `json:"skipped"`  // packs and objects that the hub had
	Repacked int64    `json:"repacked"` // part of sent: packs made of the chunks that the hub lacked
	Seq      uint64   `json:"seq,omitempty"`
	Moved    bool     `json:"moved"`           // the name pointed elsewhere before
	Delta    int64    `json:"delta,omitempty"` // sent for those who have the version before
}

// Push publishes the image id, which is in from, on the hub. It sends what the
// hub lacks, several packs at a time, and the name last, so that readers never
// see a part; after an interruption the same call goes on where it was. The
// errors of the hub keep their kind: Denied (not a publisher), Exhausted (over
// the quota), Conflict (somebody moved the name meanwhile).
func (c *Client) Push(ctx context.Context, from block.Bucket, id flist.ID, opt PushOptions) (Report, error) {
	rep := Report{ID: id}
	if opt.Key == nil {
		return rep, fault.Errorf(fault.Denied, "push image %v: no key to sign with; make one with zos key new", id)
	}
	for _, n := range []string{opt.Name, opt.Tag} {
		if n != "" {
			if err := flist.CheckName(n); err != nil {
				return rep, err
			}
		}
	}
	if opt.Tag != "" && opt.Name == "" {
		return rep, fault.Errorf(fault.Invalid, "push image %v: the tag %q needs a name", id, opt.Tag)
	}
	p := &push{c: c, from: from, id: id, opt: opt, rep: &rep}
	p.up = &uploader{c: c, key: opt.Key, sent: p.sent}
	err := p.run(ctx)
	for _, f := range p.temps {
		f.Close()
	}
	rep.Sent = p.done.Load()
	if err != nil {
		return rep, fault.Errorf(fault.Of(err), "push image %v: %w", id, err)
	}
	return rep, nil
}

// push is one Push under way.
type push struct {
	c    *Client
	from block.Bucket
	id   flist.ID
	opt  PushOptions
	rep  *Report
	up   *uploader

	rootBytes []byte
	root      *flist.Root
	loc       block.Locator
	locBytes  []byte
	names     []block.Name // of the chunks, if they are known
	plain     []uint32
	temps     []*os.File

	done, total atomic.Int64
	progress    sync.Mutex // held while Progress is called
}

func (p *push) sent(n int64) {
	p.progress.Lock()
	defer p.progress.Unlock()
	d := p.done.Add(n)
	if p.opt.Progress != nil {
		p.opt.Progress(d, p.total.Load())
	}
}

// piece is one thing to send.
type piece struct {
	key  string
	size int64
	body func(ctx context.Context) (io.ReadSeeker, error)
}

func (p *push) run(ctx context.Context) error {
	if err := p.read(ctx); err != nil {
		return err
	}
	// Rounds: what the hub says is missing at the end is sent again, because a
	// collection or another publisher may have come in between.
	for round := 0; ; round++ {
		packs, objects, err := p.plan(ctx)
		if err != nil {
			return err
		}
		err = p.publish(ctx, packs, objects)
		var missing *protocol.MissingError
		if err == nil {
			break
		}
		if !errors.As(err, &missing) || round == 2 {
			return err
		}
	}
	p.up.sent = nil // what follows is small and not part of the total
	if err := p.extras(ctx); err != nil {
		return err
	}
	if err := p.startPacks(ctx); err != nil {
		return err
	}
	if p.opt.Name == "" {
		return nil
	}
	if err := p.delta(ctx); err != nil {
		return err
	}
	seq, moved, err := p.c.point(ctx, p.up, p.opt.Name, "", p.id)
	if err != nil {
		return err
	}
	p.rep.Seq, p.rep.Moved = seq, moved
	if p.opt.Tag != "" {
		_, _, err = p.c.point(ctx, p.up, p.opt.Name, p.opt.Tag, p.id)
	}
	return err
}

// read opens the image as far as it can.
func (p *push) read(ctx context.Context) error {
	b, err := p.from.Read(ctx, flist.RootKey(p.id), 0, flist.MaxRoot+1)
	if err != nil {
		return err
	}
	if block.Sum(b) != p.id {
		return fault.Errorf(fault.Invalid, "its root has another hash here; build or pull it again")
	}
	if p.root, err = flist.ParseRoot(b); err != nil {
		return err
	}
	p.rootBytes = b
	if !p.root.Private() || p.opt.Domain.Private() {
		img, err := flist.Open(ctx, p.from, p.id, flist.OpenOptions{Domain: p.opt.Domain})
		if err != nil {
			return err
		}
		if p.loc, err = flist.ReadLocator(ctx, p.from, img); err != nil {
			return err
		}
		for _, c := range img.Map.Chunks {
			p.names = append(p.names, c.Name)
			p.plain = append(p.plain, c.Plain)
		}
		return nil
	}
	b, err = p.from.Read(ctx, flist.LocatorKey(p.id), 0, protocol.MaxLocator+1)
	if err != nil {
		return err
	}
	p.loc, err = protocol.ParseLocator(b)
	return err
}

// wholePack is the part of a pack that must be lacking at the hub for the pack
// to be sent as it is. Below that the lacking chunks are packed anew.
const wholePack = 0.875

// plan decides what to send and makes the locator.
func (p *push) plan(ctx context.Context) (packs, objects []piece, err error) {
	var keys []string
	for _, q := range p.loc.Packs {
		keys = append(keys, flist.PackPrefix+q.Name.String())
	}
	refs := []flist.Ref{p.root.Metadata, p.root.Map, p.root.Config}
	if p.root.Executables != nil {
		refs = append(refs, *p.root.Executables)
	}
	for _, r := range refs {
		if k := flist.ObjectKey(r.Name); !slices.Contains(keys[len(p.loc.Packs):], k) {
			keys = append(keys, k)
		}
	}
	have, err := p.c.have(ctx, keys)
	if err != nil {
		return nil, nil, err
	}
	p.rep.Skipped, p.rep.Repacked = 0, 0
	for i, k := range keys[len(p.loc.Packs):] {
		size, err := p.from.Stat(ctx, k)
		if err != nil {
			return nil, nil, err
		}
		if have[len(p.loc.Packs)+i] {
			p.rep.Skipped += size
			continue
		}
		objects = append(objects, p.file(k, size))
	}
	lacking := make(map[int]bool) // indexes of packs
	for i, q := range p.loc.Packs {
		if have[i] {
			p.rep.Skipped += q.Size
		} else {
			lacking[i] = true
		}
	}
	if p.names == nil || len(lacking) == 0 {
		for i := range p.loc.Packs {
			if lacking[i] {
				packs = append(packs, p.file(keys[i], p.loc.Packs[i].Size))
			}
		}
		p.locBytes, err = p.loc.Marshal()
		return packs, objects, err
	}
	packs, err = p.repack(ctx, lacking)
	return packs, objects, err
}

// file is a file of the source as it is.
func (p *push) file(key string, size int64) piece {
	return piece{key, size, func(ctx context.Context) (io.ReadSeeker, error) {
		return &bucketReader{ctx: ctx, from: p.from, key: key, size: size}, nil
	}}
}

// repack sends packs that the hub lacks as they are, if it lacks most of their
// chunks, and packs the lacking chunks of the others anew. Chunks go in the
// order of the image, so an interrupted push makes the same packs again.
func (p *push) repack(ctx context.Context, lacking map[int]bool) ([]piece, error) {
	var ask []block.Name
	for i, w := range p.loc.Where {
		if lacking[int(w.Pack)] {
			ask = append(ask, p.names[i])
		}
	}
	places, err := p.c.locate(ctx, ask, p.root.Private())
	if err != nil {
		return nil, err
	}
	need := make([]int64, len(p.loc.Packs)) // bytes of lacking chunks in each pack
	for i, w := range p.loc.Where {
		if _, ok := places[p.names[i]]; !ok && lacking[int(w.Pack)] {
			need[w.Pack] += int64(w.Stored)
		}
	}
	var pieces []piece
	out := block.Locator{Where: make([]block.Location, len(p.loc.Where))}
	index := make(map[block.Name]uint32)
	ref := func(q block.PackRef) uint32 {
		i, ok := index[q.Name]
		if !ok {
			i = uint32(len(out.Packs))
			index[q.Name] = i
			out.Packs = append(out.Packs, q)
		}
		return i
	}
	whole := make(map[int]bool)
	for i, q := range p.loc.Packs {
		if lacking[i] && float64(need[i]) >= wholePack*float64(q.Size) {
			whole[i] = true
			pieces = append(pieces, p.file(flist.PackPrefix+q.Name.String(), q.Size))
		}
	}
	r := &repacker{p: p}
	for i, w := range p.loc.Where {
		f, ok := places[p.names[i]]
		switch {
		case !lacking[int(w.Pack)] || whole[int(w.Pack)]:
			out.Where[i] = block.Location{Pack: ref(p.loc.Packs[w.Pack]), Off: w.Off, Stored: w.Stored}
		case ok:
			p.rep.Skipped += int64(f.stored)
			out.Where[i] = block.Location{Pack: ref(f.pack), Off: f.off, Stored: f.stored}
		default:
			if err := r.add(ctx, i); err != nil {
				return nil, err
			}
		}
	}
	made, err := r.close()
	if err != nil {
		return nil, err
	}
	for _, m := range made {
		p.rep.Repacked += m.ref.Size
		pieces = append(pieces, m.piece)
		for i, w := range m.where {
			out.Where[i] = block.Location{Pack: ref(m.ref), Off: w.Off, Stored: w.Stored}
		}
	}
	p.locBytes, err = out.Marshal()
	return pieces, err
}

// publish sends packs and objects, then locator and root.
func (p *push) publish(ctx context.Context, packs, objects []piece) error {
	var total int64
	for _, x := range slices.Concat(packs, objects) {
		total += x.size
	}
	p.total.Store(p.done.Load() + total + int64(len(p.locBytes)+len(p.rootBytes)))
	send := func(pieces []piece, count *int) error {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(p.c.opt.Parallel)
		for _, x := range pieces {
			g.Go(func() error {
				body, err := x.body(gctx)
				if err != nil {
					return err
				}
				return p.up.put(gctx, x.key, body)
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		*count += len(pieces)
		return nil
	}
	if err := send(packs, &p.rep.Packs); err != nil {
		return err
	}
	if err := send(objects, &p.rep.Objects); err != nil {
		return err
	}
	key := flist.LocatorKey(p.id)
	// A locator that is there and good stays: another push of the same image
	// made it, and the packs it names would be collected without it.
	there, err := p.c.have(ctx, []string{flist.RootKey(p.id), key})
	if err != nil {
		return err
	}
	if !there[0] || !there[1] {
		if err := p.up.put(ctx, key, bytes.NewReader(p.locBytes)); err != nil {
			return err
		}
	}
	return p.up.put(ctx, flist.RootKey(p.id), bytes.NewReader(p.rootBytes))
}

// extras sends signatures and trace, if the source has them.
func (p *push) extras(ctx context.Context) error {
	for key, limit := range map[string]int64{flist.SignaturesKey(p.id): flist.MaxSignatures, flist.TraceKey(p.id): protocol.MaxTrace} {
		b, err := p.from.Read(ctx, key, 0, limit+1)
		if fault.Of(err) == fault.NotFound {
			continue
		}
		if err == nil {
			err = p.up.put(ctx, key, bytes.NewReader(b))
		}
		if fault.Of(err) == fault.Denied && key[0] == 't' {
			continue // somebody else's trace stays; it is a hint
		}
		if err != nil {
			return err
		}
	}
	return nil
}
