// Command summary runs all tests of the module and ends with what a person
// wants to know: which failed, which were skipped and why, and the counts.
//
// It also runs the main job with -zos, as `make run` does, and counts it as a
// test. The exit status is 1 when anything failed. Output of passing tests is
// not shown.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// event is one line of go test -json.
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

type testKey struct{ pkg, test string }

type tally struct {
	passed, failed int
	skipped        map[string][]string // reason → tests
	output         map[testKey][]string
	slow           []event
	failures       []string
}

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("summary", flag.ContinueOnError)
	flags.SetOutput(stderr)
	zos := flags.String("zos", "", "program to run the main job with; empty: only tests")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	patterns := flags.Args()
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	t := &tally{skipped: make(map[string][]string), output: make(map[testKey][]string)}
	if err := t.goTest(patterns, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, "run the tests:", err)
		return 1
	}
	if *zos != "" {
		t.mainJob(*zos, stdout)
	}
	t.print(stdout)
	if t.failed > 0 {
		return 1
	}
	return 0
}

func (t *tally) goTest(patterns []string, stdout, stderr io.Writer) error {
	// One package at a time: they mount, make namespaces and start containers,
	// and a container that starts copies the mounts of the whole machine.
	// Nothing is answered from the cache of results.
	cmd := exec.Command("go", append([]string{"test", "-json", "-count=1", "-p", "1", "-timeout", "15m"}, patterns...)...)
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(stdout, lines.Text())
			continue
		}
		t.add(e, stdout)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil && t.failed == 0 {
		t.failed++
		t.failures = append(t.failures, "go test: "+err.Error())
	}
	return nil
}

var location = regexp.MustCompile(`^\s*\S+\.go:\d+: `)

func (t *tally) add(e event, stdout io.Writer) {
	k := testKey{e.Package, e.Test}
	switch e.Action {
	case "output", "build-output":
		if e.Action == "build-output" {
			k = testKey{e.ImportPath, ""}
		}
		t.output[k] = append(t.output[k], e.Output)
	case "pass":
		if e.Test != "" {
			t.passed++
			if e.Elapsed > 5 && !strings.Contains(e.Test, "/") {
				t.slow = append(t.slow, e)
			}
		} else {
			fmt.Fprintf(stdout, "ok    %-40s %6.1fs\n", short(e.Package), e.Elapsed)
		}
		delete(t.output, k)
	case "skip":
		if e.Test != "" {
			reason := "no reason given"
			for _, line := range t.output[k] {
				if s := location.ReplaceAllString(line, ""); s != line {
					reason = strings.TrimSpace(s)
				}
			}
			t.skipped[reason] = append(t.skipped[reason], short(e.Package)+"."+e.Test)
		}
		delete(t.output, k)
	case "fail":
		t.failed++
		name := short(e.Package) + " " + e.Test
		t.failures = append(t.failures, strings.TrimSpace(name))
		fmt.Fprintf(stdout, "FAIL  %s\n", name)
		for _, line := range append(t.output[testKey{e.FailedBuild, ""}], t.output[k]...) {
			fmt.Fprint(stdout, "      "+line)
		}
		delete(t.output, k)
	}
}

func short(pkg string) string {
	return cmp.Or(strings.TrimPrefix(strings.TrimPrefix(pkg, "zos.internal"), "/"), ".")
}

// mainJob runs what `make run` runs, without a terminal.
func (t *tally) mainJob(zos string, stdout io.Writer) {
	cmd := exec.Command("go", "run", "./examples/web", "-zos", zos)
	out, err := cmd.CombinedOutput()
	fmt.Fprintf(stdout, "\nmain job (make run):\n%s\n", out)
	switch {
	case err == nil:
		t.passed++
	case strings.Contains(string(out), "SKIP: "):
		_, reason, _ := strings.Cut(string(out), "SKIP: ")
		reason, _, _ = strings.Cut(reason, "\n")
		t.skipped[reason] = append(t.skipped[reason], "main job")
	default:
		t.failed++
		t.failures = append(t.failures, "main job: "+err.Error())
	}
}

func (t *tally) print(stdout io.Writer) {
	slices.SortFunc(t.slow, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	if len(t.slow) > 0 {
		fmt.Fprintln(stdout, "\nslowest tests:")
	}
	for _, e := range t.slow[:min(12, len(t.slow))] {
		fmt.Fprintf(stdout, "  %6.1fs  %s.%s\n", e.Elapsed, short(e.Package), e.Test)
	}
	skips := 0
	if len(t.skipped) > 0 {
		fmt.Fprintln(stdout, "\nskipped:")
	}
	for _, reason := range slices.Sorted(maps.Keys(t.skipped)) {
		names := t.skipped[reason]
		skips += len(names)
		fmt.Fprintf(stdout, "  %s\n      %s\n", reason, strings.Join(names, " "))
	}
	if len(t.failures) > 0 {
		fmt.Fprintln(stdout, "\nfailed:")
	}
	for _, f := range t.failures {
		fmt.Fprintln(stdout, "  "+f)
	}
	fmt.Fprintf(stdout, "\n%d passed, %d failed, %d skipped\n", t.passed, t.failed, skips)
}
