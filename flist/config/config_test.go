package config

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"zos.internal/internal/fault"
)

func full() *Config {
	return &Config{
		Entrypoint: []string{"/usr/sbin/nginx"},
		Cmd:        []string{"-g", "daemon off;"},
		Env:        []string{"PATH=/bin", "LANG=C.UTF-8", "EMPTY="},
		Workdir:    "/srv",
		User:       "www-data:33",
		StopSignal: "SIGQUIT",
		Ports:      []string{"443/tcp", "80/tcp", "9000-9010/udp"},
		Volumes:    []string{"/data", "/var/log"},
		Labels:     map[string]string{"b": "2", "a": ""},
	}
}

// The bytes are part of the image format: they never change.
func TestGolden(t *testing.T) {
	for _, tt := range []struct {
		file string
		c    *Config
	}{
		{"testdata/empty.hex", &Config{}},
		{"testdata/full.hex", full()},
	} {
		want, err := os.ReadFile(tt.file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tt.c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if g, w := hex.EncodeToString(got), strings.TrimSpace(string(want)); g != w {
			t.Errorf("%s: Encode() =\n%s, want\n%s", tt.file, g, w)
		}
		back, err := Parse(got)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tt.c, back); d != "" {
			t.Errorf("%s: Parse(Encode()) differs (-want +got):\n%s", tt.file, d)
		}
	}
}

func TestEncodeSortsSets(t *testing.T) {
	c := full()
	c.Ports = []string{"80/tcp", "9000-9010/udp", "443/tcp", "80/tcp"}
	c.Volumes = []string{"/var/log", "/data", "/data"}
	got, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want, err := full().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("order of sets changed the encoding:\n%s", d)
	}
	if c.Ports[0] != "80/tcp" {
		t.Error("Encode changed its receiver")
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		c    Config
		kind fault.Kind
		want string
	}{
		"not UTF-8":    {Config{User: "\xff"}, fault.Invalid, "not UTF-8"},
		"zero byte":    {Config{Cmd: []string{"a\x00b"}}, fault.Invalid, "zero byte"},
		"env no value": {Config{Env: []string{"A"}}, fault.Invalid, "NAME=VALUE"},
		"env no name":  {Config{Env: []string{"=A"}}, fault.Invalid, "NAME=VALUE"},
		"port":         {Config{Ports: []string{"80"}}, fault.Invalid, "80"},
		"port zero":    {Config{Ports: []string{"0/tcp"}}, fault.Invalid, "0/tcp"},
		"port text":    {Config{Ports: []string{"080/tcp"}}, fault.Invalid, "080/tcp"},
		"port range":   {Config{Ports: []string{"9-8/tcp"}}, fault.Invalid, "9-8"},
		"port proto":   {Config{Ports: []string{"9/xtp"}}, fault.Invalid, "9/xtp"},
		"port large":   {Config{Ports: []string{"65536/tcp"}}, fault.Invalid, "65536"},
		"volume":       {Config{Volumes: []string{""}}, fault.Invalid, "volume"},
		"label":        {Config{Labels: map[string]string{"": "x"}}, fault.Invalid, "label"},
		"label value":  {Config{Labels: map[string]string{"x": "\xc0"}}, fault.Invalid, `label "x"`},
		"too large":    {Config{Labels: map[string]string{"x": strings.Repeat("x", MaxSize)}}, fault.Exhausted, "262144"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tt.c.Encode()
			if fault.Of(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Encode() = %v, want %s with %q", err, tt.kind, tt.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"empty":            "",
		"not a map":        "80",
		"unknown key":      "a10a00",
		"text key":         "a16465787472" + "00",
		"empty value":      "a10460",          // workdir "" is left out
		"empty list":       "a10180",          //
		"keys not sorted":  "a205616104616 1", // user before workdir
		"double key":       "a2056161056161",  //
		"long length":      "a1057801" + "61", // one byte length where none is needed
		"indefinite":       "bf056161ff",      //
		"tag":              "c0a0",            //
		"trailing":         "a000",            //
		"truncated":        "a105",            //
		"number for text":  "a10501",          //
		"bytes for text":   "a1054161",        //
		"ports not sorted": "a1078265382f7463706" + "5372f746370",
		"huge list":        "a1019b7fffffffffffffff",
		"huge text":        "a1057b7fffffffffffffff61",
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(in, " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c, err := Parse(raw); fault.Of(err) != fault.Invalid {
			t.Errorf("%s: Parse = %+v, %v, want invalid", name, c, err)
		}
	}
	if _, err := Parse(make([]byte, MaxSize+1)); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "262144") {
		t.Errorf("Parse of too many bytes = %v, want invalid", err)
	}
}

func TestOCI(t *testing.T) {
	raw, err := full().OCI()
	if err != nil {
		t.Fatal(err)
	}
	got, err := FromOCI(raw)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(full(), got); d != "" {
		t.Errorf("FromOCI(OCI()) differs (-want +got):\n%s", d)
	}
	got, err = FromOCI([]byte(`{"Cmd":"/bin/sh","Entrypoint":null,"Env":["A=1","B"],"ExposedPorts":{"80":{},"53/UDP":{}},"Healthcheck":{"Test":["x"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{Cmd: []string{"/bin/sh"}, Env: []string{"A=1", "B="}, Ports: []string{"53/udp", "80/tcp"}}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("FromOCI differs (-want +got):\n%s", d)
	}
	for _, in := range []string{`{"Cmd":7}`, `[]`, `{`, `{"Env":["=x"]}`, `{"ExposedPorts":{"x/tcp":{}}}`, `{"User":"a\u0000b"}`} {
		if _, err := FromOCI([]byte(in)); fault.Of(err) != fault.Invalid {
			t.Errorf("FromOCI(%s) = %v, want invalid", in, err)
		}
	}
	if c, err := FromOCI(nil); err != nil || len(c.Command()) != 0 {
		t.Errorf("FromOCI(nil) = %+v, %v", c, err)
	}
}

func TestRoundTrip(t *testing.T) {
	text := rapid.StringOf(rapid.Rune().Filter(func(r rune) bool { return r != 0 }))
	name := text.Filter(func(s string) bool { return s != "" && !strings.Contains(s, "=") })
	rapid.Check(t, func(t *rapid.T) {
		c := &Config{
			Entrypoint: rapid.SliceOf(text).Draw(t, "entrypoint"),
			Cmd:        rapid.SliceOf(text).Draw(t, "cmd"),
			Workdir:    text.Draw(t, "workdir"),
			User:       text.Draw(t, "user"),
			StopSignal: text.Draw(t, "signal"),
			Ports:      sorted(rapid.SliceOf(rapid.StringMatching(`[1-9][0-9]{0,3}/(tcp|udp|sctp)`)).Draw(t, "ports")),
			Volumes:    sorted(rapid.SliceOf(name).Draw(t, "volumes")),
			Labels:     rapid.MapOf(name, text).Draw(t, "labels"),
		}
		for range rapid.IntRange(0, 4).Draw(t, "variables") {
			c.Env = append(c.Env, name.Draw(t, "name")+"="+text.Draw(t, "value"))
		}
		raw, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("Parse(Encode()) differs:\n%s", d)
		}
		oci, err := c.OCI()
		if err != nil {
			t.Fatal(err)
		}
		if got, err = FromOCI(oci); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("FromOCI(OCI()) differs:\n%s", d)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := Parse(raw)
		if err != nil {
			return
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatalf("Encode of a parsed configuration: %v", err)
		}
		if d := cmp.Diff(raw, again); d != "" {
			t.Errorf("re-encoding differs:\n%s", d)
		}
	})
}

func FuzzFromOCI(f *testing.F) {
	f.Add([]byte(`{"Cmd":["sh"],"ExposedPorts":{"80":{}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := FromOCI(raw)
		if err != nil {
			return
		}
		enc, err := c.Encode()
		if err != nil {
			return // too large
		}
		if _, err := Parse(enc); err != nil {
			t.Errorf("Parse(Encode(FromOCI(%q))): %v", raw, err)
		}
	})
}
