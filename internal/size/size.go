// Package size reads numbers of bytes as people write them.
//
// There is one spelling for all programs and files: a decimal number with an
// optional unit, K, M, G or T, which may be followed by i or iB, in any case.
// All units are powers of 1024. MB and the like are refused, since they mean
// 1000² to some and 1024² to others. It doesn't write sizes.
//
//	n, err := size.Parse("1.5GiB") // 1610612736
package size

import (
	"math"
	"strconv"
	"strings"

	"zos.internal/internal/fault"
)

// maxFraction is the most digits after the point. With the largest unit the
// product still fits.
const maxFraction = 6

// Parse reads a number of bytes: 512, 20MiB, 1G, 1.5GiB. Part of a byte is
// dropped. What is no size, or more than an int64, is Invalid.
func Parse(s string) (int64, error) {
	bad := func(why string) (int64, error) {
		return 0, fault.Errorf(fault.Invalid, "the size %.40q %s; write a number of bytes such as 512, 20MiB or 1.5G", s, why)
	}
	number := strings.TrimRight(s, "BbiIKkMmGgTt")
	shift, ok := units()[strings.ToLower(s[len(number):])]
	if !ok {
		return bad("has an unknown unit: K, M, G and T, KiB, MiB, GiB and TiB are known")
	}
	whole, fraction, point := strings.Cut(number, ".")
	if !digits(whole) || point && !digits(fraction) {
		return bad("is no decimal number with a unit")
	}
	if point && (shift == 0 || len(fraction) > maxFraction) {
		return bad("has parts of a byte, or too many digits")
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > math.MaxInt64>>shift {
		return bad("is too large")
	}
	n <<= shift
	if point {
		f, err := strconv.ParseInt(fraction, 10, 64)
		if err != nil {
			return bad("is no decimal number with a unit")
		}
		unit := int64(1)
		for range fraction {
			unit *= 10
		}
		f = f << shift / unit
		if n > math.MaxInt64-f {
			return bad("is too large")
		}
		n += f
	}
	return n, nil
}

// units are the powers of two of the units.
func units() map[string]uint {
	all := map[string]uint{"": 0, "b": 0}
	for i, u := range []string{"k", "m", "g", "t"} {
		shift := uint(10 * (i + 1))
		all[u], all[u+"i"], all[u+"ib"] = shift, shift, shift
	}
	return all
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
