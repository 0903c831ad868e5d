package hub

import (
	"io"
	"net/http"
	"time"

	"zos.internal/internal/clock"
)

// A client that reads or sends slower than this for long is cut off: it would
// hold a connection, a slot and memory for ever.
const (
	patience = 30 * time.Second // to begin with, and for the pause between requests
	minRate  = 16 << 10         // bytes per second after that
)

// limits moves the deadlines of one request ahead with each byte that crossed
// the wire, and no further than minRate allows.
type limits struct {
	ctl   *http.ResponseController
	began time.Time
	body  io.ReadCloser
	in    int64
	out   int64
}

// newLimits returns the limits and a copy of r that is read within them. It must
// be a copy: the server looks at the body of its own request to see that nobody
// read it, and then doesn't ask the client to send it.
func newLimits(w *recorder, r *http.Request) (*limits, *http.Request) {
	l := &limits{ctl: http.NewResponseController(w), body: r.Body}
	if r.Body != nil && r.Body != http.NoBody {
		r = r.WithContext(r.Context())
		r.Body = l
	}
	w.onWrite = l.wrote
	return l, r
}

func (l *limits) start() {
	l.began = clock.System{}.Now() // deadlines are the machine's time, not the hub's
	l.deadlines()
}

// deadlines ignores errors: a server that can't (a test's recorder) has none.
func (l *limits) deadlines() {
	_ = l.ctl.SetReadDeadline(l.began.Add(patience + rate(l.in)))
	_ = l.ctl.SetWriteDeadline(l.began.Add(2*patience + rate(l.in) + rate(l.out)))
}

func rate(n int64) time.Duration { return time.Duration(n/minRate) * time.Second }

func (l *limits) Read(b []byte) (int, error) {
	n, err := l.body.Read(b)
	before := l.in / minRate
	if l.in += int64(n); l.in/minRate != before {
		l.deadlines()
	}
	return n, err
}

func (l *limits) Close() error { return l.body.Close() }

func (l *limits) wrote(n int) {
	before := l.out / minRate
	if l.out += int64(n); l.out/minRate != before {
		l.deadlines()
	}
}
