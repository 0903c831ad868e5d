package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"
)

// table is a result as people read it. Columns whose title starts with "+" are
// only shown by -o wide.
type table struct {
	columns []string
	rows    [][]string
}

// print writes a result in the format that was asked for: v as JSON or YAML, t
// as a table, names one per line.
func (a *app) print(v any, t table, names ...string) error {
	switch a.format {
	case "json":
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	case "yaml":
		b, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = a.stdout.Write(b)
		return err
	case "name":
		for _, n := range names {
			fmt.Fprintln(a.stdout, n)
		}
		return nil
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	var shown []int
	var head []string
	for i, c := range t.columns {
		title, wide := strings.CutPrefix(c, "+")
		if wide && a.format != "wide" {
			continue
		}
		shown = append(shown, i)
		head = append(head, strings.ToUpper(title))
	}
	if strings.Join(head, "") != "" {
		fmt.Fprintln(w, strings.Join(head, "\t"))
	}
	for _, r := range t.rows {
		cells := make([]string, 0, len(shown))
		for _, i := range shown {
			if i < len(r) {
				cells = append(cells, r[i])
			}
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

// facts is a two-column table without a head.
func facts(pairs ...string) table {
	t := table{columns: []string{"", ""}}
	for i := 0; i+1 < len(pairs); i += 2 {
		t.rows = append(t.rows, []string{pairs[i] + ":", pairs[i+1]})
	}
	return t
}
