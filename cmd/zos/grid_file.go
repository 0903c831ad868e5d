package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"

	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
)

// readSmall reads a file of a bounded size.
func readSmall(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read %s: %w", path, err)
	}
	if int64(len(b)) > most {
		return nil, fault.Errorf(fault.Invalid, "read %s: more than %d bytes; this is no such file", path, most)
	}
	return b, nil
}

// readJSON reads a small file strictly.
func readJSON(path string, most int64, into any) error {
	b, err := readSmall(path, most)
	if err != nil {
		return err
	}
	if err := parseJSON(b, into); err != nil {
		return fault.Errorf(fault.Invalid, "read %s: %w", path, err)
	}
	return nil
}

func parseJSON(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the object")
	}
	return nil
}

// writeNew writes a file that isn't there yet.
func writeNew(path string, b []byte) error { return writeFile(path, b, true) }

func writeFile(path string, b []byte, fresh bool) error {
	if _, err := os.Lstat(path); err == nil && fresh {
		return fault.Errorf(fault.Conflict, "write %s: the file exists; choose another name", path)
	}
	return atomicfile.Write(path, b, 0o600)
}
