package block_test

import (
	"bytes"
	"context"
	"fmt"

	"zos.internal/block"
)

// Content is cut, named, encoded, packed and stored; then a getter reads it back
// by name and checks it.
func Example() {
	ctx := context.Background()
	var public block.Domain
	store := new(block.Mem)
	content := bytes.Repeat([]byte("the content of a file\n"), 20000)

	var pack bytes.Buffer
	w := block.NewPackWriter(&pack)
	enc := block.NewEncoder(block.Zstd)
	var names []block.Name
	for rest := content; len(rest) > 0; {
		plain := rest[:block.Image.Cut(rest)]
		rest = rest[len(plain):]
		name := public.Name(plain)
		e, body := enc.Encode(plain)
		if err := w.Add(name, e, len(plain), public.Seal(name, e, len(plain), body)); err != nil {
			fmt.Println(err)
		}
		names = append(names, name)
	}
	name, _, entries, err := w.Close()
	if err != nil {
		fmt.Println(err)
	}
	if err := block.BlobsIn(store, "p/").Put(ctx, name, &pack); err != nil {
		fmt.Println(err)
	}

	places := block.PlacesIn(name, entries)
	mirrors := block.NewMirrors(nil, block.Source{Name: "memory", Bucket: store})
	getter := block.NewPackGetter(mirrors, "p/", public, func(n block.Name) (block.Place, bool) {
		p, ok := places[n]
		return p, ok
	})
	read := map[block.Name][]byte{}
	for chunk, err := range getter.Get(ctx, names) {
		if err != nil {
			fmt.Println(err)
		}
		read[chunk.Name] = chunk.Data
	}
	var again []byte
	for _, n := range names {
		again = append(again, read[n]...)
	}
	fmt.Println(len(names), "chunks,", bytes.Equal(again, content))
	// Output: 2 chunks, true
}
