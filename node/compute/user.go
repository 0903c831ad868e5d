package compute

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"zos.internal/internal/fault"
)

// identity is who the main process is, in ids of the workload.
type identity struct {
	uid, gid uint32
	groups   []uint32
}

// account files longer than this are not read to their end.
const maxAccounts = 4 << 20

// lookup resolves user ("", name, uid, name:group, uid:gid) with the account
// files of the image. Links in the image can't lead out of it.
func lookup(rootfs, user string) (identity, error) {
	var id identity
	if user == "" {
		return id, nil
	}
	bad := func(format string, args ...any) (identity, error) {
		return identity{}, fault.Errorf(fault.Invalid, "find the user %.80q in the image: "+format, append([]any{user}, args...)...)
	}
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return bad("%w", err)
	}
	defer root.Close()
	name, group, hasGroup := strings.Cut(user, ":")
	number, isNumber := parseID(name)
	found := false
	err = accounts(root, "etc/passwd", 4, func(f []string) bool {
		if f[0] != name && !(isNumber && f[2] == name) {
			return false
		}
		uid, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if found = ok1 && ok2; found {
			id.uid, id.gid, name = uid, gid, f[0]
		}
		return found
	})
	if err != nil {
		return bad("%w", err)
	}
	if !found {
		if !isNumber {
			return bad("there is no such name in /etc/passwd; use a number")
		}
		id.uid = number
	}
	if hasGroup {
		gid, isNumber := parseID(group)
		found := isNumber
		if !isNumber {
			err := accounts(root, "etc/group", 3, func(f []string) bool {
				if f[0] == group {
					gid, found = parseID(f[2])
				}
				return found
			})
			if err != nil {
				return bad("%w", err)
			}
		}
		if !found {
			return bad("there is no group %.80q in /etc/group; use a number", group)
		}
		id.gid = gid
		return id, nil // an explicit group is the only one
	}
	err = accounts(root, "etc/group", 4, func(f []string) bool {
		if slices.Contains(strings.Split(f[3], ","), name) {
			if gid, ok := parseID(f[2]); ok && len(id.groups) < 64 {
				id.groups = append(id.groups, gid)
			}
		}
		return false
	})
	if err != nil {
		return bad("%w", err)
	}
	return id, nil
}

// accounts calls each for the colon-separated lines of a file that have at
// least n fields, until it returns true. A missing file has no lines.
func accounts(root *os.Root, file string, n int, each func([]string) bool) error {
	f, err := root.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return fault.Errorf(fault.Invalid, "/%s is not a regular file", file)
	}
	lines := bufio.NewScanner(io.LimitReader(f, maxAccounts))
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		if fields := strings.Split(lines.Text(), ":"); len(fields) >= n && each(fields) {
			return nil
		}
	}
	return lines.Err()
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}
