package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestListNamesEveryBenchmark(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"-list"}, &out, &errs); code != 0 {
		t.Fatalf("run -list: code %d: %s", code, errs.String())
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != len(benchmarks()) {
		t.Fatalf("-list has %d lines for %d benchmarks", len(lines), len(benchmarks()))
	}
	seen := map[string]bool{}
	for i, b := range benchmarks() {
		if b.name == "" || b.what == "" || b.run == nil || seen[b.name] {
			t.Errorf("benchmark %d: name %q (seen: %v), description %q", i, b.name, seen[b.name], b.what)
		}
		seen[b.name] = true
		if !strings.HasPrefix(lines[i], b.name+" ") || !strings.HasSuffix(lines[i], b.what) {
			t.Errorf("line %d of -list is %q, want %s and %q", i, lines[i], b.name, b.what)
		}
	}
}

func TestUnknownExpressionIsRefused(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"-run", "("}, &out, &errs); code != 2 || errs.Len() == 0 {
		t.Errorf("run -run (: code %d, stderr %q, want 2 and a reason", code, errs.String())
	}
}

func TestMustJudgesTheRatio(t *testing.T) {
	for _, c := range []struct {
		m    must
		x    float64
		want bool
	}{
		{atMost(1.5), 1.5, true}, {atMost(1.5), 1.51, false},
		{atLeast(0.8), 0.8, true}, {atLeast(0.8), 0.79, false},
	} {
		if got := c.m.met(c.x); got == nil || *got != c.want {
			t.Errorf("%s met by %v: %v, want %v", c.m, c.x, got, c.want)
		}
	}
	if (must{}).met(1) != nil {
		t.Error("a figure without a bound is judged")
	}
}

func TestMedian(t *testing.T) {
	if got := median([]float64{9, 1, 5}); got != 5 {
		t.Errorf("median of three = %v, want 5", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median of four = %v, want 2.5", got)
	}
}
