package scenario

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The agreement: once, killed while the chain runs and again, and twice in a row.
func TestAgreementKilled(t *testing.T) {
	m := newMachine(t)
	program := m.path("agreement")
	cmd := exec.Command("go", "build", "-o", program, "zos.internal/examples/agreement")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	dir := m.path("job")
	start := func(args ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
		t.Helper()
		cmd := exec.Command(program, append([]string{"-dir", dir}, args...)...)
		var out, log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, &out, &log
	}
	succeed := func() string {
		t.Helper()
		cmd, out, log := start("-seconds", "1")
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
		defer stop()
		if err := cmd.Wait(); err != nil {
			t.Fatalf("the agreement: %v\n%s%s", err, out, log)
		}
		for _, p := range []string{dir, dir + ".lock"} {
			if _, err := os.Lstat(p); err == nil {
				t.Errorf("%s is left", p)
			}
		}
		return out.String()
	}
	for _, file := range []string{"chain/genesis.json", "chain/data/wal"} {
		cmd, out, log := start()
		m.await(file+" is there", func() bool {
			_, err := os.Stat(filepath.Join(dir, file))
			return err == nil || cmd.ProcessState != nil
		})
		cmd.Process.Kill()
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("it ended before it was killed: %v\n%s%s", err, out, log)
		}
		succeed()
	}
	out := succeed()
	for _, line := range []string{
		`group +shop, party 6: 3 members, weight 2 must agree to deploy`,
		`contract 6/1 +proposed by ana, executed by ana and ben, block [0-9]+`,
		`contract 6/2 +name "shop", signed off-chain by ana and cho, one transaction, block [0-9]+`,
		`active +reported by node 7; cru 4.000 \+ mru 1.000 \+ sru 1.000 = 6.000 credits an hour`,
		`topped up +by ben from his own pocket, as anyone may: 2.5 credits`,
		`billed +[0-9]+ s x 6.000 credits an hour = 0.00[0-9]+ credits`,
		`paid +0.00[0-9]+ credits to the farmer, 0.000[0-9]+ credits \(5 %\) to who governs`,
		`cancelled +closed \(owner\) by cho and ben; deposit and top-up 87.5 credits - paid 0.0[0-9]+ credits = refund 87.4[0-9]+ credits`,
		`money +supply 1000 credits = balances 999 credits \+ contracts 1 credit`,
		`verified +1[0-9] records by a light client`,
	} {
		if !regexp.MustCompile("(?m)^" + line).MatchString(out) {
			t.Errorf("the table has no line %q:\n%s", line, out)
		}
	}
	if n := strings.Count(out, "\nbilled "); n != 2 {
		t.Errorf("%d settlements, want 2 (at the top-up and at the end):\n%s", n, out)
	}
}
