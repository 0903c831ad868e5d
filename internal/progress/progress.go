// Package progress shows how far a long operation is: a bar with rate and time
// left on a terminal, one JSON object per line for programs, or nothing.
//
// It writes at most ten times a second, and once when a phase ends. It is safe
// for concurrent use and never returns an error: progress is a courtesy.
//
//	bar := progress.New(os.Stderr, progress.Bar, clock.System{})
//	defer bar.Close()
//	bar.Update("build", done, total)
package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"zos.internal/internal/clock"
)

// Mode is how progress is shown.
type Mode int

// The modes.
const (
	None Mode = iota
	Bar       // one line that is drawn again, for terminals
	JSON      // one object per line
)

const every = 100 * time.Millisecond

// Reporter draws the progress of one operation, phase after phase.
type Reporter struct {
	mu    sync.Mutex
	w     io.Writer
	mode  Mode
	clock clock.Clock

	phase       string
	start, last time.Time
	done, total int64
	drawn       int // characters of the line that is on the terminal
}

// New returns a reporter that writes to w. A nil *Reporter is valid and silent.
func New(w io.Writer, mode Mode, c clock.Clock) *Reporter {
	return &Reporter{w: w, mode: mode, clock: c}
}

// Update says that done of total bytes of a phase are through; total 0 is
// unknown. A new phase ends the one before.
func (r *Reporter) Update(phase string, done, total int64) {
	if r == nil || r.mode == None {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	if phase != r.phase {
		r.finish(now)
		r.phase, r.start, r.last = phase, now, time.Time{}
	}
	r.done, r.total = done, total
	if now.Sub(r.last) < every {
		return
	}
	r.last = now
	r.draw(now, false)
}

// Close ends the current phase and leaves the terminal on a new line.
func (r *Reporter) Close() {
	if r == nil || r.mode == None {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finish(r.clock.Now())
	r.phase = ""
}

func (r *Reporter) finish(now time.Time) {
	if r.phase == "" {
		return
	}
	r.draw(now, true)
	if r.mode == Bar {
		fmt.Fprintln(r.w)
		r.drawn = 0
	}
}

// line is one JSON progress report; sizes are bytes, times seconds.
type line struct {
	Phase string  `json:"phase"`
	Done  int64   `json:"done"`
	Total int64   `json:"total,omitempty"`
	Rate  int64   `json:"rate"` // bytes per second
	Left  float64 `json:"left,omitempty"`
	End   bool    `json:"end,omitempty"`
}

func (r *Reporter) draw(now time.Time, end bool) {
	l := line{Phase: r.phase, Done: r.done, Total: r.total, End: end}
	if took := now.Sub(r.start).Seconds(); took > 0 {
		l.Rate = int64(float64(r.done) / took)
	}
	if l.Rate > 0 && l.Total > l.Done && !end {
		l.Left = float64(l.Total-l.Done) / float64(l.Rate)
	}
	if r.mode == JSON {
		b, err := json.Marshal(l)
		if err == nil {
			r.w.Write(append(b, '\n'))
		}
		return
	}
	s := l.text()
	pad := max(0, r.drawn-len([]rune(s)))
	fmt.Fprint(r.w, "\r"+s+strings.Repeat(" ", pad))
	r.drawn = len([]rune(s))
}

const width = 24

func (l line) text() string {
	rate := Size(l.Rate) + "/s"
	if l.Total <= 0 {
		return fmt.Sprintf("%-12s %9s  %11s", l.Phase, Size(l.Done), rate)
	}
	part := min(1, float64(l.Done)/float64(l.Total))
	full := int(part * width)
	s := fmt.Sprintf("%-12s %s%s %3.0f%%  %9s of %-9s %11s", l.Phase, strings.Repeat("━", full), strings.Repeat("╌", width-full),
		100*part, Size(l.Done), Size(l.Total), rate)
	if l.Left > 0 {
		s += "  " + left(l.Left)
	}
	return s
}

func left(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%v left", d)
}

// Size is a number of bytes for people, in binary units.
func Size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, 0
	for f >= 1000 && unit < 4 {
		f /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[unit])
}
