package client_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"

	"zos.internal/block"
	"zos.internal/flist"
	"zos.internal/flist/tree"
	"zos.internal/hub"
	"zos.internal/hub/client"
	"zos.internal/identity"
)

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	// A hub that lets one key publish.
	key := identity.FromSeed([32]byte{1})
	if err := os.WriteFile(dir+"/publishers", []byte(key.Public().Address().String()+" me 1GiB\n"), 0o600); err != nil {
		panic(err)
	}
	h, err := hub.New(ctx, hub.Config{Store: block.OpenDir(dir + "/hub"), Publishers: dir + "/publishers"})
	if err != nil {
		panic(err)
	}
	defer h.Close()
	srv := httptest.NewServer(h)
	defer srv.Close()

	// Build an image, publish it, find it by its name and copy it.
	root := tree.NewDir(0o755)
	if err := root.Insert("etc/hostname", &tree.Node{Mode: tree.Regular | 0o644, Size: 4, Content: tree.Bytes("zos\n")}); err != nil {
		panic(err)
	}
	images := block.OpenDir(dir + "/images")
	built, err := flist.Build(ctx, root, images, flist.BuildOptions{})
	if err != nil {
		panic(err)
	}
	c, err := client.New([]string{srv.URL}, client.Options{State: dir + "/seen.json"})
	if err != nil {
		panic(err)
	}
	pushed, err := c.Push(ctx, images, built.ID, client.PushOptions{Key: key, Name: "hello"})
	if err != nil {
		panic(err)
	}
	p, err := c.Resolve(ctx, key.Public().Address(), "hello", "")
	if err != nil {
		panic(err)
	}
	pulled, err := c.Pull(ctx, block.OpenDir(dir+"/copy"), p.ID, client.PullOptions{})
	if err != nil {
		panic(err)
	}
	fmt.Println("version", pushed.Seq, "packs", pulled.Packs, p.ID == built.ID)
	// Output: version 1 packs 1 true
}
