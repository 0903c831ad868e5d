// Package fl reads and writes the .fl images of ThreeFold's rfs.
//
// A .fl file is an SQLite database that describes a file tree; the bytes of
// the files lie as encrypted blocks in stores (a directory, a web server, and
// whatever the caller brings an opener for). The format is specified in
// docs/reference/fl.md.
//
// Read refuses every database that is not one whole tree, and hands out the
// bytes of a block only after its id, its authentication tag and its key were
// checked; files are fetched when their content is opened. Write puts the
// blocks into the stores first and makes the .fl visible last, so an
// interrupted run leaves nothing at the target and the same command goes on
// where it stopped. Both keep path, type, mode, owner, device number, time in
// seconds, link target and every byte; what a .fl can't hold is listed before
// anything is written (Losses). The package does not know zdb or S3: those
// schemes are refused by name unless ReadOptions.Openers has them.
//
//	res, err := fl.Read(ctx, "debian.fl", fl.ReadOptions{})
//	...
//	rep, err := fl.Write(ctx, res.Root, res.Config, "copy.fl", fl.WriteOptions{Stores: []string{"dir:///srv/blocks"}})
package fl

import "zos.internal/flist/convert/fl/store"

// BlockSize is the number of bytes in every block that Write makes, except
// for the last of a file: rfs finds a block at offset / BlockSize.
const BlockSize = 512 << 10

// Limits of a .fl file that is read. The tree itself is bound by the limits
// of package tree.
const (
	MaxFile   = 2 << 30   // bytes of the database
	MaxBlocks = 8 << 20   // rows of the table block: 4 TiB in full blocks
	MaxRoutes = 4096      // rows of the table route
	MaxTags   = 4096      // rows of the table tag
	MaxTag    = 64 << 10  // bytes of the value of a tag
	MaxTagKey = 255       // bytes of the key of a tag
	maxTagSum = 128 << 10 // bytes of all keys and values: they become labels
)

// IDTag is the tag that Write sets to the id of the exported image.
const IDTag = "zos.flist.id"

// LabelPrefix starts the label that a tag becomes.
const LabelPrefix = "fl.tag."

// StartupFile is the path in the tree where rfs keeps the start command.
const StartupFile = ".startup.toml"

// Tag is a key with a value that the file carries for people and tools.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Openers are the stores that work without more, by scheme; a caller may add
// its own to the map (store.Openers).
func Openers() map[string]store.Opener { return store.Openers() }
