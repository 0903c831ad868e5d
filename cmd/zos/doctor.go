package main

import (
	"context"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"zos.internal/flist/mount"
	"zos.internal/node/compute"
)

// finding is one thing that doctor looked at.
type finding struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`           // what it is used for, or why it doesn't work
	Remedy string `json:"remedy,omitempty"` // what to do about it
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Show what this machine can do, what it lacks and what to do about it", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			found := a.diagnose(cmd.Context())
			t := table{columns: []string{"", "what", "detail", "what to do"}}
			var names []string
			for _, f := range found {
				mark := "ok"
				if !f.OK {
					mark = "--"
				}
				t.rows = append(t.rows, []string{mark, f.What, f.Detail, f.Remedy})
				names = append(names, f.What)
			}
			return a.print(found, t, names...)
		},
	}
}

func (a *app) diagnose(ctx context.Context) []finding {
	var out []finding
	used := false
	for _, c := range mount.Probe(ctx) {
		f := finding{What: c.Name, OK: c.Works, Detail: c.Reason, Remedy: c.Remedy}
		if c.Mode != "" {
			f.What = "mount " + string(c.Mode)
			f.Detail = c.Name + ": " + c.Reason
		}
		if c.Works && !used && c.Mode != "" {
			f.Detail = "used for mounts; " + f.Detail
			used = true
		}
		out = append(out, f)
	}
	out = append(out, containers(ctx)...)
	for _, p := range []struct{ name, use, remedy string }{
		{"mmdebstrap", "make run builds its Debian image with it", "apt-get install mmdebstrap"},
		{"docker-registry", "make run pushes and reads its image through it", "apt-get install docker-registry"},
	} {
		path, err := exec.LookPath(p.name)
		f := finding{What: p.name, OK: err == nil, Detail: path}
		if err != nil {
			f.Detail, f.Remedy = p.use, p.remedy
		}
		out = append(out, f)
	}
	return out
}

// containers is what this machine can do for zos run.
func containers(ctx context.Context) []finding {
	caps, err := compute.Probe(ctx)
	if err != nil {
		return []finding{{What: "containers", Detail: err.Error()}}
	}
	levels := make([]string, len(caps.Sealed))
	for i, l := range caps.Sealed {
		levels[i] = string(l)
	}
	out := []finding{
		{What: "containers", OK: caps.Available, Detail: strings.TrimSpace(caps.Version + ", cgroup " + caps.Cgroup)},
		{What: "seal", OK: len(levels) > 1, Detail: "levels that hold: " + strings.Join(levels, " ")},
	}
	for _, m := range caps.Missing {
		out = append(out, finding{What: m.What, Detail: m.Why, Remedy: m.Remedy})
	}
	return out
}
