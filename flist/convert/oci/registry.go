package oci

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"zos.internal/flist/convert"
	"zos.internal/internal/fault"
)

// idle is how long a registry may send nothing.
const idle = 60 * time.Second

// ReadRegistry reads an image from a registry: "HOST[:PORT]/NAME[:TAG]" or
// "…@sha256:…"; without either the tag is latest. The provenance is "oci:" and
// the digest of the manifest.
//
// Credentials come from opts.Auth, else from the Docker configuration file and
// its helpers. A connection that breaks is tried again; a registry that stays
// silent for a minute is Unavailable.
func ReadRegistry(ctx context.Context, ref string, opts convert.Options) (*convert.Result, error) {
	res, err := readRegistry(ctx, ref, opts)
	if err != nil {
		return nil, fault.Errorf(fault.Of(err), "image %q: %w", ref, err)
	}
	return convert.Finish(res, opts)
}

func readRegistry(ctx context.Context, ref string, opts convert.Options) (*convert.Result, error) {
	want, err := parsePlatform(opts.Platform)
	if err != nil {
		return nil, err
	}
	r, err := parseReference(ref, opts.Insecure)
	if err != nil {
		return nil, err
	}
	reg, err := newRegistry(ctx, r, opts)
	if err != nil {
		return nil, err
	}
	defer reg.close()
	got, err := reg.puller.Get(ctx, r)
	if err != nil {
		return nil, registryError(err)
	}
	top := descriptor{MediaType: string(got.MediaType), Digest: got.Digest.String(), Size: int64(len(got.Manifest))}
	if d, ok := r.(name.Digest); ok {
		top.Digest = d.DigestStr()
	}
	reg.top, reg.raw = top.Digest, got.Manifest
	m, d, err := resolve(ctx, reg, top, want)
	if err != nil {
		return nil, err
	}
	im, err := loadImage(ctx, reg, m)
	if err != nil {
		return nil, err
	}
	if err := im.checkPlatform(opts, want); err != nil {
		return nil, err
	}
	res, err := apply(ctx, reg, im, true, opts)
	if err != nil {
		return nil, err
	}
	res.Source = "oci:" + d.Digest
	return res, nil
}

// parseReference demands a host, so that nothing is dialled that was not named.
func parseReference(ref string, insecure bool) (name.Reference, error) {
	host, rest, ok := strings.Cut(ref, "/")
	if !ok || rest == "" || host != "localhost" && !strings.ContainsAny(host, ".:") {
		return nil, fault.Errorf(fault.Invalid, "the reference %q names no registry, and there is no default one; write HOST/NAME:TAG, as localhost:5000/nginx:1", ref)
	}
	opts := []name.Option{}
	if insecure {
		opts = append(opts, name.Insecure)
	}
	r, err := name.ParseReference(ref, opts...)
	if err != nil {
		return nil, fault.Errorf(fault.Invalid, "the reference %q: %w", ref, err)
	}
	return r, nil
}

// registry is one repository in a registry.
type registry struct {
	repo   name.Repository
	puller *remote.Puller
	base   *http.Transport
	top    string // the document that was fetched by tag
	raw    []byte
}

func newRegistry(ctx context.Context, r name.Reference, opts convert.Options) (*registry, error) {
	base := newTransport()
	puller, err := remote.NewPuller(remoteOptions(ctx, base, opts)...)
	if err != nil {
		return nil, fault.As(fault.Internal, err)
	}
	return &registry{repo: r.Context(), puller: puller, base: base}, nil
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 20 * time.Second}).DialContext,
		TLSHandshakeTimeout:   20 * time.Second,
		ResponseHeaderTimeout: idle,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   parallel,
		DisableCompression:    true,
	}
}

func remoteOptions(ctx context.Context, base http.RoundTripper, opts convert.Options) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx),
		remote.WithTransport(&guard{base: base, insecure: opts.Insecure, idle: idle}),
		remote.WithAuthFromKeychain(authn.NewMultiKeychain(given{opts.Auth}, authn.DefaultKeychain)),
		remote.WithUserAgent("zos"),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}),
	}
}

func (r *registry) close() { r.base.CloseIdleConnections() }

func (r *registry) manifest(ctx context.Context, d descriptor) ([]byte, error) {
	if d.Digest == r.top {
		return r.raw, nil
	}
	got, err := r.puller.Get(ctx, r.repo.Digest(d.Digest))
	if err != nil {
		return nil, registryError(err)
	}
	return got.Manifest, nil
}

func (r *registry) blob(ctx context.Context, d descriptor) (io.ReadCloser, error) {
	l, err := r.puller.Layer(ctx, r.repo.Digest(d.Digest))
	if err != nil {
		return nil, registryError(err)
	}
	body, err := l.Compressed()
	if err != nil {
		return nil, registryError(err)
	}
	return &blobBody{body}, nil
}

// blobBody gives the errors of a body their kinds.
type blobBody struct{ io.ReadCloser }

func (b *blobBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = registryError(err)
	}
	return n, err
}

// given is a keychain of the caller's credentials.
type given struct {
	auth func(host string) (user, password string, ok bool)
}

// Resolve finds credentials for a registry.
func (g given) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if g.auth != nil {
		if user, password, ok := g.auth(r.RegistryStr()); ok {
			return &authn.Basic{Username: user, Password: password}, nil
		}
	}
	return authn.Anonymous, nil
}

// AuthFromEnv makes Options.Auth of ZOS_REGISTRY_AUTH, a list of
// "HOST=USER:PASSWORD" separated by spaces. It is nil if the variable is not set.
func AuthFromEnv(getenv func(string) string) func(host string) (user, password string, ok bool) {
	list := strings.Fields(getenv("ZOS_REGISTRY_AUTH"))
	if len(list) == 0 {
		return nil
	}
	return func(host string) (string, string, bool) {
		for _, e := range list {
			if h, cred, ok := strings.Cut(e, "="); ok && h == host {
				user, password, _ := strings.Cut(cred, ":")
				return user, password, true
			}
		}
		return "", "", false
	}
}

// guard keeps passwords and images off plain HTTP, and bodies from hanging.
type guard struct {
	base     http.RoundTripper
	insecure bool
	idle     time.Duration
}

// RoundTrip refuses plain HTTP to other hosts than loopback, also after a
// redirect, and gives the body an idle limit.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.insecure && !isLoopback(req.URL.Hostname()) {
		return nil, fault.Errorf(fault.Denied, "plain HTTP to %s is not allowed; use a registry with TLS, or --insecure if you trust the network", req.URL.Host)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := g.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	silent := fault.Errorf(fault.Unavailable, "%s sent nothing for %v", req.URL.Host, g.idle)
	resp.Body = &idleBody{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, idle: g.idle, timer: time.AfterFunc(g.idle, func() { cancel(silent) })}
	return resp, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

type idleBody struct {
	io.ReadCloser
	ctx    context.Context // of this one response
	cancel context.CancelCauseFunc
	timer  *time.Timer
	idle   time.Duration
}

func (b *idleBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.timer.Reset(b.idle)
	}
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *idleBody) Close() error {
	b.timer.Stop()
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}

// registryError gives errors of the client a kind. Trouble on the way is
// Unavailable.
func registryError(err error) error {
	if k := fault.Of(err); k != fault.Internal {
		return fault.As(k, err)
	}
	var te *transport.Error
	if errors.As(err, &te) {
		k := fault.FromHTTPStatus(te.StatusCode)
		switch k {
		case fault.Denied:
			return fault.Errorf(k, "the registry refuses: %w; log in, or set ZOS_REGISTRY_AUTH", err)
		case fault.NotFound:
			return fault.Errorf(k, "the registry has no such image or blob: %w", err)
		}
		return fault.As(k, err)
	}
	if strings.Contains(err.Error(), "error verifying") {
		return fault.Errorf(fault.Invalid, "%w; the source is damaged or lies", err)
	}
	return fault.As(fault.Unavailable, err)
}

func isCancel(err error) bool { return errors.Is(err, context.Canceled) }

var _ source = (*registry)(nil)
