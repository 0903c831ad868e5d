package hub

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"

	"lukechampine.com/blake3"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/hub/protocol"
	"zos.internal/identity"
	"zos.internal/internal/fault"
)

// maxBody is the largest body of an upload of that kind.
func (s *Server) maxBody(kind byte) int64 {
	switch kind {
	case 'p':
		return block.MaxPack
	case 'o':
		return s.cfg.MaxMetadata + s.cfg.MaxMetadata/64 + 4096 // what zstd may add
	case 'l':
		return min(protocol.MaxLocator, s.cfg.MaxMetadata)
	case 's':
		return flist.MaxSignatures
	case 't':
		return protocol.MaxTrace
	case 'd':
		return flist.MaxDelta
	case 'r', 'f', 'g':
		return flist.MaxRoot
	}
	return 0
}

// upload is one PUT under way.
type upload struct {
	key    key
	by     Publisher
	signer identity.PublicKey
	size   int64
	digest block.Name
	file   *os.File // large bodies
	bytes  []byte   // small bodies
}

// reader reads the body from its start; it can seek, so a bucket may retry.
func (u *upload) reader() io.ReadSeeker {
	if u.file != nil {
		return io.NewSectionReader(u.file, 0, u.size)
	}
	return bytes.NewReader(u.bytes)
}

func (u *upload) close() {
	if u.file != nil {
		u.file.Close()
	}
}

// servePut answers an upload: who, may they, is there room; then the body; then
// whether it is what it claims to be. Only after all of that it is stored.
func (s *Server) servePut(w http.ResponseWriter, r *http.Request) {
	status, err := s.put(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
}

func (s *Server) put(r *http.Request) (status int, err error) {
	ctx := r.Context()
	k, err := parseKey(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil {
		return 0, err
	}
	limit := s.maxBody(k.kind)
	switch {
	case limit == 0:
		return 0, fault.Errorf(fault.Denied, "%s is written by the hub itself", k.what())
	case r.ContentLength < 0:
		return 0, fault.Errorf(fault.Invalid, "put %s: send a Content-Length; the signature covers the size", k.what())
	case r.ContentLength == 0 || r.ContentLength > limit:
		return 0, fault.Errorf(fault.Exhausted, "put %s: %d bytes; 1 to %d are allowed", k.what(), r.ContentLength, limit)
	case r.Header.Get("Content-Encoding") != "":
		return 0, fault.Errorf(fault.Unsupported, "put %s: send the bytes as they are, without Content-Encoding", k.what())
	}
	signed, signer, err := protocol.Verify(r.Header.Get("Authorization"),
		protocol.Upload{Method: r.Method, Key: k.text, Size: r.ContentLength}, s.clock.Now())
	if err != nil {
		return 0, err
	}
	if err := s.checkAudience(r, signed.Audience); err != nil {
		return 0, err
	}
	by, err := s.pubs.lookup(signer.Address())
	if err != nil {
		return 0, err
	}
	if k.kind == 'p' || k.kind == 'r' {
		// Nothing to do for what is here: answer before the body is sent.
		if err := s.stillHere(ctx, k.text); err == nil {
			return http.StatusOK, nil
		} else if fault.Of(err) != fault.NotFound {
			return 0, err
		}
	}
	select {
	case s.uploads <- struct{}{}:
		defer func() { <-s.uploads }()
	default:
		return 0, fault.Errorf(fault.Unavailable, "put %s: %d uploads are under way; try again in a few seconds", k.what(), maxUploads)
	}
	if err := s.pubs.reserve(by, r.ContentLength); err != nil {
		return 0, fault.Errorf(fault.Of(err), "put %s: %w", k.what(), err)
	}
	kept := false
	defer func() { s.pubs.settle(by, r.ContentLength, kept) }()

	u := &upload{key: k, by: by, signer: signer, size: r.ContentLength, digest: signed.Digest}
	defer u.close()
	if err := s.receive(u, r.Body); err != nil {
		return 0, fault.Errorf(fault.Of(err), "put %s: %w", k.what(), err)
	}
	if inStart(k.kind) {
		// Whatever ends the program, no old start file outlives its parts.
		if err := s.store.Delete(ctx, flist.StartKey(k.name)); err != nil && fault.Of(err) != fault.NotFound {
			return 0, fault.Errorf(fault.Of(err), "put %s: %w", k.what(), err)
		}
		defer s.renewStart(ctx, k.name)
	}
	switch k.kind {
	case 'p':
		kept, err = s.putPack(ctx, u)
	case 'o':
		kept, err = s.putObject(ctx, u)
	case 'l':
		err = s.putLocator(ctx, u)
	case 'r':
		kept, err = s.putRoot(ctx, u)
	case 's':
		err = s.putSignatures(ctx, u)
	case 't':
		err = s.putTrace(ctx, u)
	case 'd':
		err = s.putDelta(ctx, u)
	default:
		err = s.putPointer(ctx, u)
	}
	if err != nil {
		return 0, fault.Errorf(fault.Of(err), "put %s: %w", k.what(), err)
	}
	s.log.InfoContext(ctx, "stored upload", "key", k.text, "bytes", u.size, "publisher", by.Alias)
	return http.StatusCreated, nil
}

// stillHere takes a file that is in the store out of the waste; a collection
// can't delete it in between.
func (s *Server) stillHere(ctx context.Context, key string) error {
	s.collect.RLock()
	defer s.collect.RUnlock()
	if _, err := s.store.Stat(ctx, key); err != nil {
		return err
	}
	return s.waste.rescue(ctx, s.store, map[string]bool{key: true})
}

// replace writes a file that may be there already and takes it out of the
// waste. It is called with collect held for reading.
func (s *Server) replace(ctx context.Context, key string, r io.Reader) error {
	if err := s.waste.rescue(ctx, s.store, map[string]bool{key: true}); err != nil {
		return err
	}
	return s.store.Write(ctx, key, r)
}

// checkAudience refuses an upload that was signed for another hub.
func (s *Server) checkAudience(r *http.Request, got string) error {
	want := s.cfg.Audience
	if len(want) == 0 {
		if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
			want = []string{a.String()}
			if t, ok := a.(*net.TCPAddr); ok && t.IP.IsLoopback() {
				_, port, _ := net.SplitHostPort(a.String())
				want = append(want, "localhost:"+port)
			}
		}
	}
	if !slices.Contains(want, got) {
		return fault.Errorf(fault.Denied, "the upload is signed for %.200q and this hub is %q; use its right address, or start the hub with that name", got, want)
	}
	return nil
}

// receive reads the body and compares it with the digest that was signed.
func (s *Server) receive(u *upload, body io.Reader) error {
	h := blake3.New(32, nil)
	var to io.Writer
	if u.size > 1<<20 {
		f, err := os.CreateTemp(s.cfg.Temp, "zos-hub-*")
		if err != nil {
			return fault.Errorf(fault.Unavailable, "make a temporary file: %w", err)
		}
		u.file = f
		// Without a name it is gone with the process, whatever ends it.
		if err := os.Remove(f.Name()); err != nil {
			return err
		}
		to = io.MultiWriter(f, h)
	} else {
		buf := bytes.NewBuffer(make([]byte, 0, u.size))
		defer func() { u.bytes = buf.Bytes() }()
		to = io.MultiWriter(buf, h)
	}
	n, err := io.Copy(to, io.LimitReader(body, u.size))
	if err != nil {
		return fault.Errorf(fault.Unavailable, "receive %d of %d bytes: %w", n, u.size, err)
	}
	var got block.Name
	h.Sum(got[:0])
	if n != u.size || got != u.digest {
		return fault.Errorf(fault.Invalid, "the %d bytes that arrived have the digest %v, signed is %v; send it again", n, got, u.digest)
	}
	return nil
}

// keep makes an immutable upload visible and counts it for its publisher. The
// record of the account comes first: a crash between counts too much, which
// the next collection repairs, and never too little.
func (s *Server) keep(ctx context.Context, u *upload) error {
	account := accountKey(u.by.Address, u.key, u.size)
	if err := s.store.Write(ctx, account, strings.NewReader("")); err != nil {
		return err
	}
	if err := s.store.Write(ctx, u.key.text, u.reader()); err != nil {
		_ = s.store.Delete(context.WithoutCancel(ctx), account) // collection does it otherwise
		return err
	}
	return nil
}

func (s *Server) putPack(ctx context.Context, u *upload) (kept bool, err error) {
	if u.digest != u.key.name {
		return false, fault.Errorf(fault.Invalid, "the bytes have the name %v", u.digest)
	}
	at := u.reader().(io.ReaderAt)
	if err := block.VerifyPack(at, u.size, block.Domain{}); err != nil {
		return false, err
	}
	entries, err := block.ReadPackDir(at, u.size)
	if err != nil {
		return false, err
	}
	s.collect.RLock()
	defer s.collect.RUnlock()
	if err := s.waste.rescue(ctx, s.store, map[string]bool{u.key.text: true}); err != nil {
		return false, err
	}
	if _, err := s.store.Stat(ctx, u.key.text); err == nil {
		return false, nil // somebody else was faster
	}
	if err := s.keep(ctx, u); err != nil {
		return false, err
	}
	s.index.add(u.key.name, u.size, entries)
	return true, nil
}

// putObject takes an object whose bytes have the name, or one that is sealed
// for a tenant: nobody else can check that. An object that was checked takes
// the place of one that wasn't, so a sealed upload under a public name is in
// nobody's way for long.
func (s *Server) putObject(ctx context.Context, u *upload) (kept bool, err error) {
	release, err := s.slot(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	checked, err := s.checkObject(u)
	if err != nil {
		return false, err
	}
	s.collect.RLock()
	defer s.collect.RUnlock()
	if err := s.waste.rescue(ctx, s.store, map[string]bool{u.key.text: true}); err != nil {
		return false, err
	}
	old, err := s.store.Stat(ctx, u.key.text)
	switch {
	case err == nil && (!checked || old == u.size && s.sameObject(ctx, u)):
		return false, nil
	case err == nil:
		stored, err := readAll(ctx, s.store, u.key.text, protocol.MaxObject)
		if err == nil && protocol.CheckObject(stored, u.key.name, s.cfg.MaxMetadata) == nil {
			return false, nil // another encoder's frame of the same bytes
		}
	case fault.Of(err) != fault.NotFound:
		return false, err
	}
	if err := s.keep(ctx, u); err != nil {
		return false, err
	}
	return true, nil
}

func (s *Server) sameObject(ctx context.Context, u *upload) bool {
	b, err := readAll(ctx, s.store, u.key.text, u.size)
	return err == nil && block.Sum(b) == u.digest
}

// checkObject reports whether the bytes were compared with the name.
func (s *Server) checkObject(u *upload) (checked bool, err error) {
	stored, err := io.ReadAll(u.reader())
	if err != nil {
		return false, err
	}
	if !protocol.IsFrame(stored) {
		return false, nil
	}
	return true, protocol.CheckObject(stored, u.key.name, s.cfg.MaxMetadata)
}

// slot takes one of the few slots for work that needs much memory.
func (s *Server) slot(ctx context.Context) (release func(), err error) {
	select {
	case s.checks <- struct{}{}:
		return func() { <-s.checks }, nil
	case <-ctx.Done():
		return nil, fault.As(fault.Unavailable, ctx.Err())
	}
}
