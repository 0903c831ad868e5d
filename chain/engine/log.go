package engine

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	cmtlog "github.com/cometbft/cometbft/libs/log"
)

// logger gives the consensus engine's messages to slog, one level lower than it
// calls them: its Info is a diary of every step. What it says when it gives up
// is told to failed, because it then stands while the process lives.
type logger struct {
	log    *slog.Logger
	failed func(error)
	quiet  bool // connections come and go, and are mended by dialling again
}

var _ cmtlog.Logger = logger{}

const consensusFailure = "CONSENSUS FAILURE!!!"

func (l logger) Debug(string, ...any) {}

func (l logger) Info(msg string, kv ...any) { l.write(slog.LevelDebug, msg, kv) }

func (l logger) Warn(msg string, kv ...any) { l.write(slog.LevelInfo, msg, kv) }

func (l logger) Error(msg string, kv ...any) {
	level := slog.LevelWarn
	if l.quiet {
		level = slog.LevelDebug
	}
	switch msg {
	case consensusFailure, "State sync failed", "Failed to bootstrap node with new state", "Failed to store last seen commit", "Failed to switch to block sync":
		level = slog.LevelError
		for i := 0; i+1 < len(kv); i += 2 {
			if kv[i] == "err" {
				l.failed(gaveUp(msg, kv[i+1]))
			}
		}
	}
	l.write(level, msg, kv)
}

// gaveUp is the error of a node whose engine stands.
func gaveUp(msg string, why any) error {
	err := fmt.Errorf("the consensus engine gave up (%s): %v", strings.ToLower(strings.TrimRight(msg, "!")), why)
	if strings.Contains(err.Error(), "too far in the future") {
		err = fmt.Errorf("%w; the others made this block, so set the clock of this machine and start again", err)
	}
	return err
}

func (l logger) With(kv ...any) cmtlog.Logger {
	quiet := l.quiet || len(kv) == 2 && kv[0] == "module" && kv[1] == "p2p"
	return logger{l.log.With(kv...), l.failed, quiet}
}

// write formats only what is wanted.
func (l logger) write(level slog.Level, msg string, kv []any) {
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	for i := 1; i < len(kv); i += 2 {
		if s, ok := kv[i].(fmt.Stringer); ok {
			kv[i] = s.String()
		}
	}
	l.log.Log(context.Background(), level, msg, kv...)
}
