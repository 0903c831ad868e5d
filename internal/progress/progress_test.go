package progress

import (
	"strings"
	"testing"
	"time"

	"zos.internal/internal/clock"
)

type ticking struct{ t time.Time }

func (c *ticking) Now() time.Time { return c.t }

func TestBarShowsRateAndTimeLeft(t *testing.T) {
	var out strings.Builder
	c := &ticking{time.Unix(0, 0)}
	r := New(&out, Bar, c)
	r.Update("build", 0, 100<<20)
	c.t = c.t.Add(2 * time.Second)
	r.Update("build", 50<<20, 100<<20)
	if s := out.String(); !strings.Contains(s, "50%") || !strings.Contains(s, "25.0 MiB/s") || !strings.Contains(s, "2s left") {
		t.Errorf("the bar is %q, want 50%%, 25.0 MiB/s and 2s left", s)
	}
	r.Close()
	if s := out.String(); !strings.HasSuffix(s, "\n") {
		t.Errorf("after Close the output is %q, want a new line at its end", s)
	}
}

func TestJSONIsLimitedAndEnds(t *testing.T) {
	var out strings.Builder
	c := &ticking{time.Unix(0, 0)}
	r := New(&out, JSON, c)
	for i := range int64(1000) {
		r.Update("push", i, 1000)
	}
	c.t = c.t.Add(time.Second)
	r.Close()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("1000 updates at once made %d lines, want 2", len(lines))
	}
	if want := `{"phase":"push","done":999,"total":1000,"rate":999,"end":true}`; lines[1] != want {
		t.Errorf("last line = %s, want %s", lines[1], want)
	}
}

func TestNilAndNoneAreSilent(t *testing.T) {
	var r *Reporter
	r.Update("x", 1, 2)
	r.Close()
	var out strings.Builder
	n := New(&out, None, clock.System{})
	n.Update("x", 1, 2)
	n.Close()
	if out.Len() != 0 {
		t.Errorf("None wrote %q", out.String())
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 20: "1.0 MiB", 1100 << 20: "1.1 GiB", 5 << 40: "5.0 TiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}
