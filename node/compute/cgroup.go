package compute

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	unified    = cgroupRoot + "/unified"
)

// cgroupMode is "v2", "v1", "hybrid" (v1 with a v2 tree beside it), or "" if
// nothing is mounted.
func cgroupMode() string {
	var st unix.Statfs_t
	if unix.Statfs(cgroupRoot, &st) != nil {
		return ""
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return "v2"
	}
	if unix.Statfs(unified, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return "hybrid"
	}
	if _, err := os.Stat(filepath.Join(cgroupRoot, "memory", "cgroup.procs")); err == nil {
		return "v1"
	}
	return ""
}

// cgroupPath is the workload's cgroup in every hierarchy. It is flat, so that
// removing one never races with making another.
func cgroupPath(id string) string { return "/zos-" + id }

// cgroupDirs are the directories of the workload's cgroup that exist.
func cgroupDirs(id string) []string {
	var dirs []string
	add := func(d string) {
		if _, err := os.Stat(d); err == nil {
			dirs = append(dirs, d)
		}
	}
	add(cgroupRoot + cgroupPath(id))
	tops, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return dirs
	}
	for _, t := range tops {
		if t.IsDir() {
			add(filepath.Join(cgroupRoot, t.Name()) + cgroupPath(id))
		}
	}
	return dirs
}

// oomKilled reports whether the kernel killed a process of the workload for
// its memory limit. It must be asked before the cgroup is removed.
func oomKilled(id string) bool {
	for _, f := range []string{
		cgroupRoot + cgroupPath(id) + "/memory.events",
		cgroupRoot + "/memory" + cgroupPath(id) + "/memory.oom_control",
	} {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
			if n, ok := strings.CutPrefix(lines.Text(), "oom_kill "); ok {
				count, err := strconv.ParseUint(n, 10, 64)
				return err == nil && count > 0
			}
		}
	}
	return false
}

// removeCgroup removes what the runtime left, processes included.
func removeCgroup(id string) error {
	var errs []error
	for _, dir := range cgroupDirs(id) {
		if err := removeTree(dir); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup, inner ones first. Processes in it are killed.
func removeTree(dir string) error {
	if entries, err := os.ReadDir(dir); err == nil {
		for _, e := range entries {
			if e.IsDir() {
				if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
	}
	var err error
	for range 50 {
		if err = unix.Rmdir(dir); err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		// Killed processes leave their cgroup a moment later: wait for each.
		for _, pid := range cgroupPids(dir) {
			killAndWait(pid)
		}
	}
	return &fs.PathError{Op: "remove cgroup", Path: dir, Err: err}
}

func cgroupPids(dir string) []int {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for f := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killAndWait ends a process of a workload's cgroup and waits until it is
// gone, at most a second.
func killAndWait(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
	}
}
