// Command bench measures the promises about speed and size.
//
// Each benchmark runs a peer and us in one process tree, interleaved, several
// rounds, and prints the ratio with its spread; absolute figures depend on the
// machine and are not promises. It works on a real tree: Go's source and module
// cache, Debian's programs and data. It needs root, and leaves nothing behind.
//
//	go run ./test/bench -list
//	go run ./test/bench -run warm -rounds 5
//	go run ./test/bench -run cold -lines random -rounds 5 -keep
//	go run ./test/bench -markdown docs/explanation/performance.md
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"text/tabwriter"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// benchmark is one group of measurements that share their setup.
type benchmark struct {
	name string
	what string
	run  func(ctx context.Context, b *bench) error
}

func benchmarks() []benchmark {
	return []benchmark{
		{"warm", "mounted image, everything in memory, to native ext4 on the same tree", warm},
		{"cold", "mounted image, chunks in the cache but not in memory and not verified, to native ext4 with caches dropped", cold},
		{"start", "first start from a hub over two lines, to pull and unpack of the same root", start},
		{"memory", "page cache after a read of 1 GiB; memory of the data server with 100 images", memory},
		{"compute", "lives of a container to plain crun and runc on the same bundle; fork and exec under the seal and the guard", computing},
		{"agreement", "the check of a deployment document, to the standard library alone; the chain: time to a block, transactions, idle cost, proofs", agreement},
		{"upgrade", "bytes that an upgrade moves and that two versions store, to fixed blocks and whole files", upgrade},
		{"metadata", "size of the metadata for each entry of the tree, as moved", metadata},
		{"ingest", "content on its way into a pack (cut, name, encode, pack), to zstd alone; what a pack adds", ingest},
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	list := flags.Bool("list", false, "name the benchmarks and end")
	match := flags.String("run", ".", "run those that match this `expression`")
	lines := flags.String("lines", "", "of mounts, measure only the lines of the table that match this `expression`")
	rounds := flags.Int("rounds", 5, "interleaved rounds of each measurement")
	dir := flags.String("dir", "/var/tmp/zos-bench", "`directory` for everything, on ext4; removed at the end")
	zos := flags.String("zos", "bin/zos", "the zos program")
	markdown := flags.String("markdown", "", "write the results as a table into this `file`, between its markers")
	keep := flags.Bool("keep", false, "keep the trees and stores for the next run")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *list {
		for _, b := range benchmarks() {
			fmt.Fprintf(stdout, "%-8s %s\n", b.name, b.what)
		}
		return 0
	}
	re, err := regexp.Compile(*match)
	if err != nil {
		fmt.Fprintln(stderr, "error:", err)
		return 2
	}
	only, err := regexp.Compile(*lines)
	if err != nil {
		fmt.Fprintln(stderr, "error:", err)
		return 2
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(stderr, "error: mounts and dropped caches need root")
		return 4
	}
	b := &bench{dir: *dir, rounds: *rounds, lines: only, stderr: stderr}
	if b.zos, err = filepath.Abs(*zos); err == nil {
		err = b.all(ctx, re)
	}
	if !*keep {
		err = errors.Join(err, os.RemoveAll(b.dir))
	}
	b.print(stdout)
	if err == nil && *markdown != "" {
		err = b.markdown(*markdown)
	}
	if err != nil {
		fmt.Fprintln(stderr, "error:", err)
		return 1
	}
	return 0
}

func (b *bench) all(ctx context.Context, re *regexp.Regexp) error {
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	for _, x := range benchmarks() {
		if !re.MatchString(x.name) {
			continue
		}
		b.group = x.name
		b.say("%s: %s", x.name, x.what)
		if err := x.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
	}
	return nil
}

func (b *bench) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BENCHMARK\tPEER\tOURS\tPEER'S\tRATIO\tSPREAD\tMUST\t")
	for _, r := range b.results {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.name, r.peer, r.ours, r.theirs, r.ratio, r.spread, r.must, r.verdict())
	}
	t.Flush()
}

const (
	beginMark = "<!-- begin bench -->"
	endMark   = "<!-- end bench -->"
)

// markdown replaces the table between the markers of a file.
func (b *bench) markdown(path string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no markers %s and %s", path, beginMark, endMark)
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%s%s\n%s\n\n", before, beginMark, machine())
	s.WriteString("| benchmark | peer | ours | peer's | ratio | spread | must | |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, r := range b.results {
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", r.name, r.peer, r.ours, r.theirs, r.ratio, r.spread, r.must, r.verdict())
	}
	s.WriteString(endMark + after)
	return os.WriteFile(path, []byte(s.String()), 0o644)
}
