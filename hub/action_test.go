package hub_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub"
	"zos.internal/identity"
)

type actionFile struct {
	Inputs map[string]struct {
		Description string `json:"description"`
		Required    bool   `json:"required"`
		Default     string `json:"default"`
	} `json:"inputs"`
	Outputs map[string]struct {
		Value string `json:"value"`
	} `json:"outputs"`
	Runs struct {
		Using string `json:"using"`
		Steps []struct {
			ID    string            `json:"id"`
			Shell string            `json:"shell"`
			Env   map[string]string `json:"env"`
			Run   string            `json:"run"`
			Uses  string            `json:"uses"`
		} `json:"steps"`
	} `json:"runs"`
}

func readAction(t *testing.T) actionFile {
	t.Helper()
	b, err := os.ReadFile("../action.yml")
	if err != nil {
		t.Fatal(err)
	}
	var a actionFile
	if err := yaml.Unmarshal(b, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestActionIsSafe(t *testing.T) {
	a := readAction(t)
	if a.Runs.Using != "composite" || len(a.Runs.Steps) != 2 {
		t.Fatalf("the action is %q with %d steps, want composite with 2", a.Runs.Using, len(a.Runs.Steps))
	}
	for _, name := range []string{"hub", "name", "key", "source"} {
		if in := a.Inputs[name]; !in.Required || in.Default != "" {
			t.Errorf("input %s = %+v, want required and without a default", name, in)
		}
	}
	for _, s := range a.Runs.Steps {
		if strings.Contains(s.Run, "${{") {
			t.Errorf("step %s puts an input into its script", s.ID)
		}
		if s.Uses != "" {
			t.Errorf("step %s uses another action, %s", s.ID, s.Uses)
		}
	}
	b, err := os.ReadFile("../action.yml")
	if err != nil {
		t.Fatal(err)
	}
	how, err := os.ReadFile("../docs/how-to/publish-from-ci.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range a.Inputs {
		if !strings.Contains(string(how), "`"+name+"`") {
			t.Errorf("docs/how-to/publish-from-ci.md doesn't explain the input %s", name)
		}
	}
	for name, out := range a.Outputs {
		if !strings.Contains(string(how), "`"+name+"`") || !strings.HasPrefix(out.Value, "${{ steps.publish.outputs.") {
			t.Errorf("output %s = %q, want one of the step publish, explained in docs/how-to/publish-from-ci.md", name, out.Value)
		}
	}
	if m := regexp.MustCompile(`https?://\S+`).FindAll(b, -1); m != nil {
		t.Errorf("the action names an endpoint: %q", m)
	}
}

// runner runs the steps of the action as a runner does.
type runner struct {
	action actionFile
	temp   string
	bash   string
}

func (r *runner) step(t *testing.T, i int, inputs map[string]string) (outputs map[string]string, log string, err error) {
	t.Helper()
	s := r.action.Runs.Steps[i]
	out := filepath.Join(t.TempDir(), "output")
	if err := os.WriteFile(out, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), r.bash, "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", s.Run)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "RUNNER_TEMP="+r.temp, "GITHUB_ACTION_PATH="+path, "GITHUB_OUTPUT="+out, "GITHUB_STEP_SUMMARY="+out+".md",
		"GITHUB_SERVER_URL=https://ci.example.org", "GITHUB_REPOSITORY=me/web", "GITHUB_SHA=abc123", "GITHUB_RUN_ID=7", "GITHUB_RUN_ATTEMPT=1")
	for k, v := range s.Env {
		name := regexp.MustCompile(`^\$\{\{ inputs\.([a-z-]+) \}\}$`).FindStringSubmatch(v)
		if name == nil {
			t.Fatalf("environment %s=%s is not an input", k, v)
		}
		if _, ok := r.action.Inputs[name[1]]; !ok {
			t.Fatalf("there is no input %s", name[1])
		}
		cmd.Env = append(cmd.Env, k+"="+inputs[name[1]])
	}
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	runErr := cmd.Run()
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	outputs = map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		outputs[k] = v
	}
	return outputs, both.String(), runErr
}

// TestActionPublishes runs the shell steps of action.yml against a hub on
// loopback.
func TestActionPublishes(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the whole program")
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash: ", err)
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go: ", err)
	}
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := key.Save(keyFile); err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "root fs; touch pwned")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), []byte(noise(uint64(i), 90<<10)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	store := block.OpenDir(t.TempDir())
	pubs := filepath.Join(t.TempDir(), "publishers")
	if err := os.WriteFile(pubs, []byte(line(key, "ci", "1GiB")), 0o600); err != nil {
		t.Fatal(err)
	}
	url, stop := serve(t, hub.Config{Store: store, Publishers: pubs})
	r := &runner{action: readAction(t), temp: t.TempDir(), bash: bash}
	if _, log, err := r.step(t, 0, nil); err != nil {
		t.Fatalf("build: %v\n%s", err, log)
	}
	in := map[string]string{"source": "dir:" + dir, "hub": url, "name": "web:v1", "key": string(secret), "clamp-mtime": "1700000000", "args": "--label\nnote=two words; $(touch pwned)\n"}
	out, log, err := r.step(t, 1, in)
	if err != nil {
		t.Fatalf("publish: %v\n%s", err, log)
	}
	if strings.Contains(log, string(secret)) || strings.Contains(log, "pwned: ") {
		t.Errorf("the log shows the key or ran something:\n%s", log)
	}
	id, err := block.ParseName(out["id"])
	if err != nil || out["version"] != "1" {
		t.Fatalf("outputs = %v, %v\n%s", out, err, log)
	}
	verifyStore(t, store, id)
	sum, err := flist.Open(t.Context(), store, id, flist.OpenOptions{})
	if err != nil || sum.Config.Labels["note"] != "two words; $(touch pwned)" {
		t.Errorf("the image has labels %v, %v", sum.Config.Labels, err)
	}
	_, _, page := get(t, url+"/images/ci/web")
	for _, want := range []string{"https://ci.example.org/me/web", "abc123", "v1"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page of the image doesn't show %q", want)
		}
	}
	again, log, err := r.step(t, 1, in)
	if err != nil || again["id"] != out["id"] || again["version"] != "1" {
		t.Errorf("the second run = %v, %v, want the same image and version\n%s", again, err, log)
	}
	left, err := os.ReadDir(filepath.Join(r.temp, "zos"))
	if err != nil || len(left) != 1 {
		t.Errorf("the steps left %v, %v, want only the program", left, err)
	}
	for name, bad := range map[string]map[string]string{
		"no secret":   {"key": ""},
		"no hub":      {"hub": ""},
		"unreachable": {"hub": "http://127.0.0.1:1"},
		"bad name":    {"name": "../web"},
	} {
		args := map[string]string{}
		for k, v := range in {
			args[k] = v
		}
		for k, v := range bad {
			args[k] = v
		}
		if out, log, err := r.step(t, 1, args); err == nil || len(out) != 0 {
			t.Errorf("%s: outputs %v, %v, want a failure\n%s", name, out, err, log)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
