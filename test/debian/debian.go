// Package debian knows the package sources of the machine, so that examples and
// benchmarks make Debian roots without naming a mirror.
package debian

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
)

// Sources are the machine's own sources of Debian, as lines of a sources.list,
// and the name of its suite.
func Sources(ctx context.Context) (sources, suite string, err error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets",
		"--format", "$(ORIGIN)|$(CODENAME)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages").Output()
	if err != nil {
		return "", "", fmt.Errorf("ask apt for its sources: %w", err)
	}
	lines := make(map[string]bool)
	for line := range strings.Lines(string(out)) {
		f := strings.SplitN(strings.TrimSpace(line), "|", 3)
		if len(f) == 3 && f[0] == "Debian" {
			lines[f[2]] = true
			if release := strings.Fields(f[2])[2]; !strings.Contains(release, "-") {
				suite = f[1]
			}
		}
	}
	if suite == "" {
		return "", "", errors.New("apt knows no Debian source on this machine; run apt-get update")
	}
	return strings.Join(slices.Sorted(maps.Keys(lines)), "\n") + "\n", suite, nil
}
