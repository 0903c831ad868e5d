package compose

import (
	"bytes"
	"fmt"

	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"

	"zos.internal/internal/fault"
	"zos.internal/workload"
)

// fields is a YAML mapping in the order in which it was made.
type fields []field

type field struct {
	key   string
	value any
}

// add sets a key, unless the value is empty.
func (f *fields) add(key string, value any) {
	switch v := value.(type) {
	case fields:
		if len(v) == 0 {
			return
		}
	case []fields:
		if len(v) == 0 {
			return
		}
	}
	*f = append(*f, field{key, value})
}

type (
	size   uint64 // written with a unit
	number string // written as it is
	quoted string // always in quotes
)

// node is v as YAML.
func node(v any) *yaml.Node {
	switch v := v.(type) {
	case fields:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, f := range v {
			n.Content = append(n.Content, text(f.key, 0), node(f.value))
		}
		return n
	case []fields:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, f := range v {
			n.Content = append(n.Content, node(f))
		}
		return n
	case []string:
		n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, s := range v {
			n.Content = append(n.Content, text(s, yaml.DoubleQuotedStyle))
		}
		return n
	case size:
		return text(workload.Size(v).String(), 0)
	case number:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: string(v)}
	case quoted:
		return text(string(v), yaml.DoubleQuotedStyle)
	case string:
		return text(v, 0)
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v)}
}

// text is s, in quotes when a reader of YAML could take it for something else.
func text(s string, style yaml.Style) *yaml.Node {
	if b, err := workload.FromYAML([]byte("a: " + s)); err != nil || string(b) != `{"a":"`+s+`"}` {
		style = yaml.DoubleQuotedStyle
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Style: style}
}

// draft is the document in the making.
type draft struct {
	workloads []fields
	volumes   map[string]bool
}

func (d *draft) workload(name, kind string, data fields) {
	f := fields{}
	f.add("name", name)
	f.add("type", kind)
	f.add("data", data)
	d.workloads = append(d.workloads, f)
}

// document writes the whole draft.
func (c *converter) document(p *types.Project) ([]byte, error) {
	out := &draft{volumes: make(map[string]bool)}
	names := p.ServiceNames()
	for _, name := range names { // services keep their names when a volume has the same
		c.name("service", name)
	}
	for _, name := range names {
		if err := c.service(out, p.Services[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range sorted(p.DisabledServices) {
		c.note(Dropped, "services."+name, "its profile is off; turn it on with --profile")
	}
	if len(out.workloads) == 0 {
		return nil, fault.Errorf(fault.Invalid, "no service is left to convert")
	}
	doc := fields{}
	doc.add("format", workload.Format)
	doc.add("description", quoted(p.Name))
	doc.add("networks", c.networks(p))
	doc.add("workloads", out.workloads)
	c.top(p, out)
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made from a compose file by zos compose convert. Check it with: zos validate FILE\n")
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(node(doc)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// networks are the networks that services use.
func (c *converter) networks(p *types.Project) []fields {
	var out []fields
	for _, key := range sorted(p.Networks) {
		used := false
		for _, s := range p.Services {
			_, in := s.Networks[key]
			used = used || in && s.NetworkMode == ""
		}
		at := "networks." + key
		if !used {
			c.note(Dropped, at, "no service uses it")
			continue
		}
		name := c.name("network", key)
		f := fields{}
		f.add("name", name)
		out = append(out, f)
		c.note(Changed, at, "a private network: services are NAME.%s.zos there, not NAME; it needs a network contract, and has no internet without egress", name)
		n := p.Networks[key]
		if n.Driver != "" || len(n.DriverOpts) > 0 {
			c.note(Dropped, at+".driver", "private networks are WireGuard")
		}
		if n.Ipam.Driver != "" || len(n.Ipam.Config) > 0 {
			c.note(Dropped, at+".ipam", "the range is range4 of the network contract, a /16 inside 10.0.0.0/8")
		}
		if n.External {
			c.note(Changed, at+".external", "name the contract of that network in contract_id")
		}
	}
	return out
}

// top notes what stands beside services.
func (c *converter) top(p *types.Project, out *draft) {
	for _, key := range sorted(p.Volumes) {
		v, at := p.Volumes[key], "volumes."+key
		if !out.volumes[c.name("volume", key)] {
			c.note(Dropped, at, "no service uses it")
			continue
		}
		if v.External {
			c.note(Changed, at+".external", "a new, empty volume: copy the data into it")
		}
		if v.Driver != "" || len(v.DriverOpts) > 0 {
			c.note(Dropped, at+".driver", "volumes are directories of the node")
		}
	}
	for _, key := range sorted(p.Secrets) {
		c.note(Dropped, "secrets."+key, "secrets are variables of a container, sealed to the node: secrets: NAME: {file: …}")
	}
	for _, key := range sorted(p.Configs) {
		c.note(Dropped, "configs."+key, "nothing mounts single files; put the file into the image or a volume")
	}
	for _, key := range sorted(p.Models) {
		c.note(Dropped, "models."+key, "there is no counterpart")
	}
}
