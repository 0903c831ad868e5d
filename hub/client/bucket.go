package client

import (
	"context"
	"io"
	"iter"

	"zos.internal/internal/fault"
)

// List implements block.Bucket. A hub doesn't list its files, so it is
// Unsupported.
func (c *Client) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return c.mirrors.List(ctx, prefix)
}

// Write is Unsupported: uploads are signed, see Push.
func (c *Client) Write(ctx context.Context, key string, r io.Reader) error {
	return fault.Errorf(fault.Unsupported, "write %s: uploads to a hub are signed; use Push", key)
}

// Delete is Unsupported: a hub collects what no name needs.
func (c *Client) Delete(ctx context.Context, key string) error {
	return fault.Errorf(fault.Unsupported, "delete %s: a hub collects by itself what no name needs", key)
}
