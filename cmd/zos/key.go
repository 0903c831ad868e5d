package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"zos.internal/block"
	"zos.internal/flist/lazy"
	"zos.internal/identity"
	"zos.internal/internal/atomicfile"
	"zos.internal/internal/fault"
)

type keyInfo struct {
	File    string `json:"file"`
	Key     string `json:"key"`
	Address string `json:"address"`
}

func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Make and show keys", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(
		&cobra.Command{
			Use: "new [FILE]", Short: "Make a key that signs", Args: args(0, 1),
			RunE: func(_ *cobra.Command, args []string) error {
				path, err := a.keyPath()
				if err != nil {
					return err
				}
				if len(args) == 1 {
					path = args[0]
				}
				return a.showKey(path, func() (*identity.PrivateKey, error) { return newKey(path) })
			},
		},
		&cobra.Command{
			Use: "show [FILE]", Short: "Show the public key and address of a key", Args: args(0, 1),
			RunE: func(_ *cobra.Command, args []string) error {
				path, err := a.keyPath()
				if err != nil {
					return err
				}
				if len(args) == 1 {
					path = args[0]
				}
				return a.showKey(path, func() (*identity.PrivateKey, error) { return identity.Load(path) })
			},
		},
		&cobra.Command{
			Use: "tenant FILE", Short: "Make a secret for private images", Args: args(1, 1),
			RunE: func(_ *cobra.Command, args []string) error {
				if _, err := os.Lstat(args[0]); err == nil {
					return fault.Errorf(fault.Conflict, "write %s: the file exists; choose another name", args[0])
				}
				secret := make([]byte, 32)
				if _, err := rand.Read(secret); err != nil {
					return err
				}
				if err := atomicfile.Write(args[0], []byte(hex.EncodeToString(secret)+"\n"), 0o600); err != nil {
					return err
				}
				id := block.NewDomain([32]byte(secret)).ID()
				text := hex.EncodeToString(id[:])
				return a.print(map[string]string{"file": args[0], "domain": text}, facts("file", args[0], "domain", text), text)
			},
		},
	)
	return cmd
}

func newKey(path string) (*identity.PrivateKey, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fault.Errorf(fault.Of(err), "make key: %w", err)
	}
	k, err := identity.Generate()
	if err != nil {
		return nil, err
	}
	return k, k.Save(path)
}

func (a *app) showKey(path string, get func() (*identity.PrivateKey, error)) error {
	k, err := get()
	if err != nil {
		return err
	}
	i := keyInfo{path, k.Public().String(), k.Public().Address().String()}
	return a.print(i, facts("file", i.File, "key", i.Key, "address", i.Address), i.Address)
}

// keyPath is the file of the key that signs.
func (a *app) keyPath() (string, error) {
	c, err := a.context()
	if err != nil {
		return "", err
	}
	return first(a.keyFile, a.getenv("ZOS_KEY"), c.Key, filepath.Join(a.dataDir(), "keys", "default")), nil
}

// key loads the key that signs. The default key is made when it is first
// needed; one that was named must be there.
func (a *app) key() (*identity.PrivateKey, error) {
	path, err := a.keyPath()
	if err != nil {
		return nil, err
	}
	k, err := identity.Load(path)
	if errors.Is(err, fault.NotFound) && path == filepath.Join(a.dataDir(), "keys", "default") {
		if k, err = newKey(path); err == nil {
			a.note("made a new key for you: %s (%v)", path, k.Public().Address())
		}
	}
	return k, err
}

// domain is the tenant's domain, or the public one when no secret is named.
func (a *app) domain() (block.Domain, string, error) {
	c, err := a.context()
	if err != nil {
		return block.Domain{}, "", err
	}
	path := first(a.tenant, a.getenv("ZOS_TENANT_KEY"), c.TenantKey)
	if path == "" {
		return block.Domain{}, "", nil
	}
	dom, err := lazy.LoadTenant(path)
	return dom, path, err
}
