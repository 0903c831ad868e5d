package fl

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"zos.internal/flist/config"
	"zos.internal/flist/tree"
	"zos.internal/internal/fault"
)

const startupSample = `
[startup.entry]
name = "core.system"

[startup.entry.args]
name = "/usr/sbin/nginx"
args = ["-g", "daemon off;"]
dir = "/srv"
[startup.entry.args.env]
PATH = "/bin"
A = "x=y"
`

func TestParseStartup(t *testing.T) {
	want := &config.Config{Entrypoint: []string{"/usr/sbin/nginx", "-g", "daemon off;"}, Env: []string{"A=x=y", "PATH=/bin"}, Workdir: "/srv"}
	inline := `startup = { entry = { name = "core.system", args = { args = ["-g", "daemon off;"], dir = "/srv", env = { A = "x=y", PATH = "/bin" }, name = "/usr/sbin/nginx" } } }`
	for _, in := range []string{startupSample, inline} {
		got, err := ParseStartup([]byte(in))
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("ParseStartup: %v, differs (-want +got):\n%s", err, d)
		}
	}
	for name, in := range map[string]string{
		"not TOML":      "{",
		"empty":         "",
		"other kind":    strings.Replace(startupSample, "core.system", "bash", 1),
		"no program":    strings.Replace(startupSample, "/usr/sbin/nginx", "", 1),
		"wrong type":    strings.Replace(startupSample, `"/srv"`, "7", 1),
		"zero byte":     strings.Replace(startupSample, `"/srv"`, `"\u0000"`, 1),
		"env name":      startupSample + "\"a=b\" = \"c\"\n",
		"env no name":   startupSample + "\"\" = \"c\"\n",
		"large":         startupSample + "#" + strings.Repeat("x", MaxStartup),
		"not UTF-8":     startupSample + "X = \"\xff\"\n",
		"twice":         startupSample + "A = \"z\"\n",
		"deep nesting":  "a = " + strings.Repeat("[", 20000) + strings.Repeat("]", 20000),
		"entry is text": "[startup]\nentry = \"x\"\n",
	} {
		if c, err := ParseStartup([]byte(in)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: ParseStartup = %+v, %v, want invalid", name, c, err)
		}
	}
}

func TestStartupRoundTrip(t *testing.T) {
	text := rapid.StringOf(rapid.Rune().Filter(func(r rune) bool { return r != 0 }))
	name := text.Filter(func(s string) bool { return s != "" && !strings.Contains(s, "=") })
	rapid.Check(t, func(t *rapid.T) {
		c := &config.Config{Workdir: text.Draw(t, "dir"), Entrypoint: append([]string{name.Draw(t, "program")}, rapid.SliceOf(text).Draw(t, "args")...)}
		for _, k := range rapid.SliceOfDistinct(name, rapid.ID).Draw(t, "env") {
			c.Env = append(c.Env, k+"="+text.Draw(t, "value"))
		}
		raw, err := FormatStartup(c)
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) > MaxStartup {
			t.Skip("too large")
		}
		got, err := ParseStartup(raw)
		if err != nil {
			t.Fatalf("ParseStartup(%q): %v", raw, err)
		}
		if d := cmp.Diff(c, got, cmpopts.SortSlices(func(a, b string) bool { return a < b })); d != "" {
			t.Fatalf("differs (-want +got):\n%s\n%s", d, raw)
		}
	})
	if raw, err := FormatStartup(&config.Config{Env: []string{"A=b"}}); raw != nil || err != nil {
		t.Errorf("FormatStartup without a command = %q, %v, want nothing", raw, err)
	}
}

// The command travels as a file and comes back; tags travel as labels.
func TestConfigTravels(t *testing.T) {
	root := tree.NewDir(0o755)
	cfg := &config.Config{
		Entrypoint: []string{"/bin/a", "b"}, Env: []string{"B=2", "A=1"}, Workdir: "/w",
		Labels: map[string]string{"fl.tag.version": "1", "fl.tag." + IDTag: "old"},
	}
	file, store, rep := write(t, root, cfg, WriteOptions{Strict: true, ID: "00ff"})
	if rep.Entries != 2 {
		t.Errorf("%d entries, want the root and the startup file", rep.Entries)
	}
	if root.Lookup(StartupFile) != nil {
		t.Error("Write changed the caller's tree")
	}
	tags, err := Tags(t.Context(), file)
	if d := cmp.Diff([]Tag{{"version", "1"}, {IDTag, "00ff"}}, tags); d != "" || err != nil {
		t.Errorf("Tags: %v, differ:\n%s", err, d)
	}
	res := read(t, file, ReadOptions{})
	want := &config.Config{Entrypoint: cfg.Entrypoint, Env: []string{"A=1", "B=2"}, Workdir: "/w", Labels: map[string]string{"fl.tag.version": "1"}}
	if d := cmp.Diff(want, res.Config); d != "" {
		t.Errorf("config differs (-want +got):\n%s", d)
	}
	// What rfs wrote stays byte for byte while the command is the same.
	if err := res.Root.Set(StartupFile, regular(startupSample)); err != nil {
		t.Fatal(err)
	}
	same, err := ParseStartup([]byte(startupSample))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Write(t.Context(), res.Root, same, file, WriteOptions{Stores: []string{"dir://" + store}, Strict: true}); err != nil {
		t.Fatal(err)
	}
	res = read(t, file, ReadOptions{})
	if got := fileBytes(t, res.Root, StartupFile); got != startupSample {
		t.Errorf("startup file = %q", got)
	}
	// Another command takes its place, and that is a loss.
	other := &config.Config{Cmd: []string{"/bin/other"}}
	opts := WriteOptions{Stores: []string{"dir://" + store}, Strict: true}
	if _, err := Write(t.Context(), res.Root, other, file, opts); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "/.startup.toml") {
		t.Errorf("Write = %v, want a conflict about the startup file", err)
	}
	opts.Strict = false
	if _, err := Write(t.Context(), res.Root, other, file, opts); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"/bin/other"}, read(t, file, ReadOptions{}).Config.Entrypoint); d != "" {
		t.Errorf("entrypoint differs:\n%s", d)
	}
}

// A startup file that says nothing usable is kept and mentioned.
func TestUnusableStartupIsKept(t *testing.T) {
	root := tree.NewDir(0o755)
	if err := root.Set(StartupFile, regular("not toml")); err != nil {
		t.Fatal(err)
	}
	file, _, _ := write(t, root, nil, WriteOptions{Strict: true})
	res := read(t, file, ReadOptions{})
	if got := fileBytes(t, res.Root, StartupFile); got != "not toml" {
		t.Errorf("startup file = %q", got)
	}
	if len(res.Skipped) != 1 || res.Skipped[0].Path != StartupFile || len(res.Config.Command()) != 0 {
		t.Errorf("Skipped = %+v, command %q", res.Skipped, res.Config.Command())
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
