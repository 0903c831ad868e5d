// Package compose turns a compose file into a draft of a deployment.
//
// Services become containers, named volumes become volumes, networks become
// private networks. Everything that has no counterpart is listed with its
// place and the reason, nothing is dropped in silence.
//
//	result, err := compose.Convert(src, compose.Options{Name: "shop"})
//	for _, n := range result.Notes { … }
//
// A compose file is foreign text: no variable of the environment, no other file
// and no address in it is looked at. Variables come from Options.Variables,
// env_file from Options.ReadFile; files that it includes or extends are not read.
package compose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"

	"zos.internal/internal/fault"
	"zos.internal/workload"
)

// Options say what a compose file leaves open. The zero value works.
type Options struct {
	Name       string                            // of the deployment, if the file has none
	Variables  map[string]string                 // for ${VARIABLE}
	ReadFile   func(name string) ([]byte, error) // reads an env_file; nil: none can be read
	Profiles   []string                          // that are on
	CPU        uint64                            // thousandths for services without a limit; 0: 1000
	Memory     uint64                            // bytes for services without a limit; 0: 512 MiB
	VolumeSize uint64                            // bytes of each volume; 0: 10 GiB
	RootSize   uint64                            // bytes of a writable root; 0: 1 GiB
	PublicIP   bool                              // published ports get a public address
}

// Kind says what became of something in the compose file.
type Kind string

// The kinds of notes.
const (
	Dropped Kind = "dropped" // it has no counterpart
	Changed Kind = "changed" // it means something else, or has another name
	Assumed Kind = "assumed" // the file doesn't say it, a deployment must
)

// Note is one thing that a reader of the draft should know.
type Note struct {
	Kind   Kind   `json:"kind"`
	Path   string `json:"path"` // services.web.healthcheck
	Reason string `json:"reason"`
}

// String is the note in one line.
func (n Note) String() string { return fmt.Sprintf("%s %s: %s", n.Kind, n.Path, n.Reason) }

// Result is a draft with what was lost on the way.
type Result struct {
	YAML  []byte // a draft that workload.Read accepts
	Notes []Note // sorted by path
}

// Lost is how many notes say that something was dropped.
func (r *Result) Lost() int {
	n := 0
	for _, x := range r.Notes {
		if x.Kind == Dropped {
			n++
		}
	}
	return n
}

// MaxBytes is the most bytes of a compose file.
const MaxBytes = 256 << 10

// Convert reads one compose file. An error is Invalid and names what is wrong
// in the file; a draft that our own checks refuse is an error too.
func Convert(src []byte, o Options) (*Result, error) {
	if len(src) > MaxBytes {
		return nil, fault.Errorf(fault.Invalid, "the compose file is too big: at most %d bytes are read", MaxBytes)
	}
	c := &converter{options: o, names: make(map[string]string), taken: make(map[string]bool)}
	c.defaults()
	model, err := c.model(src)
	if err != nil {
		return nil, err
	}
	project, err := c.project(model)
	if err != nil {
		return nil, err
	}
	text, err := c.document(project)
	if err != nil {
		return nil, err
	}
	sort.SliceStable(c.notes, func(i, j int) bool { return c.notes[i].Path < c.notes[j].Path })
	if _, err := workload.Read(text, workload.Draft); err != nil {
		return nil, fault.Errorf(fault.Invalid, "the compose file makes no valid deployment:\n%w", err)
	}
	return &Result{YAML: text, Notes: c.notes}, nil
}

type converter struct {
	options Options
	notes   []Note
	names   map[string]string // kind and name in the compose file to our name
	taken   map[string]bool
}

func (c *converter) defaults() {
	o := &c.options
	for _, x := range []struct {
		v *uint64
		d uint64
	}{{&o.CPU, 1000}, {&o.Memory, 512 << 20}, {&o.VolumeSize, 10 << 30}, {&o.RootSize, 1 << 30}} {
		if *x.v == 0 {
			*x.v = x.d
		}
	}
	if o.ReadFile == nil {
		o.ReadFile = func(string) ([]byte, error) { return nil, errors.New("files are not read here") }
	}
}

func (c *converter) note(k Kind, path, format string, args ...any) {
	c.notes = append(c.notes, Note{k, path, fmt.Sprintf(format, args...)})
}

// model reads the YAML and takes out what would make the loader read files.
func (c *converter) model(src []byte) (map[string]any, error) {
	dec := yaml.NewDecoder(bytes.NewReader(src))
	var model map[string]any
	if err := dec.Decode(&model); err != nil {
		return nil, fault.Errorf(fault.Invalid, "not a compose file: %w", err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fault.Errorf(fault.Invalid, "the file holds a second document; convert one at a time")
	}
	if _, ok := model["include"]; ok {
		return nil, fault.Errorf(fault.Invalid, "include: other files are not read; put everything into one file, for example with docker compose config")
	}
	delete(model, "version")
	services, _ := model["services"].(map[string]any)
	if len(services) == 0 {
		return nil, fault.Errorf(fault.Invalid, "not a compose file: it has no services")
	}
	for name, s := range services {
		service, _ := s.(map[string]any)
		if ext, ok := service["extends"].(map[string]any); ok && ext["file"] != nil {
			return nil, fault.Errorf(fault.Invalid, "services.%s.extends: other files are not read; put everything into one file, for example with docker compose config", name)
		}
		if _, ok := service["label_file"]; ok {
			c.note(Dropped, "services."+name+".label_file", "labels have no counterpart")
			delete(service, "label_file")
		}
	}
	missing := make(map[string]bool)
	c.unset(model, missing)
	for _, name := range sorted(missing) {
		c.note(Assumed, "${"+name+"}", "the variable is not set; it is empty. Set it with --env %s=… or --env-file", name)
	}
	return model, nil
}

// unset collects variables that have no value and no default.
func (c *converter) unset(v any, missing map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			c.unset(x, missing)
		}
	case []any:
		for _, x := range v {
			c.unset(x, missing)
		}
	case string:
		for name, x := range template.ExtractVariables(map[string]any{"": v}, template.DefaultPattern) {
			if _, ok := c.options.Variables[name]; !ok && x.DefaultValue == "" && x.PresenceValue == "" && !x.Required && name != "COMPOSE_PROJECT_NAME" {
				missing[name] = true
			}
		}
	}
}

// project lets compose-go fill in variables and check the file against its
// schema, without a file, a variable or a name from outside.
func (c *converter) project(model map[string]any) (p *types.Project, err error) {
	defer func() {
		if x := recover(); x != nil { // a bug of the library is bad input to us
			p, err = nil, fault.Errorf(fault.Invalid, "not a compose file: %v", x)
		}
	}()
	name := loader.NormalizeProjectName(c.options.Name)
	if s, ok := model["name"].(string); ok && loader.NormalizeProjectName(s) == s && s != "" {
		name = s
	}
	if name == "" {
		name = "app"
	}
	variables := types.Mapping{}
	for k, v := range c.options.Variables {
		variables[k] = v
	}
	details := types.ConfigDetails{WorkingDir: "/", Environment: variables, ConfigFiles: []types.ConfigFile{{Filename: "compose.yaml", Config: model}}}
	p, err = loader.LoadWithContext(context.Background(), details, func(o *loader.Options) {
		o.SetProjectName(name, true)
		o.SkipInclude, o.SkipResolveEnvironment, o.ResolvePaths = true, true, false
		o.Profiles = c.options.Profiles
		o.Interpolate.Substitute = func(s string, m template.Mapping) (string, error) {
			return template.SubstituteWithOptions(s, m, template.WithoutLogging)
		}
	})
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "not a compose file: %w", err)
	}
	return p, nil
}

// envFile reads the variables of an env_file.
func (c *converter) envFile(path string) (map[string]string, error) {
	b, err := c.options.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return dotenv.ParseWithLookup(bytes.NewReader(b), func(k string) (string, bool) {
		v, ok := c.options.Variables[k]
		return v, ok
	})
}

// name is our name for something in the compose file.
func (c *converter) name(kind, from string) string {
	if n, ok := c.names[kind+" "+from]; ok {
		return n
	}
	var b strings.Builder
	for _, r := range strings.ToLower(from) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else {
			b.WriteByte('-')
		}
	}
	base := strings.Trim(b.String(), "-")
	if base == "" {
		base = kind
	}
	space := "workload "
	if kind == "network" {
		space = "network "
	}
	n := cut(base, 36)
	for i := 2; c.taken[space+n]; i++ {
		suffix := fmt.Sprintf("-%d", i)
		if i == 2 && kind != "service" && kind != "network" {
			suffix = "-" + kind
		}
		n = cut(base, 36-len(suffix)) + suffix
	}
	c.taken[space+n] = true
	c.names[kind+" "+from] = n
	return n
}

func cut(s string, n int) string {
	return strings.Trim(s[:min(len(s), n)], "-")
}
