package compute

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"zos.internal/flist/executables"
)

// BenchmarkStart compares whole lives of a container that runs /bin/true: the
// runtime alone with the same bundle, without a seal, and sealed. Read the
// ratios: the machine's load is in all of them.
func BenchmarkStart(b *testing.B) {
	needContainers(b)
	root := testRoot(b)
	for _, bm := range []struct {
		name   string
		level  Level
		userns string
		plain  bool
	}{
		{"runtime alone", Off, "off", true}, {"off", Off, "off", false}, {"files", Files, "off", false}, {"strict", Strict, "off", false},
		{"off, user namespace", Off, "on", false}, {"files, user namespace", Files, "on", false}, {"strict, user namespace", Strict, "on", false},
	} {
		b.Run(bm.name, func(b *testing.B) {
			r := runtimeFor(b)
			s := Spec{ID: testID(b), RootFS: root, UserNS: bm.userns, Sealed: bm.level, Argv: []string{"/bin/true"}, Executables: []executables.Entry{}}
			if bm.plain {
				plain(b, r, s)
				return
			}
			for b.Loop() {
				if exit, err := r.Run(b.Context(), s, Stdio{}); err != nil || exit.Code != 0 {
					b.Fatal(exit, err)
				}
			}
		})
	}
}

// plain calls the runtime as a person would, on the bundle of an unsealed
// container.
func plain(b *testing.B, r *Runtime, s Spec) {
	driver, err := program("")
	if err != nil {
		b.Fatal(err)
	}
	n, err := s.normal()
	if err != nil {
		b.Fatal(err)
	}
	conf, err := config(n, identity{}, mountPlan{scratch: scratch})
	if err != nil {
		b.Fatal(err)
	}
	conf.Root.Path = s.RootFS
	bundle := b.TempDir()
	writeJSON(b, filepath.Join(bundle, "config.json"), conf)
	state := b.TempDir()
	i := 0
	err = inRoom(func() error {
		for b.Loop() {
			i++
			cmd := exec.Command(driver, "--root", state, "run", "--bundle", bundle, idPrefix()+strconv.Itoa(i))
			cmd.Stderr = os.Stderr
			if err := cmd.Run(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := removeCgroup(s.ID); err != nil {
		b.Error(err)
	}
}
