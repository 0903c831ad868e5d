#!/bin/sh
# Proves the README on a fresh machine: makes a Debian root file system that has
# git and make and nothing else, clones this repository into it and types the
# command there, in a mount and process namespace of its own.
#
#   sudo test/clean.sh bookworm            make run on Debian 12
#   sudo test/clean.sh trixie test         make test on Debian 13
#
# Packages come from the mirrors that this machine is configured for. Of Go the
# machine's toolchain and downloaded modules are used, not what it has built. The
# network, the kernel and the control groups are the machine's. ZOS_CLEAN names
# the directory to work in (default below /var/tmp); it is removed at the end.
set -eu

suite=${1:?usage: $0 bookworm|trixie [run|test]}
target=${2:-run}
[ "$(id -u)" = 0 ] || { echo "$0: namespaces and mounts need root; use sudo" >&2; exit 1; }
for p in mmdebstrap unshare git go; do
	command -v $p >/dev/null || { echo "$0: needs $p; install it first" >&2; exit 1; }
done
repo=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${ZOS_CLEAN:-/var/tmp}/zos-clean-XXXXXX")
chmod 755 "$work"
root=$work/root
# The mounts were in the namespace and are gone with it; rm never leaves the
# file system all the same.
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM

apt-get indextargets --format '$(ORIGIN)|$(CODENAME)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
	awk -F '|' -v suite="$suite" '$1 == "Debian" {
		here = $2
		sub(/-.*/, "", here)
		split($3, w, " ")
		sub("^" here, suite, w[3])
		print w[1], w[2], w[3], w[4]
	}' | sort -u >"$work/sources.list"
[ -s "$work/sources.list" ] || { echo "$0: apt knows no Debian source on this machine; run apt-get update" >&2; exit 1; }

echo "making a root file system of $suite" >&2
mmdebstrap --quiet --variant=minbase --mode=root --include=git,make "$suite" "$root" - <"$work/sources.list"
git clone --quiet --no-hardlinks "$repo" "$root/root/zos"
git -C "$root/root/zos" log -1 --format='on %h: %s' >&2

goroot=$(go env GOROOT)
modules=$(go env GOMODCACHE)
mkdir -p "$root/usr/local/go" "$root/root/go/pkg/mod"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp /etc/hosts "$root/etc/hosts"

cat >"$work/inside" <<'INSIDE'
set -eu
root=$1 goroot=$2 modules=$3 target=$4
mount --make-rprivate /
mount --bind "$root" "$root"
mount --bind -o ro "$goroot" "$root/usr/local/go"
mount --bind "$modules" "$root/root/go/pkg/mod"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
# Not chroot: the kernel refuses user namespaces inside one.
cd "$root"
mkdir .host
pivot_root . .host
umount -l .host
rmdir .host
cd /
exec /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	GOTOOLCHAIN=local GOFLAGS="$GOFLAGS" GOPROXY="$GOPROXY" GOSUMDB="$GOSUMDB" \
	sh -c 'cd /root/zos && make $1 </dev/null' sh "$target"
INSIDE
GOFLAGS=$(go env GOFLAGS) GOPROXY=$(go env GOPROXY) GOSUMDB=$(go env GOSUMDB)
export GOFLAGS GOPROXY GOSUMDB
unshare --mount --pid --fork --kill-child sh "$work/inside" "$root" "$goroot" "$modules" "$target"
echo "make $target works on a fresh $suite" >&2
