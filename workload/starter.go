package workload

import (
	"embed"
	"strings"

	"zos.internal/internal/fault"
)

//go:embed starters/*.yaml
var starters embed.FS

// Starter is a commented draft with a workload of type t, to write into a new
// file. schema is the place of the JSON Schema for editors, relative to that
// file; empty for none.
func Starter(t Type, schema string) (string, error) {
	name := t
	switch t { // a disk or volume needs a machine to be of use
	case TypeZMount:
		name = TypeVM
	case TypeVolume:
		name = TypeContainer
	}
	b, err := starters.ReadFile("starters/" + string(name) + ".yaml")
	if err != nil {
		return "", unknownType(t)
	}
	if schema == "" {
		return string(b), nil
	}
	return "# yaml-language-server: $schema=" + schema + "\n" + string(b), nil
}

func unknownType(t Type) error {
	var names []string
	for _, k := range Types() {
		names = append(names, string(k))
	}
	hint := ""
	if k := nearest(string(t), names); k != "" {
		hint = "did you mean " + k + "? "
	}
	return fault.Errorf(fault.Invalid, "there is no type %s of workloads; %sthere are %s", short(string(t)), hint, strings.Join(names, ", "))
}
