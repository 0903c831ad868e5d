package workload

import (
	"fmt"
	"strconv"
	"strings"

	"zos.internal/internal/fault"
)

// Size is a number of bytes that prints as people write it: 10 GiB.
type Size uint64

// String is exact: the biggest unit that divides the size.
func (s Size) String() string {
	units := [...]string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	n, u := uint64(s), 0
	for u < len(units)-1 && n != 0 && n%1024 == 0 {
		n, u = n/1024, u+1
	}
	return fmt.Sprintf("%d %s", n, units[u])
}

// ParseSize reads 10 GiB, 1.5MiB, 500 MB or plain bytes. The units are B, KiB,
// MiB, GiB, TiB (powers of 1024) and kB, MB, GB, TB (powers of 1000). The result
// must be a whole number of bytes, below 2^53.
func ParseSize(s string) (uint64, error) {
	digits := strings.TrimRight(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz ")
	unit := strings.TrimPrefix(s[len(digits):], " ")
	scale, ok := map[string]uint64{"": 1, "B": 1, "bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
		"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[unit]
	if !ok {
		return 0, fault.Errorf(fault.Invalid, "%s is not a size: unknown unit %s; use B, KiB, MiB, GiB, TiB (or kB, MB, GB, TB for powers of 1000)", short(s), short(unit))
	}
	n, ok := decimal(digits, scale)
	if !ok {
		return 0, fault.Errorf(fault.Invalid, "%s is not a size; write a whole number of bytes such as 1073741824 or 1 GiB", short(s))
	}
	return n, nil
}

// ParseCPU reads processors, 1.5 or 2, as thousandths.
func ParseCPU(s string) (uint64, error) {
	n, ok := decimal(s, 1000)
	if !ok {
		return 0, fault.Errorf(fault.Invalid, "%s is not a number of processors; write 2 or 1.5, with at most three decimals", short(s))
	}
	return n, nil
}

// decimal is the digits of s, with at most one point, times scale, if that is a
// whole number below 2^53.
func decimal(s string, scale uint64) (uint64, bool) {
	whole, part, point := strings.Cut(s, ".")
	if whole == "" || len(whole) > 16 || len(part) > 12 || point && part == "" || len(whole) > 1 && whole[0] == '0' {
		return 0, false
	}
	w, err := strconv.ParseUint(whole, 10, 64)
	if err != nil || whole[0] == '+' || w > maxNumber/scale {
		return 0, false
	}
	n := w * scale
	if part = strings.TrimRight(part, "0"); part != "" {
		p, err := strconv.ParseUint(part, 10, 64)
		if err != nil || part[0] == '+' {
			return 0, false
		}
		ten := uint64(1)
		for range part {
			ten *= 10
		}
		// part < 10^12 and scale ≤ 2^40: the product may pass 2^64, so reduce first.
		g := gcd(ten, scale)
		if p%(ten/g) != 0 {
			return 0, false
		}
		n += p / (ten / g) * (scale / g)
	}
	return n, n <= maxNumber
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
