package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/spf13/cobra"

	"zos.internal/internal/fault"
	"zos.internal/workload"
	"zos.internal/workload/compose"
)

type composeOptions struct {
	strict, publicIP         bool
	env, envFiles, profiles  []string
	name, memory, cpu        string
	volumeSize, rootSizeText string
}

func (a *app) composeCommand() *cobra.Command {
	var o composeOptions
	cmd := &cobra.Command{Use: "compose", Short: "Work with compose files", Args: cobra.ArbitraryArgs, RunE: group}
	convert := &cobra.Command{
		Use:   "convert FILE",
		Short: "Turn a compose file into a deployment",
		Long: `Turn a compose file into a draft of a deployment, on stdout; - reads the
standard input. What could not be carried over, what means something else and
what had to be assumed is listed on stderr, and with -o json beside the document.

Variables of the shell are not looked at: name them with --env or --env-file.
env_file is read if it lies in the directory of the compose file or below.
Files that it includes or extends are not read, and nothing is fetched.`,
		Example: "  zos compose convert compose.yaml > deployment.yaml\n  zos compose convert --strict --env-file .env compose.yaml",
		Args:    args(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.composeConvert(o, args[0])
		},
	}
	f := convert.Flags()
	f.BoolVar(&o.strict, "strict", false, "fail if anything could not be carried over")
	f.BoolVar(&o.publicIP, "public-ip", false, "give services with published ports a public IPv4 address (it costs money)")
	f.StringArrayVar(&o.env, "env", nil, "`NAME=VALUE` of a variable in the file; repeat for several")
	f.StringArrayVar(&o.envFiles, "env-file", nil, "`file` with variables, NAME=VALUE on each line")
	f.StringArrayVar(&o.profiles, "profile", nil, "`name` of a profile to turn on")
	f.StringVar(&o.name, "name", "", "`name` of the deployment (default: that of the file or of its directory)")
	f.StringVar(&o.cpu, "cpu", "1", "`processors` for services without a limit")
	f.StringVar(&o.memory, "memory", "512 MiB", "`size` of memory for services without a limit")
	f.StringVar(&o.volumeSize, "volume-size", "10 GiB", "`size` of each volume")
	f.StringVar(&o.rootSizeText, "root-size", "1 GiB", "`size` of a writable root")
	cmd.AddCommand(convert)
	return cmd
}

func (a *app) composeConvert(o composeOptions, file string) error {
	dir := "."
	src, err := a.readText(file)
	if err != nil {
		return err
	}
	if file != "-" {
		dir = filepath.Dir(file)
	}
	opts, err := o.options(dir)
	if err != nil {
		return err
	}
	r, err := compose.Convert(src, opts)
	if err != nil {
		return fmt.Errorf("convert %s: %w", file, err)
	}
	if err := a.printConverted(r); err != nil {
		return err
	}
	if n := r.Lost(); o.strict && n > 0 {
		return fault.Errorf(fault.Unsupported, "convert %s: %d things could not be carried over; change them or leave --strict out", file, n)
	}
	return nil
}

func (a *app) printConverted(r *compose.Result) error {
	if a.format == "json" || a.format == "yaml" {
		doc, err := workload.FromYAML(r.YAML)
		if err != nil {
			return err
		}
		notes := r.Notes
		if notes == nil {
			notes = []compose.Note{}
		}
		return a.print(map[string]any{"document": json.RawMessage(doc), "yaml": string(r.YAML), "notes": notes}, table{})
	}
	for _, n := range r.Notes {
		a.note("%v", n)
	}
	_, err := a.stdout.Write(r.YAML)
	return err
}

func (o composeOptions) options(dir string) (compose.Options, error) {
	c := compose.Options{Name: o.name, PublicIP: o.publicIP, Profiles: o.profiles, Variables: make(map[string]string)}
	if c.Name == "" {
		if abs, err := filepath.Abs(dir); err == nil {
			c.Name = filepath.Base(abs)
		}
	}
	var err error
	if c.CPU, err = workload.ParseCPU(o.cpu); err != nil {
		return c, fmt.Errorf("--cpu: %w", err)
	}
	for _, x := range []struct {
		flag, text string
		to         *uint64
	}{{"memory", o.memory, &c.Memory}, {"volume-size", o.volumeSize, &c.VolumeSize}, {"root-size", o.rootSizeText, &c.RootSize}} {
		if *x.to, err = workload.ParseSize(x.text); err != nil {
			return c, fmt.Errorf("--%s: %w", x.flag, err)
		}
	}
	for _, f := range o.envFiles {
		b, err := readBelow(filepath.Dir(f), filepath.Base(f))
		if err != nil {
			return c, fault.Errorf(fault.Of(err), "read variables: %w", err)
		}
		vars, err := dotenv.UnmarshalBytesWithLookup(b, func(string) (string, bool) { return "", false })
		if err != nil {
			return c, fault.Errorf(fault.Invalid, "read variables from %s: %w", f, err)
		}
		for k, v := range vars {
			c.Variables[k] = v
		}
	}
	for _, e := range o.env {
		k, v, ok := strings.Cut(e, "=")
		if !ok || k == "" {
			return c, fault.Errorf(fault.Invalid, "--env %q: write NAME=VALUE", e)
		}
		c.Variables[k] = v
	}
	c.ReadFile = func(name string) ([]byte, error) {
		if filepath.IsAbs(name) {
			return nil, errors.New("only files beside the compose file are read")
		}
		return readBelow(dir, name)
	}
	return c, nil
}

// readBelow reads a small file inside dir; links that lead out are not followed.
func readBelow(dir, name string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(filepath.Clean(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, workload.MaxBytes+1))
	if err == nil && len(b) > workload.MaxBytes {
		err = fmt.Errorf("%s has more than %d bytes", name, workload.MaxBytes)
	}
	return b, err
}
