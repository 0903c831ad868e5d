package oci

import (
	"runtime"
	"strings"

	"zos.internal/internal/fault"
)

type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// String is "os/arch" or "os/arch/variant"; empty if nothing is known.
func (p platform) String() string {
	if p.Architecture == "" {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// parsePlatform reads "linux/arm64", "linux/arm/v7" or "arm64"; "" is Linux on
// this machine's architecture.
func parsePlatform(s string) (platform, error) {
	if s == "" {
		return platform{OS: "linux", Architecture: runtime.GOARCH}, nil
	}
	f := strings.Split(s, "/")
	if len(f) == 1 {
		f = []string{"linux", f[0]}
	}
	if len(f) > 3 || f[0] == "" || f[1] == "" || len(f) == 3 && f[2] == "" {
		return platform{}, fault.Errorf(fault.Invalid, "the platform %q is not OS/ARCHITECTURE[/VARIANT], as linux/arm64", s)
	}
	p := platform{OS: f[0], Architecture: f[1]}
	if len(f) == 3 {
		p.Variant = f[2]
	}
	return p, nil
}

// fits reports whether an image for p runs where want is asked for.
func (p platform) fits(want platform) bool {
	v := p.Variant
	if p.Architecture == "arm64" && v == "" {
		v = "v8"
	}
	return p.OS == want.OS && p.Architecture == want.Architecture && (want.Variant == "" || want.Variant == v)
}

// choose picks the image of an index for a platform. An index with one image
// that names no platform is that image.
func choose(ds []descriptor, want platform) (descriptor, error) {
	var have []string
	for _, d := range ds {
		if d.Platform == nil {
			if len(ds) == 1 {
				return d, nil
			}
			continue
		}
		if d.Platform.fits(want) {
			return d, nil
		}
		if d.Platform.OS != "unknown" {
			have = append(have, d.Platform.String())
		}
	}
	return descriptor{}, fault.Errorf(fault.NotFound, "the image has nothing for %s, but for %s; choose one with --platform", want, strings.Join(have, ", "))
}
