package compute

import (
	"io"
	"os"
	"reflect"

	"zos.internal/internal/fault"
)

// streams are the descriptors that the runtime program inherits.
type streams struct {
	files [3]*os.File
	own   []*os.File // to be closed when the workload has them
}

func (s *streams) close() {
	for _, f := range s.own {
		f.Close()
	}
	s.own = nil
}

// open turns stdio into files; what is not a file is copied through a pipe.
func (c *Container) open(stdio Stdio) (*streams, error) {
	s := &streams{}
	fail := func(err error) (*streams, error) {
		s.close()
		return nil, fault.Errorf(fault.Unavailable, "open the standard streams: %w", err)
	}
	null := func(flag int) (*os.File, error) {
		f, err := os.OpenFile(os.DevNull, flag, 0)
		if err == nil {
			s.own = append(s.own, f)
		}
		return f, err
	}
	var err error
	switch in := stdio.In.(type) {
	case nil:
		s.files[0], err = null(os.O_RDONLY)
	case *os.File:
		s.files[0] = in
	default:
		var r, w *os.File
		if r, w, err = os.Pipe(); err == nil {
			s.own, s.files[0] = append(s.own, r), r
			// Not waited for: a reader that blocks must not hold up the end.
			go func() {
				defer w.Close()
				_, _ = io.Copy(w, in)
			}()
		}
	}
	if err != nil {
		return fail(err)
	}
	for i, out := range []io.Writer{stdio.Out, stdio.Err} {
		if i == 1 && same(stdio.Out, stdio.Err) {
			s.files[2] = s.files[1] // one pipe, so that one goroutine writes
			break
		}
		switch out := out.(type) {
		case nil:
			s.files[i+1], err = null(os.O_WRONLY)
		case *os.File:
			s.files[i+1] = out
		default:
			var r, w *os.File
			if r, w, err = os.Pipe(); err == nil {
				s.own, s.files[i+1] = append(s.own, w), w
				c.copy.Go(func() {
					defer r.Close()
					_, _ = io.Copy(out, r)
				})
			}
		}
		if err != nil {
			return fail(err)
		}
	}
	return s, nil
}

// same reports whether a and b are one writer.
func same(a, b io.Writer) bool {
	if a == nil || b == nil {
		return false
	}
	t := reflect.TypeOf(a)
	return t.Comparable() && t == reflect.TypeOf(b) && a == b
}
