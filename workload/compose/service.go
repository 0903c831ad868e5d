package compose

import (
	"encoding/json"
	"fmt"
	"math"
	"path"
	"regexp"
	"sort"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/types"

	"zos.internal/internal/fault"
	"zos.internal/workload"
)

// copies is how many workloads one service may become.
const copies = 16

// service adds the container of a service, its address and its volumes.
func (c *converter) service(out *draft, s types.ServiceConfig) error {
	at := "services." + s.Name
	n := s.GetScale()
	if n < 1 {
		c.note(Dropped, at, "it has 0 copies")
		return nil
	}
	if n > copies {
		return fault.Errorf(fault.Invalid, "%s: %d copies are too many for one node; at most %d", at, n, copies)
	}
	data := fields{}
	data.add("flist", c.image(at, s))
	if argv := c.argv(at, s); argv != nil {
		data.add("entrypoint", argv)
	}
	data.add("compute_capacity", c.capacity(at, s))
	if !s.ReadOnly {
		data.add("sealed", "off")
		data.add("size", size(c.options.RootSize))
		c.note(Assumed, at+".read_only", "the root is writable (%v), so the container is not sealed; set read_only: true to seal it", workload.Size(c.options.RootSize))
	}
	env, err := c.environment(at, s)
	if err != nil {
		return err
	}
	data.add("env", env)
	if s.WorkingDir != "" {
		data.add("cwd", path.Clean(s.WorkingDir))
	}
	if s.User != "" {
		if userForm().MatchString(s.User) {
			data.add("user", quoted(s.User))
		} else {
			c.note(Dropped, at+".user", "%q is not user or user:group", s.User)
		}
	}
	data.add("mounts", c.mounts(out, at, s))
	data.add("network", c.network(at, s))
	data.add("restart", c.restart(at, s))
	if p := c.pids(at, s); p > 0 {
		data.add("pids", p)
	}
	c.rest(at, s)
	base := c.name("service", s.Name)
	for i := range n {
		name := base
		if n > 1 {
			name = c.name("service", fmt.Sprintf("%s %d", s.Name, i+1))
		}
		if name != s.Name && n == 1 {
			c.note(Changed, at, "the workload is called %s", name)
		}
		out.workload(name, "container", data)
		c.ports(out, at, name, s, i)
	}
	if n > 1 {
		c.note(Changed, at+".deploy.replicas", "%d workloads, %s 1 to %d, which share their volumes", n, base, n)
	}
	return nil
}

var (
	userForm     = form(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?$`)
	variableForm = form(`^[A-Za-z_][A-Za-z0-9_.-]{0,127}$`)
	flistForm    = form(`^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}$`)
	secretForm   = form(`(?i)(passw|secret|token|private_?key|api_?key|credential)`)
)

// form compiles an expression at its first use: every command of zos would wait
// for it otherwise.
func form(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// image is the name of the flist. Its root is pinned later, by zos apply.
func (c *converter) image(at string, s types.ServiceConfig) string {
	name := s.Image
	if name == "" {
		name = c.name("service", s.Name) + ":latest"
	}
	if s.Build != nil {
		c.note(Dropped, at+".build", "nothing is built here; build the image and make it an flist with: zos flist build")
	}
	name, digest, pinned := strings.Cut(name, "@")
	if pinned {
		c.note(Changed, at+".image", "the digest %.19s… names an OCI image; flist_root pins the flist instead", digest)
	}
	if !flistForm().MatchString(name) {
		c.note(Changed, at+".image", "%q is no name of an flist; put the right one there", name)
		name = "CHANGE-ME"
	}
	return name
}

func (c *converter) argv(at string, s types.ServiceConfig) []string {
	switch {
	case len(s.Entrypoint) > 0:
		return append(append([]string{}, s.Entrypoint...), s.Command...)
	case len(s.Command) > 0:
		c.note(Changed, at+".command", "entrypoint is the whole command line: put the image's entrypoint before it if the image has one")
		return append([]string{}, s.Command...)
	}
	return nil
}

func (c *converter) capacity(at string, s types.ServiceConfig) fields {
	cpu, memory := c.options.CPU, c.options.Memory
	var limits types.Resource
	if s.Deploy != nil && s.Deploy.Resources.Limits != nil {
		limits = *s.Deploy.Resources.Limits
	}
	switch {
	case limits.NanoCPUs > 0:
		cpu = milli(float64(limits.NanoCPUs))
	case s.CPUS > 0:
		cpu = milli(float64(s.CPUS))
	default:
		c.note(Assumed, at+".cpus", "no limit is given; cpu %s", cpuText(cpu))
	}
	switch {
	case limits.MemoryBytes > 0:
		memory = uint64(limits.MemoryBytes)
	case s.MemLimit > 0:
		memory = uint64(s.MemLimit)
	default:
		c.note(Assumed, at+".mem_limit", "no limit is given; %v", workload.Size(memory))
	}
	if cpu < 50 {
		c.note(Changed, at+".cpus", "raised to 0.05, the least there is")
		cpu = 50
	}
	if memory < 16<<20 {
		c.note(Changed, at+".mem_limit", "raised to 16 MiB, the least there is")
		memory = 16 << 20
	}
	f := fields{}
	f.add("cpu", number(cpuText(cpu)))
	f.add("memory", size(memory))
	return f
}

func milli(cpus float64) uint64 { return uint64(math.Round(cpus * 1000)) }

func cpuText(milli uint64) string {
	s := fmt.Sprintf("%d.%03d", milli/1000, milli%1000)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

func (c *converter) pids(at string, s types.ServiceConfig) uint64 {
	n := s.PidsLimit
	if s.Deploy != nil && s.Deploy.Resources.Limits != nil && s.Deploy.Resources.Limits.Pids > 0 {
		n = s.Deploy.Resources.Limits.Pids
	}
	if n > 32768 {
		c.note(Changed, at+".pids_limit", "lowered to 32768, the most there is")
		n = 32768
	}
	return uint64(max(n, 0))
}

// environment is env_file, then environment, as compose has it.
func (c *converter) environment(at string, s types.ServiceConfig) (fields, error) {
	all := make(map[string]string)
	for i, f := range s.EnvFiles {
		vars, err := c.envFile(f.Path)
		if err != nil {
			c.note(Dropped, fmt.Sprintf("%s.env_file[%d]", at, i), "%s cannot be read: %v", f.Path, err)
			continue
		}
		for k, v := range vars {
			all[k] = v
		}
	}
	for k, v := range s.Environment {
		if v == nil {
			if known, ok := c.options.Variables[k]; ok {
				all[k] = known
			} else {
				c.note(Dropped, at+".environment."+k, "its value comes from the shell, which is not looked at; set it with --env %s=…", k)
			}
			continue
		}
		all[k] = *v
	}
	out := fields{}
	for _, k := range sorted(all) {
		switch {
		case !variableForm().MatchString(k):
			c.note(Dropped, at+".environment", "%q is no name of a variable", k)
			continue
		case strings.ContainsRune(all[k], 0):
			return nil, fault.Errorf(fault.Invalid, "%s.environment.%s: the value has a NUL", at, k)
		case secretForm().MatchString(k) && all[k] != "":
			c.note(Changed, at+".environment."+k, "everybody who sees the document can read it; move it to secrets: %s: {file: …}", k)
		}
		out.add(k, quoted(all[k]))
	}
	return out, nil
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

func (c *converter) restart(at string, s types.ServiceConfig) fields {
	policy, most := s.Restart, uint64(0)
	policy, count, _ := strings.Cut(policy, ":")
	if count != "" {
		fmt.Sscan(count, &most)
	}
	if s.Deploy != nil && s.Deploy.RestartPolicy != nil {
		r := s.Deploy.RestartPolicy
		policy = map[string]string{"none": "no", "any": "always", "": "always"}[r.Condition]
		if r.Condition == "on-failure" {
			policy = r.Condition
		}
		if r.MaxAttempts != nil {
			most = *r.MaxAttempts
		}
		if r.Delay != nil || r.Window != nil {
			c.note(Dropped, at+".deploy.restart_policy", "delay and window: the node waits 1 s, doubling to 5 min, and starts over after 10 min of running")
		}
	}
	f := fields{}
	switch policy {
	case "", "no":
		f.add("policy", "never")
	case "unless-stopped":
		f.add("policy", "always")
	default:
		f.add("policy", policy)
	}
	if most > 0 {
		f.add("max", min(most, 1000))
	}
	return f
}

// rest notes every other key of a service. What was handled is taken out first.
func (c *converter) rest(at string, s types.ServiceConfig) {
	b, err := json.Marshal(s)
	if err != nil {
		return
	}
	var left map[string]json.RawMessage
	if json.Unmarshal(b, &left) != nil {
		return
	}
	for _, done := range []string{"image", "build", "command", "entrypoint", "cpus", "mem_limit", "read_only", "environment", "env_file",
		"working_dir", "user", "volumes", "tmpfs", "networks", "network_mode", "restart", "pids_limit", "scale", "ports", "expose", "extends", "attach", "pull_policy", "profiles", "init"} {
		delete(left, done)
	}
	for _, key := range sorted(left) {
		text := string(left[key])
		if key == "deploy" {
			c.deploy(at, s.Deploy)
			continue
		}
		if text == "null" || text == "{}" || text == "[]" || text == "false" || text == `""` || text == "0" {
			continue
		}
		reason, ok := reasons()[key]
		if !ok {
			reason = "there is no counterpart"
		}
		c.note(Dropped, at+"."+key, "%s", reason)
	}
	for _, key := range sorted(s.Extensions) {
		c.note(Dropped, at+"."+key, "extensions have no counterpart")
	}
}

func reasons() map[string]string {
	return map[string]string{
		"healthcheck":       "the node restarts programs that end, not ones that are ill; let the program end when it is",
		"depends_on":        "containers start together; let the program wait for what it needs, or end and be restarted",
		"container_name":    "the workload has the name of the service",
		"labels":            "labels have no counterpart",
		"annotations":       "annotations have no counterpart",
		"logging":           "use a zlogs workload to send output somewhere",
		"privileged":        "no container is privileged; use a vm",
		"cap_add":           "capabilities cannot be added; use a vm",
		"cap_drop":          "containers have few capabilities already",
		"devices":           "host devices are not reachable; graphics cards are listed in gpu",
		"gpus":              "graphics cards are listed in gpu by slot/vendor/device, with isolation: vm on a rented node",
		"security_opt":      "the seal replaces it",
		"sysctls":           "the kernel's settings belong to the node; use a vm",
		"ulimits":           "the node sets limits; pids bounds processes",
		"secrets":           "files below /run/secrets do not exist; give the program a variable: secrets: NAME: {file: …}",
		"configs":           "nothing mounts single files; put the file into the image or a volume",
		"hostname":          "the name of the workload is its host name",
		"domainname":        "the network gives the domain: NAME.NETWORK.zos",
		"extra_hosts":       "names come from the network: NAME.NETWORK.zos",
		"dns":               "the network resolves names; egress.dns of the network forwards others",
		"links":             "every container of a network is reachable as NAME.NETWORK.zos",
		"external_links":    "containers outside this deployment are reachable through a shared network",
		"stop_grace_period": "the node waits 10 s",
		"stop_signal":       "the node sends TERM",
		"stdin_open":        "a container has no terminal; use zos exec",
		"tty":               "a container has no terminal; use zos exec",
		"shm_size":          "mount a scratch directory at the place that needs room",
		"platform":          "the node decides; choose a node with that processor",
		"pid":               "every container has a process tree of its own",
		"ipc":               "every container has shared memory of its own",
		"mem_reservation":   "the whole limit is reserved",
		"memswap_limit":     "there is no swap",
		"post_start":        "nothing is run in a container from outside",
		"pre_stop":          "nothing is run in a container from outside",
		"develop":           "it is for the machine of a developer",
	}
}

func (c *converter) deploy(at string, d *types.DeployConfig) {
	if d == nil {
		return
	}
	note := func(has bool, key, reason string) {
		if has {
			c.note(Dropped, at+".deploy."+key, "%s", reason)
		}
	}
	note(d.Mode != "" && d.Mode != "replicated", "mode", "one deployment is for one node")
	note(len(d.Labels) > 0, "labels", "labels have no counterpart")
	note(d.UpdateConfig != nil, "update_config", "an update is prepared beside what runs, then switched; a failure keeps what runs")
	note(d.RollbackConfig != nil, "rollback_config", "a failed update keeps what runs")
	note(len(d.Placement.Constraints)+len(d.Placement.Preferences) > 0 || d.Placement.MaxReplicas > 0, "placement", "one deployment is for one node; choose it with node_id")
	note(d.EndpointMode != "", "endpoint_mode", "there is no load balancer between containers")
	r := d.Resources
	note(r.Reservations != nil, "resources.reservations", "limits are reserved in full; graphics cards are listed in gpu")
	note(r.Limits != nil && len(r.Limits.Devices)+len(r.Limits.GenericResources) > 0, "resources.limits.devices", "graphics cards are listed in gpu by slot/vendor/device")
}
