package fetch

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"zos.internal/block"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// Run is a range of chunk numbers.
type Run struct {
	_     struct{} `cbor:",toarray"`
	First uint32
	Count uint32
}

// Trace says which chunks a start of an image needs, in order of first access.
// It is a hint: a wrong one costs time and never gives wrong bytes.
type Trace struct {
	Image block.Name // the id of the image
	Runs  []Run
}

// Limits of a trace.
const (
	MaxTraceBytes = 8 << 20 // encoded
	MaxTraceRuns  = 1 << 20
	traceTag      = "zos.trace"
)

type wireTrace struct {
	Tag   string `cbor:"0,keyasint"`
	Image []byte `cbor:"1,keyasint"`
	Runs  []Run  `cbor:"2,keyasint"`
}

// Chunks is the number of chunks.
func (t Trace) Chunks() (n int) {
	for _, r := range t.Runs {
		n += int(r.Count)
	}
	return n
}

// Encode writes the one encoding of t, core deterministic CBOR
// {0: "zos.trace", 1: image id, 2: [[first chunk, count]…]}. A trace that Parse
// would refuse is Invalid.
func (t Trace) Encode() ([]byte, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	w := wireTrace{Tag: traceTag, Image: t.Image[:], Runs: t.Runs}
	if w.Runs == nil {
		w.Runs = []Run{}
	}
	b, err := canon.Marshal(w)
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "write trace: %w", err)
	}
	return b, nil
}

// ParseTrace reads a trace. Bytes that Encode doesn't write are Invalid.
func ParseTrace(b []byte) (Trace, error) {
	if len(b) > MaxTraceBytes {
		return Trace{}, fault.Errorf(fault.Invalid, "read trace: %d bytes are more than the limit of %d", len(b), MaxTraceBytes)
	}
	mode, err := cbor.DecOptions{MaxArrayElements: MaxTraceRuns, MaxMapPairs: 16, MaxNestedLevels: 8, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField}.DecMode()
	if err != nil {
		return Trace{}, fault.As(fault.Internal, err)
	}
	var w wireTrace
	if err := mode.Unmarshal(b, &w); err != nil {
		return Trace{}, fault.Errorf(fault.Invalid, "read trace: %w", err)
	}
	if w.Tag != traceTag || len(w.Image) != len(block.Name{}) {
		return Trace{}, fault.Errorf(fault.Invalid, "read trace: it is not tagged %q or names no image", traceTag)
	}
	t := Trace{Image: block.Name(w.Image), Runs: w.Runs}
	again, err := t.Encode()
	if err != nil {
		return Trace{}, err
	}
	if !bytes.Equal(again, b) {
		return Trace{}, fault.Errorf(fault.Invalid, "read trace: it is not canonical CBOR")
	}
	return t, nil
}

// check reports a run that is empty, too long, continues the one before, or
// has a chunk that another run has.
func (t Trace) check() error {
	if len(t.Runs) > MaxTraceRuns {
		return fault.Errorf(fault.Invalid, "check trace: %d runs are more than the limit of %d", len(t.Runs), MaxTraceRuns)
	}
	for i, r := range t.Runs {
		if r.Count == 0 || uint64(r.First)+uint64(r.Count) > zeros {
			return fault.Errorf(fault.Invalid, "check trace: run %d of %d chunks from %d is empty or too long", i, r.Count, r.First)
		}
		if i > 0 && t.Runs[i-1].First+t.Runs[i-1].Count == r.First {
			return fault.Errorf(fault.Invalid, "check trace: run %d continues the one before; join them", i)
		}
	}
	sorted := slices.SortedFunc(slices.Values(t.Runs), func(a, b Run) int { return cmp.Compare(a.First, b.First) })
	for i := 1; i < len(sorted); i++ {
		if a, b := sorted[i-1], sorted[i]; a.First+a.Count > b.First {
			return fault.Errorf(fault.Invalid, "check trace: chunk %d is in it twice", b.First)
		}
	}
	return nil
}

// appendChunk adds a chunk at the end of runs.
func appendChunk(runs []Run, chunk uint32) []Run {
	if n := len(runs); n > 0 && runs[n-1].First+runs[n-1].Count == chunk {
		runs[n-1].Count++
		return runs
	}
	return append(runs, Run{First: chunk, Count: 1})
}

// Merge returns the trace of the chunks that more than half of the starts
// needed, in the order of their mean place. Traces of different images are
// Invalid; no trace gives the zero Trace. maxChunks bounds each trace, so that
// a forged one can't take the memory of a billion chunks.
func Merge(maxChunks int, starts ...Trace) (Trace, error) {
	if len(starts) == 0 {
		return Trace{}, nil
	}
	type place struct {
		starts int
		sum    float64
	}
	places := map[uint32]place{}
	for _, t := range starts {
		if t.Image != starts[0].Image {
			return Trace{}, fault.Errorf(fault.Invalid, "merge traces: they are of the images %v and %v", starts[0].Image, t.Image)
		}
		if n := t.Chunks(); n > maxChunks {
			return Trace{}, fault.Errorf(fault.Invalid, "merge traces: one has %d chunks, the image %d", n, maxChunks)
		}
		i := 0
		for _, r := range t.Runs {
			for c := r.First; c < r.First+r.Count; c++ {
				p := places[c]
				p.starts++
				p.sum += float64(i)
				places[c] = p
				i++
			}
		}
	}
	var order []uint32
	for c, p := range places {
		if 2*p.starts > len(starts) {
			order = append(order, c)
		}
	}
	mean := func(c uint32) float64 { return places[c].sum / float64(places[c].starts) }
	slices.SortFunc(order, func(a, b uint32) int {
		return cmp.Or(cmp.Compare(mean(a), mean(b)), cmp.Compare(a, b))
	})
	t := Trace{Image: starts[0].Image}
	for _, c := range order {
		t.Runs = appendChunk(t.Runs, c)
	}
	return t, nil
}

// recorder collects the order of first access. It is guarded by Device.mu.
type recorder struct {
	until time.Time
	seen  []uint64 // a bit for each chunk
	runs  []Run
}

// RecordTime is how long a start is recorded.
const RecordTime = 60 * time.Second

// Record starts to record which chunks are read, for RecordTime. Recording
// again starts anew.
func (d *Device) Record() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rec = &recorder{until: d.opt.Clock.Now().Add(RecordTime), seen: make([]uint64, (d.view.Chunks()+63)/64)}
	d.recording.Store(true)
}

// Recorded returns what was recorded so far and whether the time is over. Image
// is that of Options, if it is a name.
func (d *Device) Recorded() (t Trace, over bool) {
	t.Image, _ = block.ParseName(d.opt.Image)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rec == nil {
		return t, false
	}
	t.Runs = slices.Clone(d.rec.runs)
	return t, d.rec.seen == nil || !d.opt.Clock.Now().Before(d.rec.until)
}

// record notes the first access to a chunk.
func (d *Device) record(chunk uint32) {
	if !d.recording.Load() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.rec
	if r.seen == nil || r.seen[chunk/64]>>(chunk%64)&1 == 1 {
		return
	}
	if len(r.runs) >= MaxTraceRuns || !d.opt.Clock.Now().Before(r.until) {
		r.seen = nil
		d.recording.Store(false)
		return
	}
	r.seen[chunk/64] |= 1 << (chunk % 64)
	r.runs = appendChunk(r.runs, chunk)
}
