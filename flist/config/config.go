// Package config is what an image says about running it: command,
// environment, user, working directory, ports, volumes, labels.
//
// It guarantees that one configuration has exactly one encoding (CBOR, core
// deterministic, specified in docs/reference/conversion.md), so that equal
// images have equal ids, and that Parse accepts only what Encode produces. It
// gives no meaning to the values: users, paths and ports are resolved by what
// runs the image.
//
//	c := &config.Config{Entrypoint: []string{"/usr/sbin/nginx"}, Env: []string{"LANG=C.UTF-8"}, Ports: []string{"80/tcp"}}
//	raw, err := c.Encode()
//	back, err := config.Parse(raw)
package config

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"

	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

// MaxSize is the largest encoded configuration, in bytes.
const MaxSize = 256 << 10

// Config is the configuration of one image. Zero fields are not set; an empty
// list and a missing one are the same. Every string is valid UTF-8 without
// zero bytes.
type Config struct {
	Entrypoint []string          `cbor:"1,keyasint,omitempty" json:"entrypoint,omitempty"`
	Cmd        []string          `cbor:"2,keyasint,omitempty" json:"cmd,omitempty"`        // default arguments
	Env        []string          `cbor:"3,keyasint,omitempty" json:"env,omitempty"`        // "K=V" in order, K not empty
	Workdir    string            `cbor:"4,keyasint,omitempty" json:"workdir,omitempty"`    // path inside the image
	User       string            `cbor:"5,keyasint,omitempty" json:"user,omitempty"`       // user[:group], names or numbers
	StopSignal string            `cbor:"6,keyasint,omitempty" json:"stopSignal,omitempty"` // "SIGQUIT" or "3"
	Ports      []string          `cbor:"7,keyasint,omitempty" json:"ports,omitempty"`      // "80/tcp", "9000-9010/udp"; sorted
	Volumes    []string          `cbor:"8,keyasint,omitempty" json:"volumes,omitempty"`    // paths, sorted
	Labels     map[string]string `cbor:"9,keyasint,omitempty" json:"labels,omitempty"`
}

// Encode is the canonical form of c, at most MaxSize bytes. Ports and volumes
// are written sorted and once; anything else that Parse would refuse is
// Invalid, a configuration that is too large is Exhausted. c is not changed.
func (c *Config) Encode() ([]byte, error) {
	n := *c
	n.Ports = sorted(c.Ports)
	n.Volumes = sorted(c.Volumes)
	if err := n.check(); err != nil {
		return nil, err
	}
	return n.encode()
}

func (c *Config) encode() ([]byte, error) {
	raw, err := canon.Marshal(c)
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "encode the image configuration: %w", err)
	}
	if len(raw) > MaxSize {
		return nil, fault.Errorf(fault.Exhausted, "the image configuration has %d bytes, %d are allowed; shorten its labels or environment", len(raw), MaxSize)
	}
	return raw, nil
}

// Parse reads the canonical form. Unknown keys, values of another type and
// bytes that would not be encoded again in the same way are Invalid.
func Parse(raw []byte) (*Config, error) {
	if len(raw) > MaxSize {
		return nil, fault.Errorf(fault.Invalid, "read the image configuration: it has %d bytes, %d are allowed; the image is damaged or hostile", len(raw), MaxSize)
	}
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   4,
	}.DecMode()
	if err != nil {
		return nil, fault.As(fault.Internal, err)
	}
	c := new(Config)
	if err := mode.Unmarshal(raw, c); err != nil {
		return nil, fault.Errorf(fault.Invalid, "read the image configuration: %w; the image is damaged or was made by a newer program", err)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	again, err := c.encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(raw, again) {
		return nil, fault.Errorf(fault.Invalid, "read the image configuration: it is not in canonical form; build the image again")
	}
	return c, nil
}

// Command is the argument list the image starts by default: the entrypoint
// followed by cmd. It is empty if the image names none.
func (c *Config) Command() []string { return slices.Concat(c.Entrypoint, c.Cmd) }

func sorted(xs []string) []string {
	xs = slices.Clone(xs)
	slices.Sort(xs)
	return slices.Compact(xs)
}

// check reports the first value that no configuration may hold.
func (c *Config) check() error {
	lists := []struct {
		name string
		vals []string
	}{
		{"entrypoint", c.Entrypoint}, {"cmd", c.Cmd}, {"env", c.Env},
		{"workdir", []string{c.Workdir}}, {"user", []string{c.User}}, {"stop signal", []string{c.StopSignal}},
		{"ports", c.Ports}, {"volumes", c.Volumes},
	}
	for _, l := range lists {
		for _, v := range l.vals {
			if err := checkText(l.name, v); err != nil {
				return err
			}
		}
	}
	for k, v := range c.Labels {
		if k == "" {
			return fault.Errorf(fault.Invalid, "image configuration: a label has no name")
		}
		if err := checkText("label", k); err != nil {
			return err
		}
		if err := checkText("label "+strconv.QuoteToASCII(k), v); err != nil {
			return err
		}
	}
	for _, kv := range c.Env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" {
			return fault.Errorf(fault.Invalid, "image configuration: the variable %.80q is not NAME=VALUE", kv)
		}
	}
	for _, p := range c.Ports {
		if !validPort(p) {
			return fault.Errorf(fault.Invalid, "image configuration: the port %.80q is not NUMBER/tcp, NUMBER/udp, NUMBER/sctp or a range of them", p)
		}
	}
	for _, v := range c.Volumes {
		if v == "" {
			return fault.Errorf(fault.Invalid, "image configuration: a volume has no path")
		}
	}
	for _, l := range lists[6:] {
		for i := 1; i < len(l.vals); i++ {
			if l.vals[i-1] >= l.vals[i] {
				return fault.Errorf(fault.Invalid, "image configuration: %s are not sorted at %.80q", l.name, l.vals[i])
			}
		}
	}
	return nil
}

func checkText(name, s string) error {
	switch {
	case !utf8.ValidString(s):
		return fault.Errorf(fault.Invalid, "image configuration: %s %.80q is not UTF-8", name, s)
	case strings.IndexByte(s, 0) >= 0:
		return fault.Errorf(fault.Invalid, "image configuration: %s %.80q has a zero byte", name, s)
	}
	return nil
}

func validPort(s string) bool {
	span, proto, ok := strings.Cut(s, "/")
	if !ok || proto != "tcp" && proto != "udp" && proto != "sctp" {
		return false
	}
	lo, hi, isRange := strings.Cut(span, "-")
	a, ok := portNumber(lo)
	if !ok || !isRange {
		return ok
	}
	b, ok := portNumber(hi)
	return ok && a <= b
}

func portNumber(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil && n > 0 && strconv.FormatUint(n, 10) == s
}
