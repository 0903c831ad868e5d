package size_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"zos.internal/internal/fault"
	"zos.internal/internal/size"
)

func ExampleParse() {
	n, err := size.Parse("1.5GiB")
	fmt.Println(n, err)
	// Output: 1610612736 <nil>
}

func TestParse(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "12": 12, "007": 7, "512B": 512, "9223372036854775807": math.MaxInt64,
		"1K": 1 << 10, "1k": 1 << 10, "1Ki": 1 << 10, "1KiB": 1 << 10, "1kib": 1 << 10,
		"20MiB": 20 << 20, "3m": 3 << 20, "1G": 1 << 30, "2TiB": 2 << 40, "8388607TiB": 8388607 << 40,
		"1.5GiB": 3 << 29, "0.5K": 512, "0.000001T": 1099511, "0.999999TiB": 1099510528264, "1.25Mi": 5 << 18, "0.0001K": 0,
	} {
		if got, err := size.Parse(s); err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", " ", "MiB", "NaN", "nan", "Inf", "+Inf", "infinity", "-1", "+1", "1e3", "0x10", "1_000", "1,5G", "1 MiB", " 1", "1\n",
		"1MB", "1kb", "1GB", "1BMi", "1iB", "1i", "1KK", "1P", "1E", "1.5", "1.5B", ".5G", "5.G", "1.2.3G", "1.1234567G",
		"9223372036854775808", "8388608TiB", "9999999TiB", "8388608.5T", "99999999999999999999", strings.Repeat("9", 1000), "١G", "1G\x00",
	} {
		if got, err := size.Parse(s); !errors.Is(err, fault.Invalid) || got != 0 {
			t.Errorf("Parse(%q) = %d, %v, want an invalid", s, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		n, err := size.Parse(s)
		if err != nil {
			if !errors.Is(err, fault.Invalid) || n != 0 || len(err.Error()) > 500 {
				t.Errorf("Parse(%q) = %d, %v", s, n, err)
			}
			return
		}
		if n < 0 {
			t.Errorf("Parse(%q) = %d", s, n)
		}
		// What was read means the same as a plain number.
		if again, err := size.Parse(fmt.Sprint(n)); err != nil || again != n {
			t.Errorf("Parse(%d) = %d, %v", n, again, err)
		}
		if upper, err := size.Parse(strings.ToUpper(s)); err != nil || upper != n {
			t.Errorf("Parse(%q) = %d, %v, want %d as of %q", strings.ToUpper(s), upper, err, n, s)
		}
	})
}
