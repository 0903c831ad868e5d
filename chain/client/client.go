// Package client asks servers of a chain, and believes only what is proven.
//
// A Client sends requests to one server: transactions, lists, events, and answers
// for people. What a Client says is what the server says. A Light keeps a header
// that it trusts, follows the validators from there, and checks each record
// against their signatures, so that a server can withhold but not lie:
//
//	c, err := client.New("http://127.0.0.1:4600", nil)
//	l, err := client.NewLight(ctx, client.Options{Chain: "grid-1", Dir: dir, Trust: t, Primary: c, Witnesses: ws})
//	contract, at, err := client.Record[chain.Contract](ctx, l, chain.ContractKey(id))
//
// The package doesn't sign and keeps no keys.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"zos.internal/chain"
	"zos.internal/internal/fault"
)

// Bounds of what a server may send.
const (
	maxAnswer = 8 << 20 // bytes
	maxEvent  = 8 << 20 // bytes of one block's events
	timeout   = 20 * time.Second
	maxPages  = 2000             // of a list, 500 items each
	maxQuiet  = 60 * time.Second // without a sign of life on a stream; a server gives one every 15 s
)

// Client asks one server. It is safe for concurrent use.
type Client struct {
	base  string
	http  *http.Client
	quiet time.Duration // see maxQuiet
}

// New returns a client of a server, such as http://127.0.0.1:4600. A nil
// http.Client gets one with sensible limits. Redirects are not followed: a server
// answers for itself or not at all.
func New(server string, h *http.Client) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fault.Errorf(fault.Invalid, "chain server %.200q: write http://HOST:PORT or https://HOST", server)
	}
	if h == nil {
		h = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: timeout}}
	}
	own := *h
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{base: strings.TrimSuffix(u.String(), "/"), http: &own, quiet: maxQuiet}, nil
}

// Server is the address of the server.
func (c *Client) Server() string { return c.base }

// Get asks for a path such as /v1/contracts/7-3 and decodes the JSON answer into
// out. The error has the kind that the server gave, or Unavailable.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return fault.Errorf(fault.Invalid, "path %.200q: %w", path, err)
	}
	return c.do(req, out)
}

// All asks for every page of a list, of which a server may give up to a million
// items.
func All[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	var all []T
	join := "?"
	if strings.Contains(path, "?") {
		join = "&"
	}
	cursor := ""
	for range maxPages {
		var page chain.Page[T]
		if err := c.Get(ctx, path+join+"limit=500&cursor="+url.QueryEscape(cursor), &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Next == "" || page.Next == cursor {
			return all, nil
		}
		if len(page.Items) == 0 {
			return nil, fault.Errorf(fault.Invalid, "chain server %s: %s goes on after an empty page", c.base, path)
		}
		cursor = page.Next
	}
	return nil, fault.Errorf(fault.Invalid, "chain server %s: %s has more than %d items; ask for a part of them", c.base, path, len(all))
}

// Submit sends a signed transaction and waits until it is in a block. A refusal
// is an error of its kind; whether the transaction was in a block is in the
// answer. An Unavailable error says nothing about the transaction: ask for it by
// its id, or send the same bytes again, which is harmless.
func (c *Client) Submit(ctx context.Context, wire []byte) (chain.TxAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var a chain.TxAnswer
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+chain.PathTx, bytes.NewReader(wire))
	if err != nil {
		return a, fault.As(fault.Invalid, err)
	}
	req.Header.Set("Content-Type", "application/cbor")
	if err := c.do(req, &a); err != nil {
		return a, err
	}
	if a.Kind != "" {
		return a, fault.Errorf(fault.Kind(a.Kind), "%s", a.Error)
	}
	return a, nil
}

// Status asks what the server says about itself and its chain.
func (c *Client) Status(ctx context.Context) (s chain.Status, err error) {
	return s, c.Get(ctx, chain.PathStatus, &s)
}

// do sends a request and decodes a bounded answer.
func (c *Client) do(req *http.Request, out any) error {
	resp, err := c.http.Do(req)
	if err != nil {
		return fault.Errorf(fault.Unavailable, "ask chain server %s: %w", c.base, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fault.Errorf(fault.Unavailable, "read answer of chain server %s: %w", c.base, err)
	case len(b) > maxAnswer:
		return fault.Errorf(fault.Invalid, "chain server %s: the answer has more than %d bytes", c.base, maxAnswer)
	case resp.StatusCode >= 300:
		return problem(c.base, resp.StatusCode, b)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fault.Errorf(fault.Invalid, "chain server %s: the answer is not the JSON that was expected: %w", c.base, err)
	}
	return nil
}

// problem turns an error answer into an error of the kind that it names.
func problem(server string, status int, b []byte) error {
	var p chain.Problem
	kind := fault.FromHTTPStatus(status)
	if json.Unmarshal(b, &p) == nil && p.Detail != "" {
		for _, k := range fault.Kinds() {
			if string(k) == p.Kind {
				kind = k
			}
		}
		return fault.Errorf(kind, "%s", p.Detail)
	}
	return fault.Errorf(kind, "chain server %s answered with status %d: %.200q", server, status, b)
}

// Events yields what happens in blocks from a height on (0: from the next), for
// event types that begin with one of the topics (none: all), until the context
// ends or the connection breaks. To resume, ask again from the last height + 1.
func (c *Client) Events(ctx context.Context, from uint64, topics ...string) iter.Seq2[chain.BlockEvents, error] {
	return func(yield func(chain.BlockEvents, error) bool) {
		q := url.Values{}
		if from > 0 {
			q.Set("from", fmt.Sprint(from))
		}
		if len(topics) > 0 {
			q.Set("topic", strings.Join(topics, ","))
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+chain.PathEvents+"?"+q.Encode(), nil)
		if err != nil {
			yield(chain.BlockEvents{}, fault.As(fault.Invalid, err))
			return
		}
		resp, err := c.http.Do(req)
		if err != nil {
			yield(chain.BlockEvents{}, fault.Errorf(fault.Unavailable, "follow events of chain server %s: %w", c.base, err))
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16)) // what it says, as far as it says it
			yield(chain.BlockEvents{}, problem(c.base, resp.StatusCode, b))
			return
		}
		body := &watched{body: resp.Body, quiet: c.quiet}
		body.timer = time.AfterFunc(c.quiet, func() { _ = resp.Body.Close() }) // which ends the read
		defer body.timer.Stop()
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, maxEvent)
		for lines.Scan() {
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			if !ok {
				continue
			}
			var b chain.BlockEvents
			if err := json.Unmarshal([]byte(data), &b); err != nil {
				yield(b, fault.Errorf(fault.Invalid, "events of chain server %s: %w", c.base, err))
				return
			}
			if !yield(b, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil || ctx.Err() == nil {
			yield(chain.BlockEvents{}, fault.Errorf(fault.Unavailable, "events of chain server %s ended: %w", c.base, cmpErr(err)))
		}
	}
}

// watched reads a stream whose body is closed when nothing comes for a while: a
// server that hangs says so by nothing else.
type watched struct {
	body  io.Reader
	quiet time.Duration
	timer *time.Timer
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.body.Read(p)
	w.timer.Reset(w.quiet)
	return n, err
}

func cmpErr(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// proof asks for records of one state.
func (c *Client) proof(ctx context.Context, least uint64, keys [][]byte) (chain.Proof, error) {
	q := url.Values{}
	for _, k := range keys {
		q.Add("key", hex.EncodeToString(k))
	}
	if least > 0 {
		q.Set("height", fmt.Sprint(least))
	}
	var p chain.Proof
	return p, c.Get(ctx, chain.PathProof+"?"+q.Encode(), &p)
}
