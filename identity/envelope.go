package identity

import (
	"context"
	"fmt"
	"time"

	"zos.internal/internal/canon"
	"zos.internal/internal/clock"
	"zos.internal/internal/fault"
)

// Endpoint seals what a party sends and opens what it receives.
//
// An envelope is CBOR [header, ciphertext, signature]. The ciphertext is HPKE
// with the header as additional data, and the header names the sender: so
// nobody can take a signature off and pass the message on as his own. There is
// no fallback to plain text.
type Endpoint struct {
	Party     Party
	Index     uint32      // of Key in the party's list
	Key       *PrivateKey // signs
	KEM       *KEMKeys    // opens; nil: the endpoint only seals
	Directory Directory
	Replays   Replays // nil: the endpoint only seals
	Clock     clock.Clock
}

// Seal encrypts m to its receiver and signs it as from the endpoint's party. ID,
// Created, TTL and From are filled in when they are zero, in m too, so that a
// sender who hears nothing repeats the same bytes. It is Unavailable when the
// receiver has no KEM key.
func (e *Endpoint) Seal(ctx context.Context, m *Message) ([]byte, error) {
	b, err := e.seal(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("seal message to party %d: %w", m.To, err)
	}
	return b, nil
}

func (e *Endpoint) seal(ctx context.Context, m *Message) ([]byte, error) {
	if m.From == 0 {
		m.From = e.Party
	}
	if m.From != e.Party {
		return nil, fault.Errorf(fault.Denied, "the message is from party %d and this is party %d", m.From, e.Party)
	}
	if m.ID == (MessageID{}) {
		m.ID = NewMessageID()
	}
	if m.Created.IsZero() {
		m.Created = e.Clock.Now()
	}
	m.Created = m.Created.Truncate(time.Millisecond).UTC()
	if m.TTL == 0 {
		m.TTL = DefaultTTL
	}
	if m.TTL%time.Second != 0 || m.TTL < 0 || m.TTL > MaxTTL {
		return nil, fault.Errorf(fault.Invalid, "ttl %v: whole seconds up to %v are possible", m.TTL, MaxTTL)
	}
	h := header{
		Version: 1, Class: m.Class, From: m.From, To: m.To, ID: m.ID,
		Created: uint64(m.Created.UnixMilli()), TTL: uint32(m.TTL / time.Second), Epoch: FirstEpoch,
	}
	if m.Class == Reply {
		h.Request = m.Request[:]
	} else if m.Request != (MessageID{}) {
		return nil, fault.Errorf(fault.Invalid, "a %v has no request id", m.Class)
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	if n := len(m.Body) + len(m.Method) + len(m.Code) + len(m.Text); n > MaxEnvelope {
		return nil, tooLarge(n)
	}
	to, err := e.Directory.Lookup(ctx, m.To)
	if err != nil {
		return nil, err
	}
	if to.KEM == nil {
		return nil, fault.Errorf(fault.Unavailable, "the receiver has no KEM key, so nothing can be sealed to it; it must publish one first")
	}
	text, err := canon.Marshal(plain{m.Method, m.Body, m.Code, m.Text})
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	defer clear(text)
	var env envelope
	h.Epoch = to.KEM.Epoch()
	_, env.Ciphertext, err = to.KEM.seal(TagMessage, func(enc []byte) []byte {
		h.Enc = enc
		env.Header = canon.MustMarshal(h)
		return env.Header
	}, text)
	if err != nil {
		return nil, err
	}
	env.Signature = e.Key.SignAs(e.Index, TagMessage, env.covered())
	b := canon.MustMarshal(env)
	if len(b) > MaxEnvelope {
		return nil, tooLarge(len(b))
	}
	return b, nil
}

func tooLarge(n int) error {
	return fault.Errorf(fault.Invalid, "the message takes %d bytes, at most %d are allowed; send less at a time", n, MaxEnvelope)
}

// Open checks and decrypts an envelope, in this order: size and canonical form;
// for this party; not expired and not from the future; signed by a key that the
// sender has now; not opened before; sealed to a key that is kept. Whatever is
// wrong, the envelope gets no answer: the error is for counters and logs. The
// one that a receiver acts on is a *Repeat, which it answers as it did before.
func (e *Endpoint) Open(ctx context.Context, b []byte) (*Message, error) {
	m, err := e.open(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("open message: %w", err)
	}
	return m, nil
}

func (e *Endpoint) open(ctx context.Context, b []byte) (*Message, error) {
	env, h, err := decodeEnvelope(b)
	if err != nil {
		return nil, err
	}
	now := e.Clock.Now()
	switch {
	case h.To != e.Party:
		return nil, fault.Errorf(fault.Denied, "it is for party %d and this is party %d", h.To, e.Party)
	case h.created().After(now.Add(Skew)):
		return nil, fault.Errorf(fault.Invalid, "party %d made it %v from now; its clock or this one is wrong", h.From, h.created().Sub(now))
	case now.After(h.expires()):
		return nil, fault.Errorf(fault.Expired, "it expired %v ago", now.Sub(h.expires()))
	}
	from, err := e.Directory.Lookup(ctx, h.From)
	if err != nil {
		return nil, fmt.Errorf("sender: %w", err)
	}
	signer, err := from.Key(env.Signature.Key)
	if err != nil {
		return nil, fmt.Errorf("sender %d: %w", h.From, err)
	}
	if err := env.Signature.Verify(signer.Key, TagMessage, env.covered()); err != nil {
		return nil, fmt.Errorf("sender %d: %w", h.From, err)
	}
	key, err := e.KEM.find("message", fmt.Sprintf("party %d", e.Party), h.Epoch)
	if err != nil {
		return nil, err
	}
	text, err := key.open(TagMessage, h.Enc, env.Header, env.Ciphertext)
	if err != nil {
		return nil, fault.Errorf(fault.Denied, "the message of party %d doesn't open; it was sealed for something else", h.From)
	}
	var p plain
	if err := canon.Unmarshal(text, &p); err != nil {
		clear(text)
		return nil, fault.Errorf(fault.Invalid, "the message of party %d: %w", h.From, err)
	}
	clear(text) // p has copies
	if err := e.Replays.Add(h.From, h.ID, now, h.expires().Add(Skew)); err != nil {
		clear(p.Body)
		return nil, err
	}
	m := &Message{
		Class: h.Class, From: h.From, To: h.To, ID: h.ID, Created: h.created(), TTL: time.Duration(h.TTL) * time.Second,
		Method: p.Method, Body: p.Body, Code: p.Code, Text: p.Text, Key: signer.Index, Role: signer.Role,
	}
	copy(m.Request[:], h.Request)
	return m, nil
}

// decodeEnvelope reads an envelope and believes nothing of it.
func decodeEnvelope(b []byte) (*envelope, *header, error) {
	if len(b) > MaxEnvelope {
		return nil, nil, tooLarge(len(b))
	}
	var env envelope
	if err := canon.Unmarshal(b, &env); err != nil {
		return nil, nil, fault.Errorf(fault.Invalid, "the bytes are not an envelope in canonical CBOR: %w", err)
	}
	if env.Header == nil || env.Ciphertext == nil || env.Signature.Bytes == nil {
		return nil, nil, fault.Errorf(fault.Invalid, "a part of the envelope is missing")
	}
	var h header
	if err := canon.Unmarshal(env.Header, &h); err != nil {
		return nil, nil, fault.Errorf(fault.Invalid, "the header of the envelope is not canonical CBOR: %w", err)
	}
	if err := h.check(); err != nil {
		return nil, nil, err
	}
	if len(h.Enc) != encSize {
		return nil, nil, fault.Errorf(fault.Invalid, "enc has %d bytes, %d are needed", len(h.Enc), encSize)
	}
	return &env, &h, nil
}
