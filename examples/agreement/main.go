// Command agreement is the agreement end to end, on a chain of one validator in
// this process: three people form a group in which two must agree, one proposes
// a contract and another one agrees, a second contract is made with signatures
// gathered off-chain, the node reports that it runs, seconds are billed, a
// stranger tops it up, the group cancels it, and what wasn't earned comes back.
//
// Every record that it shows was checked against the validators' signatures by a
// light client, and at the end the money of the whole chain is added up. It
// listens on loopback only, ends by itself, and removes everything, also what an
// earlier run that was killed left behind.
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
	"syscall"
	"text/tabwriter"

	"zos.internal/chain/client"
	"zos.internal/examples/workdir"
	"zos.internal/internal/clock"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("agreement", flag.ContinueOnError)
	flags.SetOutput(stderr)
	dir := flags.String("dir", "/var/tmp/zos-example-agreement", "directory for the chain; removed at the end")
	seconds := flags.Int64("seconds", 2, "how long the contract is billed before it is topped up, and again after")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *seconds < 1 || *seconds > 20 {
		fmt.Fprintf(stderr, "error: -seconds %d: 1 to 20\n", *seconds)
		return 2
	}
	j := &job{stderr: stderr, clock: clock.System{}, dir: filepath.Clean(*dir), seconds: *seconds}
	err := j.run(ctx)
	switch {
	case err == nil:
		j.table(stdout)
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "interrupted")
		return 130
	}
	fmt.Fprintln(stderr, "error:", err)
	return 1
}

// job is one run.
type job struct {
	stderr  io.Writer
	clock   clock.Clock
	dir     string
	seconds int64

	client  *client.Client
	light   *client.Light
	checked int // records that the light client verified
	rows    [][2]string
}

func (j *job) say(format string, args ...any) { fmt.Fprintf(j.stderr, format+"\n", args...) }

// row adds a line to the table.
func (j *job) row(what, format string, args ...any) {
	j.rows = append(j.rows, [2]string{what, fmt.Sprintf(format, args...)})
}

func (j *job) table(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range j.rows {
		fmt.Fprintf(w, "%s\t%s\n", r[0], r[1])
	}
	w.Flush()
}

func (j *job) run(ctx context.Context) (err error) {
	unlock, err := workdir.Claim(j.dir, func() error {
		j.say("cleaning what an earlier run left in %s", j.dir)
		return os.RemoveAll(j.dir)
	})
	if err != nil {
		return err
	}
	defer unlock()
	defer func() { err = errors.Join(err, os.RemoveAll(j.dir)) }()
	j.say("1/5 starting a chain with one validator")
	stop, founder, err := j.startChain(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return j.story(ctx, founder)
}
