package convert

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

// Table names the opener for each scheme: "dir", "tar", "oci",
// "docker-archive", "registry", "fl".
type Table map[string]Opener

// Open reads the source that ref names: "SCHEME:PATH", or a bare path whose
// kind is seen from what is there (a directory, an OCI layout, an .fl file, a
// tar or docker archive; "-" is a tar on standard input). A reference that
// names nothing is NotFound, a scheme that is not in the table Unsupported.
func Open(ctx context.Context, ref string, table Table, opts Options) (*Result, error) {
	scheme, path, err := table.detect(ref)
	if err != nil {
		return nil, err
	}
	open, ok := table[scheme]
	if !ok {
		return nil, fault.Errorf(fault.Unsupported, "open %q: this program can't read %q; use one of %s", ref, scheme, table)
	}
	if path == "" {
		return nil, fault.Errorf(fault.Invalid, "open %q: nothing follows %q; write %s:PATH", ref, scheme+":", scheme)
	}
	res, err := open(ctx, path, opts)
	if err != nil {
		return nil, err
	}
	// A bare path to a docker archive looks like any tar until it was read.
	if archive := table["docker-archive"]; archive != nil && path == ref && path != "-" && scheme == "tar" && isImageArchive(res.Root) {
		if err := res.Close(); err != nil {
			return nil, err
		}
		return archive(ctx, path, opts)
	}
	return res, nil
}

// String lists the schemes.
func (t Table) String() string {
	return strings.Join(slices.Sorted(maps.Keys(t)), ":, ") + ":"
}

func isImageArchive(root *tree.Node) bool {
	m := root.Lookup("manifest.json")
	return m != nil && m.IsRegular() && (root.Lookup("repositories") != nil || root.Lookup("oci-layout") != nil)
}

func (t Table) detect(ref string) (scheme, path string, err error) {
	if s, p, ok := strings.Cut(ref, ":"); ok && t[s] != nil {
		return s, p, nil
	}
	if ref == "-" {
		return "tar", ref, nil
	}
	st, err := os.Stat(ref)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if s, _, ok := strings.Cut(ref, ":"); ok && !strings.ContainsAny(s, "/.") && s != "localhost" {
			return "", "", fault.Errorf(fault.NotFound, "open %q: there is no such file and no scheme %q; use one of %s", ref, s, t)
		}
		return "", "", fault.Errorf(fault.NotFound, "open %q: there is no such file or directory; for an image in a registry write registry:%s", ref, ref)
	case err != nil:
		return "", "", fault.Errorf(fault.Of(err), "open %q: %w", ref, err)
	case st.IsDir():
		if _, err := os.Lstat(filepath.Join(ref, "oci-layout")); err == nil {
			return "oci", ref, nil
		}
		return "dir", ref, nil
	}
	if st.Mode().IsRegular() {
		f, err := os.Open(ref)
		if err != nil {
			return "", "", fault.Errorf(fault.Of(err), "open %q: %w", ref, err)
		}
		defer f.Close()
		head := make([]byte, 16)
		n, err := io.ReadFull(f, head)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
			return "", "", fault.Errorf(fault.Of(err), "open %q: %w", ref, err)
		}
		if bytes.HasPrefix(head[:n], []byte("SQLite format 3\x00")) {
			return "fl", ref, nil
		}
	}
	return "tar", ref, nil
}
