package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
	"zos.internal/workload"
)

// schemaFile is where zos init puts the schema, beside the document.
const schemaFile = ".zos/deployment.schema.json"

func (a *app) initCommand() *cobra.Command {
	kind := string(workload.TypeContainer)
	cmd := &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a deployment to start from",
		Long: `Write a commented deployment to start from, deployment.yaml unless named
otherwise, and beside it ` + schemaFile + `, so that editors complete and
check what you write. A file that exists is never overwritten.`,
		Example: "  zos init\n  zos init --type vm machine.yaml",
		Args:    args(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := "deployment.yaml"
			if len(args) == 1 {
				path = args[0]
			}
			return a.init(path, workload.Type(kind))
		},
	}
	var types []string
	for _, t := range workload.Types() {
		types = append(types, string(t))
	}
	cmd.Flags().StringVar(&kind, "type", kind, "`type` of workload: "+strings.Join(types, ", "))
	cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(types, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) init(path string, kind workload.Type) error {
	text, err := workload.Starter(kind, schemaFile)
	if err != nil {
		return err
	}
	if err := atomicfile.Create(path, []byte(text), 0o644); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fault.Errorf(fault.Conflict, "write %s: the file exists; choose another name or remove it yourself", path)
		}
		return fault.Errorf(fault.Of(err), "write %s: %w", path, err)
	}
	schema := filepath.Join(filepath.Dir(path), schemaFile)
	if err := os.MkdirAll(filepath.Dir(schema), 0o755); err != nil {
		return fault.Errorf(fault.Of(err), "write the schema for editors: %w", err)
	}
	if err := atomicfile.Write(schema, workload.Schema(workload.Draft), 0o644); err != nil {
		return fault.Errorf(fault.Of(err), "write the schema for editors: %w", err)
	}
	a.note("edit it, then run: zos validate %s", path)
	return a.print(map[string]string{"file": path, "schema": schema}, facts("file", path, "schema", schema), path)
}
