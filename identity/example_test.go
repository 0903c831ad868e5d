package identity_test

import (
	"context"
	"fmt"

	"zos.internal/identity"
	"zos.internal/internal/clock"
)

// Two parties that know each other's keys from a directory: one asks, the other
// hears it once.
func Example() {
	ctx := context.Background()
	book := new(identity.Book)
	join := func(p identity.Party, seed byte) *identity.Endpoint {
		k := identity.KeysOf(identity.SeedFrom([32]byte{seed}))
		book.Put(p, identity.Entry{
			Address: k.Owner,
			Keys:    []identity.Key{{Index: 0, Role: k.Role, Key: k.Sign.Public()}},
			KEM:     k.KEM.Public(),
		})
		return &identity.Endpoint{
			Party: p, Key: k.Sign, KEM: identity.NewKEMKeys(p, clock.System{}, k.KEM),
			Directory: book, Replays: identity.NewMemory(1000), Clock: clock.System{},
		}
	}
	user, node := join(17, 1), join(42, 2)

	wire, err := user.Seal(ctx, &identity.Message{Class: identity.Request, To: 42, Method: "zos.system.version"})
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := node.Open(ctx, wire)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.From, m.Role, m.Method)
	_, err = node.Open(ctx, wire)
	fmt.Println(err != nil)
	// Output:
	// 17 full zos.system.version
	// true
}
