// Package fault gives errors a kind that survives every boundary.
//
// The set of kinds is closed. Each kind is itself an error, so that callers
// branch with errors.Is(err, fault.NotFound), and maps in one table to an
// HTTP status (RFC 9457 problem documents), a process exit code and the
// reason of an event. The text of an error says what happened, to which
// object, and what to do next; the kind is never part of the text.
package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// Kind is the class of an error. The zero value is not a kind.
type Kind string

// The closed set of kinds.
const (
	Invalid     Kind = "invalid"     // the request or the data can never be right
	Denied      Kind = "denied"      // the caller may not do this
	NotFound    Kind = "not_found"   // the object does not exist
	Conflict    Kind = "conflict"    // the object is in another state or version
	Exhausted   Kind = "exhausted"   // a limit, quota or disk is full
	Unavailable Kind = "unavailable" // try again later or elsewhere
	Expired     Kind = "expired"     // valid once, not any more
	Funds       Kind = "funds"       // not enough money
	Unsupported Kind = "unsupported" // this build or machine cannot do it
	Internal    Kind = "internal"    // a bug or broken invariant
)

// Error makes a Kind usable as the target of errors.Is.
func (k Kind) Error() string { return string(k) }

type mapping struct {
	kind   Kind
	status int
	exit   int
}

// table is the only place where kinds meet other worlds.
var table = []mapping{
	{Invalid, 400, 1},
	{Denied, 403, 4},
	{NotFound, 404, 3},
	{Conflict, 409, 5},
	{Exhausted, 507, 1},
	{Unavailable, 503, 6},
	{Expired, 410, 1},
	{Funds, 402, 1},
	{Unsupported, 501, 1},
	{Internal, 500, 1},
}

// Kinds returns every kind, in the order of the documentation.
func Kinds() []Kind {
	ks := make([]Kind, len(table))
	for i, m := range table {
		ks[i] = m.kind
	}
	return ks
}

// HTTPStatus is the status code that carries k.
func (k Kind) HTTPStatus() int {
	for _, m := range table {
		if m.kind == k {
			return m.status
		}
	}
	return 500
}

// ExitCode is the process exit code that carries k.
func (k Kind) ExitCode() int {
	for _, m := range table {
		if m.kind == k {
			return m.exit
		}
	}
	return 1
}

// FromHTTPStatus is the inverse of HTTPStatus for statuses that have a kind;
// others map to Invalid (4xx) or Unavailable (the rest).
func FromHTTPStatus(status int) Kind {
	for _, m := range table {
		if m.status == status {
			return m.kind
		}
	}
	switch {
	case status == 401:
		return Denied
	case status == 413 || status == 429:
		return Exhausted
	case status == 412:
		return Conflict
	case status >= 400 && status < 500:
		return Invalid
	}
	return Unavailable
}

type fault struct {
	kind Kind
	err  error
}

func (f *fault) Error() string        { return f.err.Error() }
func (f *fault) Unwrap() error        { return f.err }
func (f *fault) Is(target error) bool { return target == f.kind }

// Errorf formats an error of kind k. It wraps like fmt.Errorf does.
func Errorf(k Kind, format string, args ...any) error {
	return &fault{kind: k, err: fmt.Errorf(format, args...)}
}

// As gives err the kind k and keeps its text. As(k, nil) is nil.
func As(k Kind, err error) error {
	if err == nil {
		return nil
	}
	return &fault{kind: k, err: err}
}

// Of is the kind of err: the outermost kind in its chain, a kind for the
// well-known errors of the standard library, else Internal. Of(nil) is "".
func Of(err error) Kind {
	if err == nil {
		return ""
	}
	var f *fault
	if errors.As(err, &f) {
		return f.kind
	}
	var k Kind
	switch {
	case errors.As(err, &k):
		return k
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	case errors.Is(err, fs.ErrPermission):
		return Denied
	case errors.Is(err, fs.ErrExist):
		return Conflict
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Unavailable
	}
	return Internal
}
