package mount

import (
	"slices"
	"strings"
	"testing"

	"zos.internal/internal/fault"
)

const sampleTable = `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
42 27 0:39 / /run/zos/data ro,nosuid - fuse.zos-data zos-flist ro,user_id=0
44 27 0:50 / /run/zos/img/aa ro shared:7 - erofs /run/zos/meta/aa ro,user_xattr
45 27 0:50 / /mnt/sp\040ace ro,nosuid master:7 - erofs /run/zos/meta/aa ro,user_xattr
46 27 0:51 / /mnt/over rw - overlay zos:aa rw,lowerdir=/run/zos/img/aa,upperdir=/var/a\054b,workdir=/w
47 27 7:0 / /run/zos/img/bb ro - erofs /dev/loop0 ro
48 27 7:0 / /mnt/loop ro - erofs /dev/loop0 ro
49 27 0:60 / /home/u/m ro - fuse.zos-tree /run/zos/img/cc ro
50 27 0:61 / /other ro - erofs /elsewhere ro
51 27 0:62 / /third rw - overlay o rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
broken line
52 27 0:63 / /no-separator ro erofs x y
`

func TestMountTable(t *testing.T) {
	bases, targets := parseMounts(sampleTable).images("/run/zos")
	if len(bases) != 2 || bases["aa"].mode() != FuseFile || bases["bb"].mode() != Loop {
		t.Errorf("shared mounts = %+v", bases)
	}
	var got []string
	for _, m := range targets {
		s := m.image + " " + string(m.base.mode()) + " " + m.target
		if m.writable {
			s += " rw"
		}
		got = append(got, s)
	}
	want := []string{"aa fuse-file /mnt/sp ace", "aa fuse-file /mnt/over rw", "bb loop /mnt/loop", "cc tree /home/u/m"}
	if !slices.Equal(got, want) {
		t.Errorf("targets = %q, want %q", got, want)
	}
	if m := parseMounts(sampleTable).at("/mnt/over"); m == nil || !slices.Contains(m.options, "upperdir=/var/a,b") {
		t.Errorf("the overlay = %+v, want its upper directory with a comma", m)
	}
}

// FuzzMounts: any text is a table, and escapes never make one longer.
func FuzzMounts(f *testing.F) {
	f.Add(sampleTable)
	f.Add(`1 1 0:1 / /a\04 rw - x y z`)
	f.Add(`1 1 0:1 / /a\999 rw - x y z\`)
	f.Fuzz(func(t *testing.T, text string) {
		table := parseMounts(text)
		if len(table) > strings.Count(text, "\n")+1 {
			t.Errorf("%d mounts of %q", len(table), text)
		}
		table.images("/run/zos")
		if len(unescape(text)) > len(text) {
			t.Errorf("unescape(%q) is longer", text)
		}
	})
}

func TestParseMode(t *testing.T) {
	for s, want := range map[string]Mode{"": Auto, "auto": Auto, "loop": Loop, "fuse-file": FuseFile, "tree": Tree} {
		if got, err := ParseMode(s); err != nil || got != want {
			t.Errorf("ParseMode(%q) = %q, %v, want %q", s, got, err, want)
		}
	}
	if _, err := ParseMode("fuse"); fault.Of(err) != fault.Invalid {
		t.Errorf("ParseMode(fuse) = %v, want invalid", err)
	}
}
