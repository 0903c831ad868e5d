package fetch

import "zos.internal/flist/chunkmap"

const zeros = chunkmap.Zeros

// stream is a sequential reader of the device.
type stream struct {
	next   int64 // where it continues
	ahead  int64 // what is before this was asked for
	window int64 // how much is asked for next
	steady bool  // it continued at least once
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

// follow notes a read and returns the device bytes to read ahead, from = to for
// none. first says that the read belongs to no stream yet.
func (d *Device) follow(off, n int64) (from, to int64, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tick++
	oldest := &d.streams[0]
	for i := range d.streams {
		s := &d.streams[i]
		if s.continues(off) {
			from, to = d.advance(s, off+n)
			return from, to, false
		}
		if s.used < oldest.used {
			oldest = s
		}
	}
	*oldest = stream{next: off + n, ahead: off + n, window: d.opt.Ahead, used: d.tick}
	return 0, 0, true
}

// advance moves a stream on to end. mu is held.
func (d *Device) advance(s *stream, end int64) (from, to int64) {
	s.used, s.steady = d.tick, true
	s.next = max(s.next, end)
	s.ahead = max(s.ahead, s.next)
	if s.ahead-s.next >= s.window/2 || s.ahead >= d.size {
		return 0, 0
	}
	from, to = s.ahead, min(s.ahead+s.window, d.size)
	s.ahead = to
	s.window = min(2*s.window, d.opt.MaxAhead)
	return from, to
}

// open returns the bytes to read ahead of the stream that a first read has begun
// and that continues at next: its chunks have to come from a source, and the
// ones behind them cost little more.
func (d *Device) open(next int64) (from, to int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.streams {
		if s := &d.streams[i]; s.window > 0 && s.next == next && s.ahead == next {
			s.ahead = min(next+s.window, d.size)
			return next, s.ahead
		}
	}
	return 0, 0
}
