package block

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"zos.internal/internal/fault"
)

// How a PackGetter joins chunks of one pack into ranges, in bytes.
const (
	RangeGap = 128 << 10 // neighbours that are at most this far apart are read together
	RangeMax = 64 << 20  // longest range
)

// Place is where a stored chunk is: its pack, offset and stored length in bytes,
// and what is needed to decode it. The zero Pack says that no pack has it.
type Place struct {
	Pack   Name
	Off    int64
	Stored int
	Plain  int
	Enc    byte
}

// Place is the place of chunk i, whose plain length the image's map knows.
func (l Locator) Place(i, plain int, sealed bool) (Place, bool) {
	if i < 0 || i >= len(l.Where) || l.Where[i].Stored == 0 {
		return Place{}, false
	}
	w := l.Where[i]
	return Place{
		Pack:   l.Packs[w.Pack].Name,
		Off:    int64(w.Off),
		Stored: int(w.Stored),
		Plain:  plain,
		Enc:    DeriveEnc(plain, int(w.Stored), sealed),
	}, true
}

// PlacesIn returns the places of the chunks in a pack, from its directory.
func PlacesIn(pack Name, entries []PackEntry) map[Name]Place {
	m := make(map[Name]Place, len(entries))
	for _, e := range entries {
		m[e.Name] = Place{pack, e.Off, e.Stored, e.Plain, e.Enc}
	}
	return m
}

// PackGetter is the Getter of chunks that lie in packs behind mirrors. It joins
// neighbours in one pack into one ranged read, reads several ranges at a time
// and checks every chunk. A chunk is handed out as soon as it is there, while
// the rest of its range is on its way; no more than one chunk of a range is in
// memory where the source is an Opener. What one mirror served wrong is asked from the next,
// reported as an event, and never handed out. Where the bytes of all mirrors
// agree and are still not the chunk, the place is blamed and no mirror.
type PackGetter struct {
	mirrors  *Mirrors
	packs    string
	dom      Domain
	places   func(Name) (Place, bool)
	dec      Decoder
	parallel int
	single   string
}

var _ Getter = (*PackGetter)(nil)

// PackGetterOption changes a PackGetter while it is made.
type PackGetterOption func(*PackGetter)

// Parallel sets how many ranges are read at a time; the default is 4.
func Parallel(n int) PackGetterOption { return func(g *PackGetter) { g.parallel = max(n, 1) } }

// Singles lets the getter ask for chunks as wire records at prefix followed by
// the name, as hubs and peer nodes serve them at "c/": those that no pack is
// known to have, and those whose pack is gone or wrong everywhere, as after a
// hub repacked what an older locator says.
func Singles(prefix string) PackGetterOption { return func(g *PackGetter) { g.single = prefix } }

// NewPackGetter returns a getter of the chunks of dom. places says where a chunk
// is; it is called by the goroutine that calls Get, once per name. Packs are at
// prefix followed by their name, "p/" on a hub.
func NewPackGetter(m *Mirrors, prefix string, dom Domain, places func(Name) (Place, bool), opts ...PackGetterOption) *PackGetter {
	g := &PackGetter{mirrors: m, packs: prefix, dom: dom, places: places, parallel: 4}
	for _, o := range opts {
		o(g)
	}
	return g
}

// wanted is one chunk to read, and the wrong answers so far.
type wanted struct {
	name  Name
	place Place
	rank  int // position among the names asked for
	wrong []wrongAnswer
}

type wrongAnswer struct {
	source int
	sum    Name // of the stored bytes
	err    error
}

// span is a range of a pack, or a single chunk if the pack is zero.
type span struct {
	pack   Name
	lo, hi int64
	chunks []*wanted
	rank   int
}

type answer struct {
	chunk Chunk
	err   error
}

// Get implements Getter. Names that repeat are answered once.
func (g *PackGetter) Get(ctx context.Context, names []Name) iter.Seq2[Chunk, error] {
	return func(yield func(Chunk, error) bool) {
		spans, refused := g.plan(names)
		for _, a := range refused {
			if !yield(a.chunk, a.err) {
				return
			}
		}
		ctx, cancel := context.WithCancel(ctx)
		answers := make(chan answer)
		var wg sync.WaitGroup
		var next atomic.Int64
		for range min(g.parallel, len(spans)) {
			wg.Go(func() {
				for i := next.Add(1) - 1; i < int64(len(spans)); i = next.Add(1) - 1 {
					g.fetch(ctx, spans[i], answers)
				}
			})
		}
		go func() {
			wg.Wait()
			close(answers)
		}()
		// The answers are always drained, so a worker never waits for good.
		defer func() {
			cancel()
			for range answers {
			}
		}()
		for a := range answers {
			if !yield(a.chunk, a.err) {
				return
			}
		}
	}
}

// plan turns names into ranges, in the order in which they were asked for.
func (g *PackGetter) plan(names []Name) (spans []*span, refused []answer) {
	packs := map[Name][]*wanted{}
	seen := make(map[Name]struct{}, len(names))
	for rank, n := range names {
		if _, ok := seen[n]; ok {
			continue
		}
		seen[n] = struct{}{}
		p, ok := g.places(n)
		w := &wanted{name: n, place: p, rank: rank}
		switch {
		case !ok || p.Pack.IsZero():
			if g.single == "" {
				refused = append(refused, answer{Chunk{Name: n}, fault.Errorf(fault.NotFound, "read chunk %v: no pack is known to have it", n)})
				continue
			}
			w.place = Place{}
			spans = append(spans, &span{chunks: []*wanted{w}, rank: rank})
		default:
			if err := g.checkPlace(p); err != nil {
				refused = append(refused, answer{Chunk{Name: n}, fault.Errorf(fault.Of(err), "read chunk %v: %w", n, err)})
				continue
			}
			packs[p.Pack] = append(packs[p.Pack], w)
		}
	}
	for pack, ws := range packs {
		slices.SortFunc(ws, func(a, b *wanted) int { return cmp.Compare(a.place.Off, b.place.Off) })
		var s *span
		for _, w := range ws {
			lo, hi := w.place.Off, w.place.Off+int64(w.place.Stored)
			if s == nil || lo-s.hi > RangeGap || max(hi, s.hi)-s.lo > RangeMax {
				s = &span{pack: pack, lo: lo, hi: hi, rank: w.rank}
				spans = append(spans, s)
			}
			s.hi = max(s.hi, hi)
			s.rank = min(s.rank, w.rank)
			s.chunks = append(s.chunks, w)
		}
	}
	slices.SortFunc(spans, func(a, b *span) int { return cmp.Compare(a.rank, b.rank) })
	return spans, refused
}

func (g *PackGetter) checkPlace(p Place) error {
	if err := checkLengths(p.Enc, p.Plain, p.Stored); err != nil {
		return err
	}
	if p.Off < 0 || p.Off > MaxPack-int64(p.Stored) {
		return fault.Errorf(fault.Invalid, "offset %d is outside a pack; fetch the locator again", p.Off)
	}
	if p.Enc&Sealed != 0 && !g.dom.Private() {
		return fault.Errorf(fault.Denied, "it is sealed for a private domain; give the secret of its tenant")
	}
	return nil
}

// fetch reads one span and answers each of its chunks once.
func (g *PackGetter) fetch(ctx context.Context, s *span, answers chan<- answer) {
	key := g.packs + s.pack.String()
	size := int64(recordSize + maxStored)
	if s.pack.IsZero() {
		key = g.single + s.chunks[0].name.String()
	}
	skip := make([]bool, len(g.mirrors.sources))
	patient := false
	pending := s.chunks
	var broke error // why an answer ended too early
	var slow []int  // sources that stalled, and are asked again after all others
	for len(pending) > 0 {
		lo := s.lo
		if !s.pack.IsZero() {
			var hi int64
			lo = pending[0].place.Off
			for _, w := range pending {
				hi = max(hi, w.place.Off+int64(w.place.Stored))
			}
			size = hi - lo
		}
		r, src, err := g.mirrors.open(ctx, key, lo, size, skip, patient)
		if err != nil && len(slow) > 0 && ctx.Err() == nil {
			for _, i := range slow {
				skip[i] = false
			}
			slow, patient = nil, true
			continue
		}
		if err != nil {
			if broke != nil && hope(broke) > hope(err) {
				err = broke
			}
			for _, w := range pending {
				gaveUp := g.giveUp(key, w, err)
				if kind := fault.Of(gaveUp); !s.pack.IsZero() && g.single != "" && (kind == fault.NotFound || kind == fault.Invalid) {
					g.fetchSingle(ctx, w, gaveUp, answers)
					continue
				}
				answers <- answer{Chunk{Name: w.name}, gaveUp}
			}
			return
		}
		pending, err = g.take(r, key, src, lo, pending, answers)
		r.Close()
		if err != nil {
			broke = err
			if ctx.Err() == nil {
				g.mirrors.note(key, src, err)
			}
			if errors.Is(err, errStalled) {
				slow = append(slow, src)
			}
		}
		skip[src] = true
	}
}

// take answers chunks out of an answer that starts at offset lo of their pack,
// in order, and returns those that were not right in it. The error is that of
// the answer.
func (g *PackGetter) take(r io.Reader, key string, src int, lo int64, chunks []*wanted, answers chan<- answer) (failed []*wanted, err error) {
	var b []byte // what was read from offset lo
	for _, w := range chunks {
		if !w.place.Pack.IsZero() {
			if w.place.Off > lo {
				n := w.place.Off - lo
				have := min(n, int64(len(b)))
				b, lo = append(b[:0], b[have:]...), w.place.Off
				if n > have && err == nil {
					_, err = io.CopyN(io.Discard, r, n-have)
				}
			}
			if n := w.place.Stored - len(b); n > 0 && err == nil {
				b, err = appendN(b, r, n)
			}
		} else if err == nil {
			b, err = appendN(b, r, recordSize+maxStored)
		}
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			if to := w.place.Stored; w.place.Pack.IsZero() || to > len(b) {
				failed = append(failed, w)
				continue
			}
		}
		plain, stored, wrong := g.open(w, b, lo)
		if wrong == nil {
			g.blame(key, w)
			answers <- answer{Chunk{w.name, plain}, nil}
			continue
		}
		if fault.Of(wrong) != fault.NotFound {
			w.wrong = append(w.wrong, wrongAnswer{src, Sum(stored), wrong})
		}
		failed = append(failed, w)
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil // the chunks that it doesn't have are wrong, the source is not down
	}
	return failed, err
}

// appendN reads up to n more bytes. An error comes with what there was.
func appendN(b []byte, r io.Reader, n int) ([]byte, error) {
	b = slices.Grow(b, min(n, 256<<10))
	for n > 0 {
		if len(b) == cap(b) {
			b = slices.Grow(b, min(n, len(b)))
		}
		m, err := r.Read(b[len(b):min(cap(b), len(b)+n)])
		b, n = b[:len(b)+m], n-m
		if err != nil {
			return b, err
		}
	}
	return b, nil
}

// fetchSingle asks for a chunk by its name after its pack gave it up with err.
func (g *PackGetter) fetchSingle(ctx context.Context, w *wanted, err error, answers chan<- answer) {
	one := make(chan answer, 1)
	g.fetch(ctx, &span{chunks: []*wanted{{name: w.name, rank: w.rank}}}, one)
	a := <-one
	if a.err != nil {
		a.err = err
	}
	answers <- a
}

// open takes the chunk out of bytes that were read from offset lo.
func (g *PackGetter) open(w *wanted, b []byte, lo int64) (plain, stored []byte, err error) {
	if w.place.Pack.IsZero() {
		r := bytes.NewReader(b)
		rec, err := ReadRecord(r)
		switch {
		case err != nil:
			return nil, b, fault.Errorf(fault.Invalid, "read chunk %v: %w", w.name, err)
		case rec.Name != w.name || r.Len() > 0:
			return nil, b, fault.Errorf(fault.Invalid, "read chunk %v: the source answered something else", w.name)
		}
		plain, err = rec.Open(g.dom, &g.dec)
		return plain, b, err
	}
	from := w.place.Off - lo
	to := from + int64(w.place.Stored)
	if to > int64(len(b)) {
		return nil, nil, fault.Errorf(fault.Invalid, "read chunk %v: the pack ends before it", w.name)
	}
	stored = b[from:to]
	plain, err = g.dec.Chunk(g.dom, w.name, w.place.Enc, w.place.Plain, stored)
	return plain, stored, err
}

// blame demotes and reports the sources that gave wrong bytes for w.
func (g *PackGetter) blame(key string, w *wanted) {
	for _, x := range w.wrong {
		g.mirrors.blame(x.source)
		g.mirrors.onEvent(Event{Kind: WrongBytes, Source: g.mirrors.sources[x.source].Name, Key: key, Chunk: w.name, Err: x.err})
	}
}

// giveUp is the error of a chunk that no source had right; err is why no other
// source can be asked.
func (g *PackGetter) giveUp(key string, w *wanted, err error) error {
	if len(w.wrong) > 0 {
		agree := len(w.wrong) > 1
		for _, x := range w.wrong[1:] {
			agree = agree && x.sum == w.wrong[0].sum
		}
		if agree {
			g.mirrors.onEvent(Event{Kind: WrongPlace, Key: key, Chunk: w.name, Err: w.wrong[0].err})
		} else {
			g.blame(key, w)
		}
		if hope(w.wrong[0].err) > hope(err) {
			return fault.Errorf(fault.Invalid, "read chunk %v: all %d sources that have it served wrong bytes: %w", w.name, len(w.wrong), w.wrong[0].err)
		}
	}
	kind := fault.Of(err)
	if kind != fault.NotFound && kind != fault.Invalid {
		kind = fault.Unavailable
	}
	return fault.Errorf(kind, "read chunk %v: %w", w.name, err)
}
