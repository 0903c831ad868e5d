package workload

import (
	"fmt"
	"strconv"
	"strings"

	"zos.internal/internal/fault"
	"zos.internal/internal/size"
)

// Size is a number of bytes that prints as people write it: 10 GiB.
type Size uint64

// String is exact: the biggest unit that divides the size.
func (s Size) String() string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB"}
	n, u := uint64(s), 0
	for u < len(units)-1 && n != 0 && n%1024 == 0 {
		n, u = n/1024, u+1
	}
	return fmt.Sprintf("%d %s", n, units[u])
}

// ParseSize reads a size as every program of ours does (internal/size), with an
// optional space before the unit: 10 GiB, 1.5MiB, 4G or plain bytes. Units are
// powers of 1024; MB and the like are refused. The result is below 2^53.
func ParseSize(s string) (uint64, error) {
	text := s
	if digits, unit, ok := strings.Cut(s, " "); ok && unit != "" && digits != "" {
		text = digits + unit
	}
	n, err := size.Parse(text)
	if err == nil && (n > maxNumber || strings.Contains(text, " ")) {
		err = fault.Errorf(fault.Invalid, "it is not below 2^53")
	}
	if err != nil {
		return 0, fault.Errorf(fault.Invalid, "%s is not a size; write a number of bytes such as 1073741824, 512 MiB or 1.5 GiB (MB and GB are not clear, they are refused)", short(s))
	}
	return uint64(n), nil
}

// ParseCPU reads processors, 1.5 or 2, as thousandths.
func ParseCPU(s string) (uint64, error) {
	n, ok := decimal(s)
	if !ok {
		return 0, fault.Errorf(fault.Invalid, "%s is not a number of processors; write 2 or 1.5, with at most three decimals", short(s))
	}
	return n, nil
}

// decimal is the digits of s, with at most one point and three decimals, times
// 1000.
func decimal(s string) (uint64, bool) {
	whole, part, point := strings.Cut(s, ".")
	part = strings.TrimRight(part, "0")
	if !digits(whole) || point && strings.HasSuffix(s, ".") || len(whole) > 12 || len(part) > 3 || strings.Trim(part, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseUint(whole+part+"000"[len(part):], 10, 64)
	return n, err == nil
}
