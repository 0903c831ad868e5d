#!/bin/sh
# Fetches Debian 13's kernel into a directory, whatever Debian this machine
# runs: with package lists of its own, from the mirror and with the keys that
# the machine is configured for. Nothing is installed.
#
#   fetch.sh DIR     leaves DIR/vmlinuz, DIR/version and DIR/modules/*.ko.xz
set -eu
dir=$1
mkdir -p "$dir"
[ -f "$dir/vmlinuz" ] && [ -d "$dir/modules" ] && [ -f "$dir/version" ] && exit 0

mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
	awk '$1 == "URIs:" && $2 ~ /\/debian\/?$/ { print $2; exit }
	     $1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:.*\/debian\/?$/) { print $i; exit } }')
[ -n "$mirror" ] || { echo "fetch kernel: apt knows no Debian mirror on this machine; add one to /etc/apt" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/state"
: >"$work/state/status"
printf 'Types: deb\nURIs: %s\nSuites: trixie\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
	"$mirror" >"$work/trixie.sources"

private() {
	tool=$1
	shift
	"$tool" -q -o Dir::Etc::sourcelist="$work/trixie.sources" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::State="$work/state" -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/state/status" \
		-o Dir::Cache="$work/cache" -o APT::Architecture=amd64 -o APT::Sandbox::User= -o Acquire::Retries=3 \
		-o Acquire::Languages=none -o APT::Update::Error-Mode=any "$@"
}

try=1
until
	private apt-get update >"$work/log" 2>&1 &&
		package=$(private apt-cache search --names-only '^linux-image-6\.12.*-cloud-amd64$' | awk '{ print $1 }' | sort -V | tail -n 1) &&
		[ -n "$package" ] && (cd "$work" && private apt-get download "$package") >>"$work/log" 2>&1
do
	[ "$try" -lt 4 ] || { cat "$work/log" >&2; echo "fetch kernel: apt failed four times" >&2; exit 1; }
	sleep "$try"
	try=$((try + 1))
done

dpkg-deb -x "$work"/linux-image-*.deb "$work/root"
rm -rf "$dir/modules.new"
mkdir "$dir/modules.new"
# The file systems, the loop device and the libraries that they may need.
find "$work/root" \( -path '*/kernel/fs/*' -o -path '*/kernel/lib/*' -o -path '*/kernel/crypto/*' -o -path '*/drivers/block/loop*' \) \
	-name '*.ko*' -exec cp {} "$dir/modules.new/" \;
rm -rf "$dir/modules"
mv "$dir/modules.new" "$dir/modules"
basename "$work"/root/boot/vmlinuz-* | sed 's/^vmlinuz-//' >"$dir/version"
cp "$work"/root/boot/vmlinuz-* "$dir/vmlinuz.new"
mv "$dir/vmlinuz.new" "$dir/vmlinuz"
