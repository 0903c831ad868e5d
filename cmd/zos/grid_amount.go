package main

import (
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"

	"zos.internal/chain"
	"zos.internal/internal/fault"
)

// Amounts, rates and times as people write them.

// parseCredits reads credits, "1.5" or "1.5 credits", as nano-credits.
func parseCredits(field, text string) (uint64, error) {
	s := strings.TrimSpace(text)
	for _, unit := range []string{"credits", "credit"} {
		s = strings.TrimSpace(strings.TrimSuffix(s, unit))
	}
	r, ok := decimal(s)
	if !ok {
		return 0, fault.Errorf(fault.Invalid, "%s %.60q: write an amount of credits such as 1.5", field, text)
	}
	r.Mul(r, big.NewRat(chain.Credit, 1))
	if !r.IsInt() {
		return 0, fault.Errorf(fault.Invalid, "%s %.60q: credits have at most nine decimals", field, text)
	}
	if !r.Num().IsUint64() {
		return 0, fault.Errorf(fault.Invalid, "%s %.60q: more than there can be", field, text)
	}
	return r.Num().Uint64(), nil
}

func decimal(s string) (*big.Rat, bool) {
	if !regexp.MustCompile(`^[0-9]{1,20}(\.[0-9]{1,20})?$`).MatchString(s) {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

// credits shows nano-credits, with all digits that matter.
func credits(nano uint64) string {
	s := strings.TrimRight(fmt.Sprintf("%d.%09d", nano/chain.Credit, nano%chain.Credit), "0")
	s = strings.TrimSuffix(s, ".")
	if nano == chain.Credit {
		return "1 credit"
	}
	return s + " credits"
}

// parseRate reads credits in a span, "0.36" or "0.36/h", "1/day", "30/month", as
// pico-credits a second, to the nearest. A month is 30 days.
func parseRate(field, text string) (uint64, error) {
	s, unit, slash := strings.Cut(strings.ReplaceAll(text, " ", ""), "/")
	seconds := map[string]int64{"s": 1, "h": 3600, "hour": 3600, "day": 86400, "d": 86400, "month": 30 * 86400}[unit]
	if !slash {
		seconds = 3600
	}
	r, ok := decimal(strings.TrimSuffix(strings.TrimSuffix(s, "credits"), "credit"))
	if !ok || seconds == 0 {
		return 0, fault.Errorf(fault.Invalid, "%s %.60q: write credits an hour such as 0.36, or 0.0001/s, 8.64/day, 259.2/month", field, text)
	}
	r.Mul(r, big.NewRat(chain.Credit*chain.Pico, seconds))
	r.Add(r, big.NewRat(1, 2)) // to the nearest
	n := new(big.Int).Quo(r.Num(), r.Denom())
	if !n.IsUint64() {
		return 0, fault.Errorf(fault.Invalid, "%s %.60q: more than a price can be", field, text)
	}
	return n.Uint64(), nil
}

// hourly shows pico-credits a second as credits an hour.
func hourly(rate uint64) string {
	n := new(big.Int).Mul(new(big.Int).SetUint64(rate), big.NewInt(3600))
	return trimDecimal(new(big.Rat).SetFrac(n, big.NewInt(chain.Credit*chain.Pico)).FloatString(12)) + " credits/h"
}

func trimDecimal(s string) string {
	if !strings.Contains(s, ".") {
		return s
	}
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// parsePicoCredits reads credits as pico-credits: the price of a GiB sent.
func parsePicoCredits(field, text string) (uint64, error) {
	n, err := parseCredits(field, text)
	if err == nil && n > ^uint64(0)/chain.Pico {
		err = fault.Errorf(fault.Invalid, "%s %.60q: more than a price can be", field, text)
	}
	return n * chain.Pico, err
}

// parseSpan reads 30d, 12h, 10m, 45s, or 1h30m, as seconds.
func parseSpan(field, text string) (int64, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 20); err == nil {
			return int64(n) * 86400, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d%time.Second != 0 {
		return 0, fault.Errorf(fault.Invalid, "%s %.60q: write a span such as 30d, 12h or 90m, in whole seconds", field, text)
	}
	return int64(d / time.Second), nil
}

// when reads a moment, 2026-05-01T12:00:00Z, or a span from now, as unix seconds.
func when(field, text string, now time.Time) (int64, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil && t.Unix() > 0 {
		return t.Unix(), nil
	}
	s, err := parseSpan(field, text)
	if err != nil {
		return 0, fault.Errorf(fault.Invalid, "%s %.60q: write a time such as 2030-05-01T12:00:00Z, or a span from now such as 30d", field, text)
	}
	return now.Unix() + s, nil
}

// clockTime shows unix seconds.
func clockTime(unix int64) string {
	if unix == 0 {
		return "-"
	}
	return time.Unix(unix, 0).UTC().Format(time.RFC3339)
}

// span shows seconds in words, with its two largest units.
func span(seconds int64) string {
	var out []string
	for _, u := range []struct {
		name string
		size int64
	}{{"day", 86400}, {"hour", 3600}, {"minute", 60}, {"second", 1}} {
		n := seconds / u.size
		seconds %= u.size
		if n == 0 || len(out) == 2 {
			if len(out) > 0 {
				break
			}
			continue
		}
		s := fmt.Sprintf("%d %s", n, u.name)
		if n > 1 {
			s += "s"
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return "0 seconds"
	}
	return strings.Join(out, " ")
}

// percent shows parts per million.
func percent(ppm uint64) string {
	return trimDecimal(big.NewRat(int64(ppm), 10_000).FloatString(4)) + " %"
}
