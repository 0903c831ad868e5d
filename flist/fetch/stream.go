package fetch

import "zos.internal/flist/chunkmap"

const zeros = chunkmap.Zeros

// stream is a sequential reader of the device.
type stream struct {
	next   int64 // where it continues
	ahead  int64 // what is before this was asked for
	window int64 // how much is asked for next
	steady bool  // it continued at least once
	lacked bool  // it came to a chunk that a source had to send
	used   uint64
}

// Readers of one stream overtake each other a little, since the kernel sends
// reads in parallel, and skip the end of a page between two files.
const (
	backward = 512 << 10
	forward  = 128 << 10
	nearby   = 32 << 10 // of a stream that has not continued yet
)

func (s *stream) continues(off int64) bool {
	if s.steady {
		return off >= s.next-backward && off <= s.next+forward
	}
	return s.window > 0 && off >= s.next && off <= s.next+nearby
}

// span is a range of device bytes to read ahead, empty if from = to.
type span struct {
	from, to int64
	local    bool // only what is in the cache
}

// follow notes a read and returns what to read ahead. first says that the read
// belongs to no stream yet.
//
// After a trace was brought in, a stream reads ahead from a source only once it
// has left the trace: what the trace doesn't name is probably not needed.
func (d *Device) follow(off, n int64) (sp span, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tick++
	oldest := &d.streams[0]
	for i := range d.streams {
		s := &d.streams[i]
		if s.continues(off) {
			return d.advance(s, off+n), false
		}
		if s.used < oldest.used {
			oldest = s
		}
	}
	*oldest = stream{next: off + n, ahead: off + n, window: d.opt.Ahead, used: d.tick}
	return span{}, true
}

// advance moves a stream on to end. mu is held.
func (d *Device) advance(s *stream, end int64) span {
	s.used, s.steady = d.tick, true
	s.next = max(s.next, end)
	s.ahead = max(s.ahead, s.next)
	if s.ahead-s.next >= s.window/2 || s.ahead >= d.size {
		return span{}
	}
	sp := span{s.ahead, min(s.ahead+s.window, d.size), d.traced && !s.lacked}
	s.ahead = sp.to
	s.window = min(2*s.window, d.opt.MaxAhead)
	return sp
}

// lack notes that a read that ends at next needs a source, and returns what to
// ask for with it, since what is behind costs little more. sp is what follow
// returned.
func (d *Device) lack(next int64, sp span) span {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.streams {
		s := &d.streams[i]
		if s.window == 0 || s.next != next || s.lacked {
			continue
		}
		s.lacked = true
		if !s.steady || d.traced {
			sp = span{next, min(next+s.window, d.size), false}
			s.ahead = max(s.ahead, sp.to)
		}
		break
	}
	return sp
}
