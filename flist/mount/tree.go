package mount

import (
	"context"

	"zos.internal/internal/fault"
)

func (h Host) treeAt(ctx context.Context, r *Request, dir string) error {
	return fault.Errorf(fault.Unsupported, "tree")
}
