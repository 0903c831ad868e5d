package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/internal/fault"
	"zos.internal/workload"
)

type validateOptions struct {
	final, schema bool
	after         string
}

// validated is what is known of one file.
type validated struct {
	File      string             `json:"file"`
	Valid     bool               `json:"valid"`
	Draft     bool               `json:"draft"`
	Hash      string             `json:"hash,omitempty"` // of what would be signed; final documents only
	Workloads int                `json:"workloads"`
	Capacity  *workload.Capacity `json:"capacity,omitempty"`
	Order     [][]string         `json:"order,omitempty"`
	Changes   []workload.Change  `json:"changes,omitempty"` // with --after
	Problems  workload.Problems  `json:"problems"`
}

func (a *app) validateCommand() *cobra.Command {
	var o validateOptions
	cmd := &cobra.Command{
		Use:   "validate FILE…",
		Short: "Check deployment documents",
		Long: `Check deployment documents, JSON or YAML; - is the standard input.

All problems of a document are shown, each with its line and column, on stderr
as FILE:LINE:COLUMN; -o json puts them on stdout. A draft may leave out what is
decided when it is applied: chain, twin_id, contract_id, node_id, versions, the
root of an image, and the text of secrets. Exit code 1 if a document is wrong.`,
		Example: "  zos validate deployment.yaml\n  zos validate --after running.json next.json\n  zos validate --schema > deployment.schema.json",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, files []string) error {
			switch {
			case o.schema && len(files) > 0:
				return &usageError{cmd, errors.New("--schema takes no files")}
			case o.schema:
				_, err := a.stdout.Write(workload.Schema(mode(o.final)))
				return err
			case len(files) == 0:
				return &usageError{cmd, errors.New("name at least one file")}
			case o.after != "" && len(files) > 1:
				return &usageError{cmd, errors.New("--after compares with one file")}
			}
			return a.validate(o, files)
		},
	}
	cmd.Flags().BoolVar(&o.final, "final", false, "refuse drafts: the document must be ready to sign")
	cmd.Flags().BoolVar(&o.schema, "schema", false, "print the JSON Schema of drafts, with --final that of documents")
	cmd.Flags().StringVar(&o.after, "after", "", "`file` with the running version: show what the update changes, or why it may not")
	return cmd
}

func mode(final bool) workload.Mode {
	if final {
		return workload.Final
	}
	return workload.Draft
}

func (a *app) validate(o validateOptions, files []string) error {
	t := table{columns: []string{"file", "state", "workloads", "+hash"}}
	all, bad := []validated{}, 0
	var names []string
	for _, f := range files {
		v, doc, err := a.validateFile(o, f)
		if err != nil {
			return err
		}
		if o.after != "" && doc != nil {
			running, err := a.readRunning(o.after)
			if err != nil {
				return err
			}
			v.Changes, err = workload.Plan(running, doc)
			if v.Problems, err = problems(err); err != nil {
				return err
			}
			v.Valid = len(v.Problems) == 0
		}
		state := "ok"
		switch {
		case !v.Valid:
			state = "invalid"
			bad++
		case v.Draft:
			state = "ok, draft"
		}
		if v.Valid {
			names = append(names, f)
		}
		for _, p := range v.Problems {
			a.showProblem(f, p)
		}
		all = append(all, v)
		t.rows = append(t.rows, []string{f, state, fmt.Sprint(v.Workloads), v.Hash})
	}
	if o.after != "" && bad == 0 {
		t = changeTable(all[0].Changes)
	}
	if err := a.print(all, t, names...); err != nil {
		return err
	}
	if bad > 0 {
		return &exitError{exitFailed}
	}
	return nil
}

// showProblem writes a problem as editors and terminals understand it.
func (a *app) showProblem(file string, p workload.Problem) {
	if a.format == "json" || a.format == "yaml" {
		return
	}
	path := ""
	if p.Path != "" {
		path = p.Path + ": "
	}
	a.note("%s:%d:%d: %s%s", file, p.Line, p.Column, path, p.Message)
}

func changeTable(changes []workload.Change) table {
	t := table{columns: []string{"workload", "type", "action", "fields", "loses"}}
	for _, c := range changes {
		t.rows = append(t.rows, []string{c.Name, string(c.Type), string(c.Action), strings.Join(c.Fields, ", "), c.Loses})
	}
	return t
}

// problems takes the problems out of an error; another error is passed on.
func problems(err error) (workload.Problems, error) {
	ps := workload.Problems{}
	if err == nil || errors.As(err, &ps) {
		return ps, nil
	}
	return nil, err
}

// validateFile reads one file. A document that is complete is no draft.
func (a *app) validateFile(o validateOptions, file string) (validated, *workload.Document, error) {
	v := validated{File: file, Problems: workload.Problems{}}
	src, err := a.readText(file)
	if err != nil {
		return v, nil, err
	}
	doc, err := workload.Read(src, workload.Final)
	if err != nil && !o.final {
		v.Draft = true
		doc, err = workload.Read(src, workload.Draft)
	}
	if v.Problems, err = problems(err); err != nil || doc == nil {
		return v, nil, err
	}
	v.Valid, v.Workloads, v.Order = true, len(doc.Workloads), doc.Order()
	c := doc.Capacity()
	v.Capacity = &c
	if !v.Draft {
		v.Hash = doc.Hash().String()
	}
	return v, doc, nil
}

func (a *app) readRunning(file string) (*workload.Document, error) {
	src, err := a.readText(file)
	if err != nil {
		return nil, err
	}
	doc, err := workload.Read(src, workload.Final)
	if err != nil {
		doc, err = workload.Read(src, workload.Draft)
	}
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read %s, the running version:\n%w", file, err)
	}
	return doc, nil
}

// readText reads a file, or the standard input for -, up to what a document may
// have and a little more.
func (a *app) readText(file string) ([]byte, error) {
	r := a.stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fault.Errorf(fault.Of(err), "read document: %w", err)
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, workload.MaxBytes+1))
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read document %s: %w", file, err)
	}
	return b, nil
}
