package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
	"zos.internal/internal/progress"
)

// Exit codes beside those that internal/fault maps kinds to.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitPartly      = 7
	exitInterrupted = 130
)

// app is what every command shares: where it reads and writes, and its options.
type app struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
	clock          clock.Clock

	format   string // -o
	progress string // --progress
	verbose  bool
	store    string   // --store
	hubs     []string // --hub
	keyFile  string   // --key
	passFile string   // --passphrase-file
	tenant   string   // --tenant-key
	conf     *configFile

	remembered remembered // what hubs sent
}

// usageError is a wrong invocation: exit code 2 and the usage line.
type usageError struct {
	cmd *cobra.Command
	err error
}

func (e *usageError) Error() string { return e.err.Error() }

// exitError ends the program with a code after the message was shown.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit %d", e.code) }

// run is the whole program. It returns the exit code.
func run(ctx context.Context, getenv func(string) string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr, clock: clock.System{}}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	return a.exit(ctx, cmd, err)
}

func (a *app) exit(ctx context.Context, cmd *cobra.Command, err error) int {
	var usage *usageError
	var code *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return code.code
	case errors.As(err, &usage):
		fmt.Fprintf(a.stderr, "error: %v\nusage: %s\n", usage.err, usage.cmd.UseLine())
		return exitUsage
	case ctx.Err() != nil:
		fmt.Fprintln(a.stderr, "interrupted")
		return exitInterrupted
	case strings.HasPrefix(err.Error(), "unknown command"), strings.HasPrefix(err.Error(), "unknown flag"):
		fmt.Fprintf(a.stderr, "error: %v\nusage: %s\n", err, cmd.UseLine())
		return exitUsage
	}
	fmt.Fprintf(a.stderr, "error: %v\n", err)
	return fault.Of(err).ExitCode()
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "zos",
		Short:         "Build, serve, mount and run images that arrive when they are touched",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          group,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{cmd, err} })
	f := root.PersistentFlags()
	f.StringVarP(&a.format, "output", "o", "table", "output `format`: table, wide, json, yaml or name")
	f.StringVar(&a.progress, "progress", "auto", "how to show progress on stderr: auto, bar, json or none")
	f.BoolVar(new(bool), "json", false, "short for -o json --progress json")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "log what happens to stderr")
	f.StringVar(&a.store, "store", "", "`directory` of local images (default $ZOS_DATA/images)")
	f.StringArrayVar(&a.hubs, "hub", nil, "`URL` of a hub or mirror; repeat for several (default $ZOS_HUB)")
	f.StringVar(&a.keyFile, "key", "", "`name` or file of the key that signs (default $ZOS_KEY)")
	f.StringVar(&a.passFile, "passphrase-file", "", "`file` with the passphrase of the key (default $ZOS_PASSPHRASE_FILE)")
	f.StringVar(&a.tenant, "tenant-key", "", "`file` with the secret of private images (default $ZOS_TENANT_KEY)")
	root.PersistentPreRunE = a.prepare
	root.AddCommand(
		a.versionCommand(), a.doctorCommand(), a.environmentTopic(), a.keyCommand(),
		a.flistCommand(), a.flCommand(), a.hubCommand(), a.runCommand(), a.psCommand(), a.stopCommand(), a.logsCommand(), a.auditCommand(), a.guardCommand(), a.rmCommand(), a.cleanCommand(),
		a.initCommand(), a.validateCommand(), a.composeCommand(),
		a.chainCommand(),
	)
	root.AddCommand(a.gridCommands()...)
	return root
}

// group is the action of a command that only holds others.
func group(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{cmd, fmt.Errorf("unknown command %q; see %s --help", args[0], cmd.CommandPath())}
	}
	return cmd.Help()
}

// args makes a wrong number of arguments a usage error.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return &usageError{cmd, fmt.Errorf("wrong number of arguments (%d)", len(args))}
		}
		return nil
	}
}

func (a *app) prepare(cmd *cobra.Command, _ []string) error {
	if j := cmd.Flags().Lookup("json"); j != nil && j.Changed && j.Value.String() == "true" {
		a.format, a.progress = "json", "json"
	}
	switch a.format {
	case "table", "wide", "json", "yaml", "name":
	default:
		return &usageError{cmd, fmt.Errorf("unknown output format %q; use table, wide, json, yaml or name", a.format)}
	}
	switch a.progress {
	case "auto", "bar", "json", "none":
	default:
		return &usageError{cmd, fmt.Errorf("unknown progress %q; use auto, bar, json or none", a.progress)}
	}
	var err error
	a.conf, err = a.readConfig()
	return err
}

func (a *app) logger() *slog.Logger {
	level := slog.LevelWarn
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
}

// reporter shows the progress of one command on stderr.
func (a *app) reporter() *progress.Reporter {
	mode := progress.None
	switch a.progress {
	case "bar":
		mode = progress.Bar
	case "json":
		mode = progress.JSON
	case "auto":
		if isTerminal(a.stderr) {
			mode = progress.Bar
		}
	}
	return progress.New(a.stderr, mode, a.clock)
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// note tells the user something beside the data, on stderr.
func (a *app) note(format string, args ...any) { fmt.Fprintf(a.stderr, format+"\n", args...) }
