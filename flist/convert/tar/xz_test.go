package tar

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"zos.internal/internal/fault"
)

// The xz program's streams: several blocks, several streams, every checksum,
// padding, incompressible parts.
func TestXZProgram(t *testing.T) {
	program, err := exec.LookPath("xz")
	if err != nil {
		t.Skip("no xz program")
	}
	var plain bytes.Buffer
	for i := range 8_000 {
		fmt.Fprintf(&plain, "%d %x\n", i, i*i*7919)
	}
	random := make([]byte, 100<<10)
	x := uint32(1)
	for i := range random {
		x = x*1664525 + 1013904223
		random[i] = byte(x >> 24)
	}
	plain.Write(random)
	compress := func(args ...string) []byte {
		cmd := exec.Command(program, append([]string{"-c"}, args...)...)
		cmd.Stdin = bytes.NewReader(plain.Bytes())
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, args := range []string{"-0", "-9", "-T2 --block-size=30000", "-1 --check=none", "-1 --check=crc32", "-1 --check=sha256"} {
		raw := compress(strings.Fields(args)...)
		two := append(append(bytes.Clone(raw), 0, 0, 0, 0), raw...)
		for i, in := range [][]byte{raw, two} {
			r, name, err := Decompress(bytes.NewReader(in))
			if err != nil || name != "xz" {
				t.Fatalf("xz %s: %q, %v", args, name, err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, bytes.Repeat(plain.Bytes(), i+1)) {
				t.Errorf("xz %s: %d bytes, %v", args, len(got), err)
			}
		}
		for _, cut := range []int{len(raw) - 1, len(raw) - 12, len(raw) - 13, len(raw) - 30, len(raw) / 2} {
			r, _, err := Decompress(bytes.NewReader(raw[:cut]))
			if err == nil {
				_, err = io.ReadAll(r)
			}
			if fault.Of(err) != fault.Invalid {
				t.Errorf("xz %s: cut after %d of %d: %v", args, cut, len(raw), err)
			}
		}
	}
	r, _, err := Decompress(bytes.NewReader(compress("--x86", "--lzma2")))
	if err == nil {
		_, err = io.ReadAll(r)
	}
	if fault.Of(err) != fault.Unsupported {
		t.Errorf("another filter: %v, want unsupported", err)
	}
}

// A header that asks for 4 GiB is refused before the decoder sees it.
func TestXZMemory(t *testing.T) {
	raw := []byte("\xfd7zXZ\x00\x00\x01\x69\x22\xde\x36" + "\x02\x00\x21\x01\x28\x00\x00\x00" + "\x00\x00\x00\x00")
	g := &xzGuard{r: bufio.NewReader(bytes.NewReader(raw))}
	_, err := io.ReadAll(g)
	if fault.Of(err) != fault.Exhausted || !strings.Contains(err.Error(), "4294967295 bytes of memory") {
		t.Errorf("read = %v, want exhausted", err)
	}
}
