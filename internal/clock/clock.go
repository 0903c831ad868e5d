// Package clock is the only place that reads the wall clock.
//
// Code that needs the time takes a Clock, so that tests can set it. A test in
// the root of the module fails when time.Now is called elsewhere.
package clock

import "time"

// Clock tells the time.
type Clock interface {
	Now() time.Time
}

// System is the machine's clock.
type System struct{}

// Now returns the current time with its monotonic reading.
func (System) Now() time.Time { return time.Now() }

// Fixed is a clock that stands still.
type Fixed time.Time

// Now returns the fixed time.
func (f Fixed) Now() time.Time { return time.Time(f) }

// Since is the time that passed on c since t.
func Since(c Clock, t time.Time) time.Duration { return c.Now().Sub(t) }
