package oci

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"zos.internal/flist/convert"
	"zos.internal/flist/convert/internal/treetest"
	"zos.internal/flist/tree"
)

// The registry that Debian ships stores and serves what we push, in every
// compression.
func TestDockerRegistry(t *testing.T) {
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("no docker-registry program; install Debian's docker-registry")
	}
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	host := l.Addr().String()
	must(t, l.Close())
	dir := t.TempDir()
	cfg := fmt.Sprintf("version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n", filepath.Join(dir, "data"), host)
	must(t, os.WriteFile(filepath.Join(dir, "config.yml"), []byte(cfg), 0o644))
	cmd := exec.CommandContext(t.Context(), program, "serve", filepath.Join(dir, "config.yml"))
	logs, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(logs)
	ready := false
	for !ready && lines.Scan() {
		ready = strings.Contains(lines.Text(), "listening on")
	}
	go func() { // until the process ends
		for lines.Scan() {
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if !ready {
		t.Skip("the docker-registry program does not start here")
	}
	root := tree.NewDir(0o755)
	big := strings.Repeat("some content ", 100_000)
	must(t, root.Insert("a/b", &tree.Node{Mode: tree.Regular | 0o644, Size: int64(len(big)), Content: tree.Bytes(big)}))
	must(t, root.Insert("a/\xff", &tree.Node{Mode: tree.Symlink | 0o777, Target: "b"}))
	for _, compression := range []string{"zstd", "gzip", "none"} {
		layout := filepath.Join(dir, compression)
		written, err := Write(t.Context(), layout, root, fullConfig(), WriteOptions{Compression: compression})
		must(t, err)
		ref := host + "/test/" + compression + ":1"
		_, err = Push(t.Context(), layout, ref, convert.Options{})
		must(t, err)
		res, err := pull(t, ref, convert.Options{})
		must(t, err)
		if d := treetest.Diff(root, res.Root); d != "" || res.Source != "oci:"+written.Manifest {
			t.Errorf("%s: source %s\n%s", compression, res.Source, d)
		}
	}
}
