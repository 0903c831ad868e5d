package mount

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"zos.internal/internal/fault"
)

// mountEntry is one line of /proc/self/mountinfo.
type mountEntry struct {
	id      int
	dev     string // major:minor of the file system
	root    string
	target  string
	flags   string
	fstype  string
	source  string
	options []string // of the file system
}

type mountTable []mountEntry

func readMounts() (mountTable, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "read the mount table: %w", err)
	}
	return parseMounts(string(b)), nil
}

// parseMounts reads the mount table; lines that it doesn't understand are
// skipped.
func parseMounts(text string) mountTable {
	var t mountTable
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		f, g := strings.Split(before, " "), strings.Split(after, " ")
		if !ok || len(f) < 6 || len(g) < 3 {
			continue
		}
		id, err := strconv.Atoi(f[0])
		if err != nil {
			continue
		}
		options := strings.Split(g[2], ",")
		for i := range options {
			options[i] = unescape(options[i])
		}
		t = append(t, mountEntry{
			id: id, dev: f[2], root: unescape(f[3]), target: unescape(f[4]), flags: f[5],
			fstype: g[0], source: unescape(g[1]), options: options,
		})
	}
	return t
}

// unescape undoes the kernel's octal escapes of space, tab, newline, backslash
// and, in options, of the comma.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// at is the topmost mount at a directory, or nil.
func (t mountTable) at(dir string) *mountEntry {
	for i := len(t) - 1; i >= 0; i-- {
		if t[i].target == dir {
			return &t[i]
		}
	}
	return nil
}

// treeType is the file system type of the tree mode in the mount table.
const treeType = "fuse.zos-tree"

// mode is how a mount of an image was made, or "".
func (m mountEntry) mode() Mode {
	switch {
	case m.fstype == treeType:
		return Tree
	case m.fstype == "erofs" && strings.HasPrefix(m.source, "/dev/loop"):
		return Loop
	case m.fstype == "erofs":
		return FuseFile
	}
	return ""
}

// images finds the mounts that belong to a run directory: the shared ones by
// image id, and every other mount with the id of the image it shows.
func (t mountTable) images(runDir string) (bases map[string]mountEntry, targets []imageMount) {
	bases = make(map[string]mountEntry)
	byDev := make(map[string]string)
	dir := filepath.Join(runDir, "img")
	for _, m := range t {
		if filepath.Dir(m.target) == dir && m.mode() != "" {
			bases[filepath.Base(m.target)] = m
			byDev[m.dev] = filepath.Base(m.target)
		}
	}
	for _, m := range t {
		if filepath.Dir(m.target) == dir {
			continue
		}
		if id, ok := byDev[m.dev]; ok {
			targets = append(targets, imageMount{m, id, bases[id], false})
			continue
		}
		if id, ok := m.lowerImage(dir); ok && m.fstype == "overlay" {
			targets = append(targets, imageMount{m, id, bases[id], true})
			continue
		}
		// A mount of a user without root has no shared mount.
		if m.fstype == treeType && strings.HasPrefix(m.source, runDir+"/") {
			targets = append(targets, imageMount{m, filepath.Base(m.source), m, false})
		}
	}
	return bases, targets
}

// imageMount is a target.
type imageMount struct {
	mountEntry
	image    string
	base     mountEntry
	writable bool
}

// lowerImage is the image below an overlay that this package made.
func (m mountEntry) lowerImage(imgDir string) (string, bool) {
	for _, o := range m.options {
		lower, ok := strings.CutPrefix(o, "lowerdir=")
		if !ok {
			lower, ok = strings.CutPrefix(o, "lowerdir+=")
		}
		for l := range strings.SplitSeq(lower, ":") {
			if ok && filepath.Dir(l) == imgDir {
				return filepath.Base(l), true
			}
		}
	}
	return "", false
}
