package web_test

import (
	"math"
	"strconv"
)

// rgb is a colour of six hexadecimal digits, each part from 0 to 1.
func rgb(s string) (c [3]float64) {
	for i := range c {
		n, err := strconv.ParseUint(s[2*i:2*i+2], 16, 8)
		if err != nil {
			panic(err)
		}
		c[i] = float64(n) / 255
	}
	return c
}

// contrast is the ratio of WCAG 2.
func contrast(a, b [3]float64) float64 {
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

func luminance(c [3]float64) float64 {
	var l float64
	for i, w := range []float64{0.2126, 0.7152, 0.0722} {
		v := c[i] / 12.92
		if c[i] > 0.04045 {
			v = math.Pow((c[i]+0.055)/1.055, 2.4)
		}
		l += w * v
	}
	return l
}
