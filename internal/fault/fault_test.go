package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

func TestKindsCrossEveryWire(t *testing.T) {
	for _, k := range Kinds() {
		err := fmt.Errorf("outer: %w", Errorf(k, "read block: %w", fs.ErrClosed))
		if got := Of(err); got != k {
			t.Errorf("Of(%v) = %q, want %q", err, got, k)
		}
		if !errors.Is(err, k) || !errors.Is(err, fs.ErrClosed) {
			t.Errorf("errors.Is lost %q or its cause", k)
		}
		if got := FromHTTPStatus(k.HTTPStatus()); got != k {
			t.Errorf("FromHTTPStatus(%d) = %q, want %q", k.HTTPStatus(), got, k)
		}
		if k.ExitCode() < 1 || k.ExitCode() > 7 {
			t.Errorf("%q.ExitCode() = %d, want 1..7", k, k.ExitCode())
		}
	}
}

func TestOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want Kind
	}{
		{nil, ""},
		{fs.ErrNotExist, NotFound},
		{fs.ErrPermission, Denied},
		{context.DeadlineExceeded, Unavailable},
		{errors.New("x"), Internal},
		{NotFound, NotFound},
		{As(Denied, fs.ErrNotExist), Denied},
	} {
		if got := Of(tt.err); got != tt.want {
			t.Errorf("Of(%v) = %q, want %q", tt.err, got, tt.want)
		}
	}
	if As(Denied, nil) != nil {
		t.Error("As(Denied, nil) is not nil")
	}
}
