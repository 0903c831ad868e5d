package lazy

import (
	"encoding/hex"
	"os"
	"strings"

	"zos.internal/block"
	"zos.internal/internal/fault"
)

// LoadTenant reads the secret of private images: a file with 64 hexadecimal
// digits that only its owner can read (Denied otherwise).
func LoadTenant(path string) (block.Domain, error) {
	st, err := os.Stat(path)
	if err != nil {
		return block.Domain{}, fault.Errorf(fault.Of(err), "read tenant secret: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return block.Domain{}, fault.Errorf(fault.Denied, "read tenant secret %s: others can read it; run chmod 600 on it", path)
	}
	if st.Size() > 4096 {
		return block.Domain{}, fault.Errorf(fault.Invalid, "read tenant secret %s: %d bytes are too many", path, st.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return block.Domain{}, fault.Errorf(fault.Of(err), "read tenant secret: %w", err)
	}
	secret, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(secret) != 32 {
		return block.Domain{}, fault.Errorf(fault.Invalid, "read tenant secret %s: it is not 64 hexadecimal digits; make one with zos key tenant", path)
	}
	return block.NewDomain([32]byte(secret)), nil
}
