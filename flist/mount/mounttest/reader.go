package mounttest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"zos.internal/flist/dataserver"
)

// FileSpec is the Spec of a slot that FileReader serves.
type FileSpec struct {
	Path string `json:"path"`
	// DelayMs holds every read up, so that reads are under way when the
	// server is killed.
	DelayMs int `json:"delay_ms,omitempty"`
	// HangFrom: reads at this offset or behind it never come back by
	// themselves; 0 is none.
	HangFrom int64 `json:"hang_from,omitempty"`
	// Deaf: a hanging read doesn't even end with its context.
	Deaf bool `json:"deaf,omitempty"`
	// FailFrom: reads at this offset or behind it fail; 0 is none.
	FailFrom int64 `json:"fail_from,omitempty"`
	// RefuseOpen: the Opener fails.
	RefuseOpen bool `json:"refuse_open,omitempty"`
	// ClosePipe holds the end of the Reader up until this named pipe was
	// opened for writing and closed again; then a file with .closed behind
	// this name is there.
	ClosePipe string `json:"close_pipe,omitempty"`
}

// JSON is the spec's text form.
func (s FileSpec) JSON() json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // can't be
	}
	return b
}

// FileReader serves the bytes of a file, with the faults that its spec asks
// for.
type FileReader struct {
	f    *os.File
	spec FileSpec
}

// OpenFile is the dataserver.Opener of FileSpec.
func OpenFile(s dataserver.Slot) (dataserver.Reader, error) {
	var spec FileSpec
	if err := json.Unmarshal(s.Spec, &spec); err != nil {
		return nil, err
	}
	if spec.RefuseOpen {
		return nil, errors.New("refused as the test asks")
	}
	f, err := os.Open(spec.Path)
	if err != nil {
		return nil, err
	}
	return &FileReader{f, spec}, nil
}

// ReadAt reads from the file.
func (r *FileReader) ReadAt(ctx context.Context, p []byte, off int64) error {
	end := off + int64(len(p))
	if r.spec.HangFrom > 0 && end > r.spec.HangFrom {
		if r.spec.Deaf {
			select {}
		}
		<-ctx.Done()
		return ctx.Err()
	}
	if r.spec.FailFrom > 0 && end > r.spec.FailFrom {
		return errors.New("failed as the test asks")
	}
	if r.spec.DelayMs > 0 {
		t := time.NewTimer(time.Duration(r.spec.DelayMs) * time.Millisecond)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	_, err := r.f.ReadAt(p, off)
	return err
}

// Close closes the file.
func (r *FileReader) Close() error {
	err := r.f.Close()
	if r.spec.ClosePipe != "" {
		_, perr := os.ReadFile(r.spec.ClosePipe)
		err = errors.Join(err, perr, os.WriteFile(r.spec.ClosePipe+".closed", nil, 0o600))
	}
	return err
}
