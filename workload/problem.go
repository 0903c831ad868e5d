package workload

import (
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"

	"zos.internal/internal/fault"
)

// MaxProblems is how many problems of a document are reported; the rest are
// left out, and the last one says so.
const MaxProblems = 50

// Problem is one thing that is wrong in a document.
type Problem struct {
	Path    string `json:"path"`   // workloads[1].data.compute_capacity.memory; "" is the document
	Line    int    `json:"line"`   // from 1; 0 when there is no text, as for cross checks of built documents
	Column  int    `json:"column"` // in characters, from 1
	Byte    int    `json:"byte"`   // offset into the text, from 0
	Message string `json:"message"`
}

// String is "line 3, column 7, byte 41: workloads[0].name: …".
func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d, column %d, byte %d: ", p.Line, p.Column, p.Byte)
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	return b.String() + p.Message
}

// Problems is the error of a document: everything that is wrong with it, in
// the order of the text. Its kind is fault.Invalid.
type Problems []Problem

// Error has one problem per line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives problems their kind.
func (ps Problems) Unwrap() error { return fault.Invalid }

// issue is a problem before its place in the text is worked out.
type issue struct {
	at   int // offset into the JSON text
	path string
	text string
}

// report collects issues; it is bounded, so a bad document costs little.
type report struct {
	issues []issue
	more   int
}

func (r *report) add(at int, path, format string, args ...any) {
	if len(r.issues) >= MaxProblems {
		r.more++
		return
	}
	r.issues = append(r.issues, issue{at, path, fmt.Sprintf(format, args...)})
}

// err places the issues in the text, in its order. It is nil when there are none.
func (r *report) err(place placer) error {
	if len(r.issues) == 0 {
		return nil
	}
	sort.SliceStable(r.issues, func(i, j int) bool { return r.issues[i].at < r.issues[j].at })
	ps := make(Problems, len(r.issues))
	for i, is := range r.issues {
		ps[i] = Problem{Path: is.path, Message: is.text}
		ps[i].Byte, ps[i].Line, ps[i].Column = place(is.at)
	}
	if r.more > 0 {
		ps[len(ps)-1].Message += fmt.Sprintf(" (and %d more problems)", r.more)
	}
	return ps
}

// placer turns an offset into the JSON text into a place in the text that the
// person wrote, which is the same text or the YAML it came from.
type placer func(at int) (offset, line, column int)

// inText places offsets in src itself.
func inText(src string) placer {
	return func(at int) (int, int, int) {
		at = min(max(at, 0), len(src))
		before := src[:at]
		start := strings.LastIndexByte(before, '\n') + 1
		return at, 1 + strings.Count(before, "\n"), 1 + utf8.RuneCountInString(before[start:])
	}
}

// nearest is the known word that was probably meant, or "".
func nearest(word string, known []string) string {
	best, least := "", 1+max(1, len(word)/3)
	for _, k := range known {
		if strings.EqualFold(word, k) {
			return k
		}
		if len(word) > 40 || len(k)-len(word) > 3 || len(word)-len(k) > 3 {
			continue
		}
		if d := distance(strings.ToLower(word), k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is the number of inserted, removed, changed or swapped bytes.
func distance(a, b string) int {
	prev2, prev := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev = prev, row
	}
	return prev[len(b)]
}

// short quotes at most 60 bytes of s.
func short(s string) string {
	if len(s) > 60 {
		cut := 60
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		return fmt.Sprintf("%q…", s[:cut])
	}
	return fmt.Sprintf("%q", s)
}
