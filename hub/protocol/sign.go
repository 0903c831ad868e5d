package protocol

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"zos.internal/block"
	"zos.internal/identity"
	"zos.internal/internal/canon"
	"zos.internal/internal/fault"
)

const (
	uploadTag = "zos.hub.put.1"
	scheme    = "Zos1"
	// MaxLifetime is how far ahead an upload's signature may expire.
	MaxLifetime = 24 * time.Hour
)

// Upload is what the signature of an upload covers. Because the body is bound,
// a replay of the request stores the same bytes again and nothing else.
type Upload struct {
	_        struct{} `cbor:",toarray"`
	Method   string
	Key      string     // of the bucket, "p/…"; the path without its leading slash
	Size     int64      // bytes of the body
	Digest   block.Name // BLAKE3 of the body
	Audience string     // whom it is for: host[:port], lower case, and the base path if any
	Expires  int64      // seconds since 1970
}

// Sign is the value of the Authorization header for u:
//
//	Zos1 key=ed25519:…,expires=SECONDS,digest=HEX,audience=HOST,sig=BASE64URL
func Sign(key *identity.PrivateKey, u Upload) string {
	sig := key.Sign(uploadTag, canon.MustMarshal(u))
	return scheme + " key=" + key.Public().String() +
		",expires=" + strconv.FormatInt(u.Expires, 10) +
		",digest=" + u.Digest.String() +
		",audience=" + u.Audience +
		",sig=" + base64.RawURLEncoding.EncodeToString(sig)
}

// Verify checks the Authorization header of an upload. u holds Method, Key and
// Size as the server saw them; the rest is filled in from the header. The
// caller still has to compare Digest with the body and decide about Audience
// and the key.
func Verify(header string, u Upload, now time.Time) (Upload, identity.PublicKey, error) {
	if header == "" {
		return u, "", fault.Errorf(fault.Denied, "the upload is not signed; give a key whose address is in the hub's publishers file")
	}
	fields, err := parseAuthorization(header)
	if err != nil {
		return u, "", err
	}
	key, err := identity.ParsePublicKey(fields["key"])
	if err != nil {
		return u, "", fault.Errorf(fault.Invalid, "authorization key: %w", err)
	}
	if u.Digest, err = block.ParseName(fields["digest"]); err != nil {
		return u, "", fault.Errorf(fault.Invalid, "authorization digest: %w", err)
	}
	if u.Expires, err = strconv.ParseInt(fields["expires"], 10, 64); err != nil || strconv.FormatInt(u.Expires, 10) != fields["expires"] {
		return u, "", fault.Errorf(fault.Invalid, "authorization expires: %.30q is not a number of seconds", fields["expires"])
	}
	u.Audience = fields["audience"]
	sig, err := base64.RawURLEncoding.Strict().DecodeString(fields["sig"])
	if err != nil {
		return u, "", fault.Errorf(fault.Invalid, "authorization sig: not base64url: %w", err)
	}
	if err := key.Verify(uploadTag, canon.MustMarshal(u), sig); err != nil {
		return u, "", fault.Errorf(fault.Denied, "%s %s: the signature doesn't fit the request (method, key, size, digest, audience, expiry): %w", u.Method, u.Key, err)
	}
	switch expires := time.Unix(u.Expires, 0); {
	case !now.Before(expires):
		return u, "", fault.Errorf(fault.Expired, "the upload's signature expired at %s and it is %s here; sign again, and compare the clocks", expires.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case expires.Sub(now) > MaxLifetime:
		return u, "", fault.Errorf(fault.Invalid, "the upload's signature is valid until %s, more than %v ahead; sign for a shorter time, and compare the clocks", expires.UTC().Format(time.RFC3339), MaxLifetime)
	}
	return u, key, nil
}

func parseAuthorization(header string) (map[string]string, error) {
	rest, ok := strings.CutPrefix(header, scheme+" ")
	if !ok || len(header) > 1024 {
		return nil, fault.Errorf(fault.Invalid, "the Authorization header doesn't have the scheme %q", scheme)
	}
	want := []string{"key", "expires", "digest", "audience", "sig"}
	parts := strings.Split(rest, ",")
	if len(parts) != len(want) {
		return nil, fault.Errorf(fault.Invalid, "the Authorization header has %d fields instead of %s", len(parts), strings.Join(want, ", "))
	}
	fields := make(map[string]string, len(want))
	for i, p := range parts {
		v, ok := strings.CutPrefix(p, want[i]+"=")
		if !ok {
			return nil, fault.Errorf(fault.Invalid, "the Authorization header must have the fields %s in this order", strings.Join(want, ", "))
		}
		fields[want[i]] = v
	}
	return fields, nil
}
