package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"zos.internal/internal/fault"
)

// configFile is the file $XDG_CONFIG_HOME/zos/config.yaml.
type configFile struct {
	Context  string                   `json:"context,omitempty"`
	Contexts map[string]configContext `json:"contexts,omitempty"`
}

// configContext is one named set of defaults. There is no built-in one: nothing
// is dialled that the user did not name.
type configContext struct {
	Hubs      []string `json:"hubs,omitempty"`
	Key       string   `json:"key,omitempty"`
	TenantKey string   `json:"tenant-key,omitempty"`
}

// variable is one line of `zos help environment`.
type variable struct{ name, text string }

func variables() []variable {
	return []variable{
		{"ZOS_DATA", "directory of images and keys (default $XDG_DATA_HOME/zos, else ~/.local/share/zos)"},
		{"ZOS_CACHE", "directory of cached chunks (default $XDG_CACHE_HOME/zos, else ~/.cache/zos)"},
		{"ZOS_RUN", "directory of mounts and containers, gone after a reboot (default /run/zos for root, else $XDG_RUNTIME_DIR/zos)"},
		{"ZOS_CONFIG", "configuration file (default $XDG_CONFIG_HOME/zos/config.yaml, else ~/.config/zos/config.yaml)"},
		{"ZOS_CONTEXT", "name of the context in the configuration file"},
		{"ZOS_HUB", "URLs of hubs and mirrors, separated by spaces"},
		{"ZOS_CHAIN", "URL of a chain server (default http://127.0.0.1:8490)"},
		{"ZOS_KEY", "name or file of the key that signs"},
		{"ZOS_PASSPHRASE_FILE", "file with the passphrase of that key, if it is encrypted"},
		{"ZOS_TENANT_KEY", "file with the secret of private images"},
		{"ZOS_CACHE_SIZE", "most bytes of cached chunks, such as 20GiB"},
		{"ZOS_READ_TIMEOUT", "how long a read of a mounted image waits for its sources before it fails, such as 30s (default 60s)"},
		{"NO_COLOR", "any value: no colours"},
	}
}

func (a *app) environmentTopic() *cobra.Command {
	var b strings.Builder
	b.WriteString("Environment variables that zos reads:\n\n")
	for _, v := range variables() {
		fmt.Fprintf(&b, "  %-19s %s\n", v.name, v.text)
	}
	b.WriteString("\nA flag beats a variable, a variable beats the context in the configuration file.")
	return &cobra.Command{Use: "environment", Short: "The environment variables that zos reads", Long: b.String()}
}

func (a *app) home(variable, xdg, fallback string) string {
	if d := a.getenv(variable); d != "" {
		return d
	}
	if d := a.getenv(xdg); d != "" {
		return filepath.Join(d, "zos")
	}
	return filepath.Join(a.getenv("HOME"), fallback, "zos")
}

func (a *app) dataDir() string  { return a.home("ZOS_DATA", "XDG_DATA_HOME", ".local/share") }
func (a *app) cacheDir() string { return a.home("ZOS_CACHE", "XDG_CACHE_HOME", ".cache") }

// runDir is where mounts and containers are described while they live.
func (a *app) runDir() string {
	if d := a.getenv("ZOS_RUN"); d != "" {
		return d
	}
	if os.Geteuid() == 0 {
		return "/run/zos"
	}
	if d := a.getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, "zos")
	}
	return filepath.Join(os.TempDir(), "zos-"+strconv.Itoa(os.Geteuid()))
}

func (a *app) readConfig() (*configFile, error) {
	path := a.getenv("ZOS_CONFIG")
	if path == "" {
		path = filepath.Join(a.home("", "XDG_CONFIG_HOME", ".config"), "config.yaml")
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && a.getenv("ZOS_CONFIG") == "" {
		return &configFile{}, nil
	}
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "read configuration: %w", err)
	}
	var c configFile
	if err := yaml.UnmarshalStrict(b, &c); err != nil {
		return nil, fault.Errorf(fault.Invalid, "read configuration %s: %w", path, err)
	}
	return &c, nil
}

// context is the chosen context of the configuration file; empty if none.
func (a *app) context() (configContext, error) {
	name := a.getenv("ZOS_CONTEXT")
	if name == "" {
		name = a.conf.Context
	}
	if name == "" {
		name = "default"
	}
	c, ok := a.conf.Contexts[name]
	if !ok && name != "default" {
		return c, fault.Errorf(fault.NotFound, "the configuration has no context %q; add it or choose another with ZOS_CONTEXT", name)
	}
	return c, nil
}

// first is the first value that is set: flag, variable, context.
func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
