// Package tutorial runs the tutorials as a reader would.
package tutorial

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// block is a fenced block of the page.
type block struct{ lang, text string }

func blocks(t *testing.T, page string) []block {
	t.Helper()
	fence := regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")
	var out []block
	for _, m := range fence.FindAllStringSubmatch(page, -1) {
		out = append(out, block{m[1], m[2]})
	}
	return out
}

func TestTutorial(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts and containers need root")
	}
	follow(t, "../../docs/tutorial.md", "bash", "curl", "crun")
}

func TestAgreementTutorial(t *testing.T) {
	follow(t, "../../docs/tutorial-agreement.md", "bash", "curl")
}

// follow runs the commands of a page in order, and looks for what it says that
// they show.
func follow(t *testing.T, path string, programs ...string) {
	for _, need := range programs {
		if _, err := exec.LookPath(need); err != nil {
			t.Skipf("%s is not installed", need)
		}
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bs := blocks(t, string(page))
	var script strings.Builder
	// Whatever happens, leave nothing: this runs also when a command fails.
	script.WriteString(`set -eu
trap 'code=$?; set +e; [ -n "${hub:-}" ] && kill $hub 2>/dev/null; [ -n "${chain:-}" ] && kill $chain 2>/dev/null; [ -n "${work:-}" ] && [ -d "$work" ] && { zos stop web; zos flist unmount $work/mnt; zos clean; rm -rf $work; } >/dev/null 2>&1; exit $code' EXIT
`)
	steps := 0
	for _, b := range bs {
		if b.lang == "sh" {
			fmt.Fprintf(&script, "echo '@@ step %d'\n%s", steps, b.text)
			steps++
		}
	}
	if steps < 8 {
		t.Fatalf("only %d blocks of commands were found", steps)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "ZOS_HUB=", "ZOS_CHAIN=", "ZOS_KEY=", "ZOS_CONFIG=/dev/null", "TMPDIR="+t.TempDir())
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("the tutorial failed: %v\n%s", err, out.Bytes())
	}
	shown := strings.Split(out.String(), "@@ step ")[1:]
	step := -1
	for _, b := range bs {
		switch b.lang {
		case "sh":
			step++
		case "text":
			for line := range strings.Lines(b.text) {
				if !appears(strings.TrimSpace(line), shown[step]) {
					t.Errorf("step %d doesn't show %q:\n%s", step, line, shown[step])
				}
			}
		}
	}
}

// appears reports whether the output has the line, where … and blanks stand
// for anything.
func appears(line, output string) bool {
	parts := strings.FieldsFunc(line, func(r rune) bool { return r == '…' || r == ' ' })
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(strings.Join(parts, `\s*.*`)).MatchString(output)
}
