#!/bin/sh
# Installs the Debian packages that `make run` or `make test` needs, by name and
# only the missing ones. Without root it says exactly what to install. Services
# that packages bring are not started.
set -eu

run="crun mmdebstrap docker-registry ca-certificates"
all="$run runc nginx-light curl fuse3 qemu-system-x86 chromium btrfs-progs e2fsprogs xz-utils zstd cpio attr iproute2 gcc libc6-dev"

case "${1:-}" in
run) want=$run ;;
test) want=$all ;;
*)
	echo "usage: $0 run|test" >&2
	exit 2
	;;
esac

missing=
for p in $want; do
	case "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)" in
	installed) ;;
	*) missing="$missing $p" ;;
	esac
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "missing:$missing" >&2
	echo "This machine has no apt-get; install these with its package manager and try again." >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "Missing Debian packages. Install them and try again:" >&2
	echo "    sudo apt-get install --no-install-recommends$missing" >&2
	exit 1
fi

# Keep the packages' services from starting; leave a policy that is there alone.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT
	trap 'exit 130' INT TERM
fi

echo "installing:$missing" >&2
log=$(mktemp)
try=1
while :; do
	if { apt-get -o Acquire::Retries=3 update &&
		DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 \
			install -y --no-install-recommends $missing; } >"$log" 2>&1; then
		rm -f "$log"
		exit 0
	fi
	if [ "$try" -ge 4 ]; then
		tail -n 30 "$log" >&2
		echo "apt-get failed $try times; its whole output is in $log" >&2
		exit 1
	fi
	echo "apt-get failed, trying again in $((try * 15)) seconds" >&2
	sleep $((try * 15))
	try=$((try + 1))
done
