package identity

import (
	"fmt"
	"log/slog"
)

// redacted is embedded in every type that holds a secret. It keeps the secret
// out of every print, log, JSON, YAML and text.
type redacted struct{}

const hidden = "[redacted]"

// String is [redacted].
func (redacted) String() string { return hidden }

// GoString is [redacted].
func (redacted) GoString() string { return hidden }

// Format writes [redacted] for every verb.
func (redacted) Format(f fmt.State, _ rune) { fmt.Fprint(f, hidden) }

// LogValue is [redacted].
func (redacted) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText is [redacted].
func (redacted) MarshalText() ([]byte, error) { return []byte(hidden), nil }
