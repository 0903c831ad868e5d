package config

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"zos.internal/internal/fault"
)

// ociConfig is the object "config" of an OCI image configuration, whose
// sets are objects with empty values.
type ociConfig struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   words               `json:"Entrypoint,omitempty"`
	Cmd          words               `json:"Cmd,omitempty"`
	Volumes      map[string]struct{} `json:"Volumes,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	Labels       map[string]string   `json:"Labels,omitempty"`
	StopSignal   string              `json:"StopSignal,omitempty"`
}

// words accepts a list or, as old images have it, a single string.
type words []string

// UnmarshalJSON reads a list of strings, one string, or null.
func (w *words) UnmarshalJSON(raw []byte) error {
	var one string
	if err := json.Unmarshal(raw, &one); err == nil {
		*w = nil
		if one != "" {
			*w = words{one}
		}
		return nil
	}
	var list []string
	if err := json.Unmarshal(raw, &list); err != nil {
		return err
	}
	*w = list
	return nil
}

// FromOCI reads the object "config" of an OCI image configuration (JSON, may
// be empty or null). What Config doesn't hold (health checks, ONBUILD, shell)
// is ignored. A port without a protocol is TCP; a variable without a value is
// empty. Values that can't be kept are Invalid.
func FromOCI(raw []byte) (*Config, error) {
	var o ociConfig
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &o); err != nil {
			return nil, fault.Errorf(fault.Invalid, "read the OCI image configuration: %w", err)
		}
	}
	c := &Config{
		Entrypoint: o.Entrypoint, Cmd: o.Cmd, Workdir: o.WorkingDir, User: o.User, StopSignal: o.StopSignal,
		Volumes: slices.Sorted(maps.Keys(o.Volumes)),
	}
	if len(o.Labels) > 0 {
		c.Labels = o.Labels
	}
	for _, kv := range o.Env {
		if !strings.Contains(kv, "=") {
			kv += "="
		}
		c.Env = append(c.Env, kv)
	}
	for p := range o.ExposedPorts {
		if !strings.Contains(p, "/") {
			p += "/tcp"
		}
		c.Ports = append(c.Ports, strings.ToLower(p))
	}
	c.Ports = sorted(c.Ports)
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, nil
}

// OCI is the object "config" of an OCI image configuration, as JSON with
// sorted keys: FromOCI of it equals c.
func (c *Config) OCI() ([]byte, error) {
	if _, err := c.Encode(); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(ociConfig{
		User: c.User, ExposedPorts: set(c.Ports), Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd,
		Volumes: set(c.Volumes), WorkingDir: c.Workdir, Labels: c.Labels, StopSignal: c.StopSignal,
	})
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "write the OCI image configuration: %w", err)
	}
	return raw, nil
}

func set(xs []string) map[string]struct{} {
	if len(xs) == 0 {
		return nil
	}
	m := make(map[string]struct{}, len(xs))
	for _, x := range xs {
		m[x] = struct{}{}
	}
	return m
}
