package protocol

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"zos.internal/internal/fault"
)

// Problem is an RFC 9457 problem document. Kind is the kind of the error;
// Missing lists keys that have to be uploaded first (409 on a root, locator or
// pointer).
type Problem struct {
	Type    string   `json:"type"`
	Title   string   `json:"title"`
	Status  int      `json:"status"`
	Detail  string   `json:"detail"`
	Kind    string   `json:"kind"`
	Missing []string `json:"missing,omitempty"`
}

// MissingError is the Conflict of something that names absent things. It lists
// at most MaxMissing keys; More counts the rest.
type MissingError struct {
	Object string
	Keys   []string
	More   int
}

// MaxMissing bounds the keys listed in one problem document.
const MaxMissing = 1000

// Error says what is missing.
func (e *MissingError) Error() string {
	return "publish " + e.Object + ": " + strconv.Itoa(len(e.Keys)+e.More) + " things that it names are missing here, first " + e.Keys[0] + "; upload them and repeat"
}

// Missing is the Conflict of object, which names the absent keys. It returns
// nil if there are none.
func Missing(object string, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	e := &MissingError{Object: object, Keys: keys}
	if len(keys) > MaxMissing {
		e.Keys, e.More = keys[:MaxMissing], len(keys)-MaxMissing
	}
	return fault.As(fault.Conflict, e)
}

// WriteProblem answers a request with err. The texts of Internal errors stay
// in the log of the server.
func WriteProblem(w http.ResponseWriter, kind fault.Kind, detail string, missing []string) {
	p := Problem{
		Type:    "about:blank",
		Title:   strings.ReplaceAll(string(kind), "_", " "),
		Status:  kind.HTTPStatus(),
		Detail:  detail,
		Kind:    string(kind),
		Missing: missing,
	}
	if len(p.Missing) > MaxMissing {
		p.Missing = p.Missing[:MaxMissing]
	}
	h := w.Header()
	h.Del("ETag")
	h.Del("Content-Range")
	h.Del("Last-Modified")
	h.Set("Content-Type", TypeProblem)
	h.Set("Cache-Control", "no-store")
	b, err := json.Marshal(p)
	if err != nil {
		b = []byte(`{"type":"about:blank","title":"internal","status":500,"kind":"internal"}`)
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(p.Status)
	w.Write(b) // the client may be gone; nobody else can use the error
}

// ReadProblem turns a response that is not a success into an error. It reads
// at most 64 KiB and works with servers that know nothing of problems. what
// names the request ("put p/12ab… to host").
func ReadProblem(resp *http.Response, what string) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // a torn body still has its status
	kind := fault.FromHTTPStatus(resp.StatusCode)
	var p Problem
	if strings.HasPrefix(resp.Header.Get("Content-Type"), TypeProblem) && json.Unmarshal(b, &p) == nil {
		for _, k := range fault.Kinds() {
			if string(k) == p.Kind {
				kind = k
			}
		}
		if len(p.Missing) > 0 && kind == fault.Conflict {
			return Missing(what, p.Missing)
		}
		return fault.Errorf(kind, "%s: %s", what, clip(p.Detail))
	}
	return fault.Errorf(kind, "%s: the server answered %d %s", what, resp.StatusCode, http.StatusText(resp.StatusCode))
}

// clip bounds a text of a peer and takes control characters out of it.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > 1024 {
		s = strings.ToValidUTF8(s[:1024], "") + "…"
	}
	return s
}
