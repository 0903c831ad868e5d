package fl

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"zos.internal/flist/config"
	"zos.internal/internal/fault"
)

// MaxStartup is the most bytes of a /.startup.toml that is looked into.
const MaxStartup = 64 << 10

// startupName is the kind of entry that starts a program.
const startupName = "core.system"

type startup struct {
	Startup struct {
		Entry startupEntry `toml:"entry"`
	} `toml:"startup"`
}

type startupEntry struct {
	Name string      `toml:"name"`
	Args startupArgs `toml:"args"`
}

type startupArgs struct {
	Name string            `toml:"name"`
	Args []string          `toml:"args"`
	Env  map[string]string `toml:"env"`
	Dir  string            `toml:"dir"`
}

// ParseStartup reads a /.startup.toml: the program and its arguments become
// the entrypoint, env the environment in order of the names, dir the working
// directory. Keys that it doesn't know are left alone. The error is Invalid if
// the file is not TOML, starts something else than a program, or holds values
// that no configuration can.
func ParseStartup(raw []byte) (*config.Config, error) {
	bad := func(format string, args ...any) error {
		return fault.Errorf(fault.Invalid, "read /%s: "+format, append([]any{StartupFile}, args...)...)
	}
	if len(raw) > MaxStartup {
		return nil, bad("it has %d bytes, at most %d are read", len(raw), MaxStartup)
	}
	var s startup
	if err := toml.Unmarshal(raw, &s); err != nil {
		return nil, bad("%w", err)
	}
	e := s.Startup.Entry
	if e.Name != startupName {
		return nil, bad("[startup.entry] has the name %.60q, only %q starts a program", e.Name, startupName)
	}
	if e.Args.Name == "" {
		return nil, bad("[startup.entry.args] has no name")
	}
	c := &config.Config{Entrypoint: append([]string{e.Args.Name}, e.Args.Args...), Workdir: e.Args.Dir}
	for _, k := range slices.Sorted(maps.Keys(e.Args.Env)) {
		if k == "" || strings.Contains(k, "=") {
			return nil, bad("the variable %.60q has a name that no environment can hold", k)
		}
		c.Env = append(c.Env, k+"="+e.Args.Env[k])
	}
	if _, err := c.Encode(); err != nil {
		return nil, bad("%w", err)
	}
	return c, nil
}

// FormatStartup writes the command, environment and working directory of c as
// a /.startup.toml. It is nil if c names no command, which the file needs.
func FormatStartup(c *config.Config) ([]byte, error) {
	cmd := c.Command()
	if len(cmd) == 0 || cmd[0] == "" {
		return nil, nil
	}
	var s startup
	s.Startup.Entry.Name = startupName
	s.Startup.Entry.Args = startupArgs{Name: cmd[0], Args: append([]string{}, cmd[1:]...), Env: map[string]string{}, Dir: c.Workdir}
	for _, kv := range c.Env {
		k, v, _ := strings.Cut(kv, "=")
		s.Startup.Entry.Args.Env[k] = v // the last one counts, as in a process
	}
	var out bytes.Buffer
	enc := toml.NewEncoder(&out)
	enc.SetIndentTables(false)
	if err := enc.Encode(s); err != nil {
		return nil, fault.Errorf(fault.Internal, "write /%s: %w", StartupFile, err)
	}
	return out.Bytes(), nil
}
