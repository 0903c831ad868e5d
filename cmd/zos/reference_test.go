package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"zos.internal/internal/clock"
)

var update = flag.Bool("update", false, "write golden files")

// docs/reference/cli.md is made from the commands themselves.
func TestReferenceIsCurrent(t *testing.T) {
	a := &app{getenv: func(string) string { return "" }, clock: clock.System{}}
	root := a.root()
	root.InitDefaultCompletionCmd()
	var b strings.Builder
	b.WriteString(`# Commands of zos

Made from the program by ` + "`go test ./cmd/zos -run Reference -update`" + `.

Data goes to stdout, everything else to stderr. Exit codes: 0 ok, 1 failed,
2 usage, 3 not found, 4 denied, 5 conflict, 6 unavailable or timed out, 7 partly
done, 130 interrupted; ` + "`zos run`" + ` passes on the code of the program that it ran.

## Flags of every command

`)
	fmt.Fprintf(&b, "```\n%s```\n", root.PersistentFlags().FlagUsages())
	fmt.Fprintf(&b, "\n## Flags of commands about the agreement\n\n`zos twin`, `credit`, `farm`, `node`, `contract`, `group`, `proposal`, `support`,\n`publisher`, `release`, `govern` and `tx` take these too:\n\n```\n%s```\n", a.gridCommands()[0].PersistentFlags().FlagUsages())
	reference(&b, root)
	const path = "../../docs/reference/cli.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), b.String()); diff != "" {
		t.Errorf("%s is not what the commands say (-file +commands); run with -update:\n%s", path, diff)
	}
}

func reference(b *strings.Builder, cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.Hidden || c.Name() == "help" {
			continue
		}
		if c.HasSubCommands() && c.Name() != "completion" {
			reference(b, c)
			continue
		}
		fmt.Fprintf(b, "\n## %s\n\n", c.CommandPath())
		if !c.Runnable() {
			fmt.Fprintf(b, "```\n%s\n```\n", c.Long)
			continue
		}
		text := c.Long
		if text == "" || c.Name() == "completion" {
			text = c.Short + "."
		}
		fmt.Fprintf(b, "%s\n\n```\n%s\n", strings.TrimSpace(text), c.UseLine())
		if c.Example != "" {
			fmt.Fprintf(b, "\n%s\n", c.Example)
		}
		if f := c.LocalNonPersistentFlags().FlagUsages(); f != "" {
			fmt.Fprintf(b, "\n%s", f)
		}
		b.WriteString("```\n")
	}
}
