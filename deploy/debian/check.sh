#!/bin/sh
# Installs, starts, upgrades, removes and purges the Debian package in a chroot, and asks lintian. As root or with sudo;
# TOOLS says where what it needs is kept. PROGRAM=… packages that one in place of what `cargo build` makes.
set -eu
cd "$(dirname "$0")/../.."
tools=${TOOLS:-target/tools}
mkdir -p "$tools"
tools=$(cd "$tools" && pwd)

program=${PROGRAM:-${CARGO_TARGET_DIR:-target}/debug/scoreline}
[ -n "${PROGRAM:-}" ] || cargo build --quiet --locked
[ -x "$program" ] || { echo "there is no program $program" >&2; exit 1; }

work=$(mktemp -d)
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}
trap 'as_root rm -rf "$work"' EXIT
good() {
    echo "debian: $*"
}

sh deploy/debian/package.sh "$tools" "$program" "$work/one" --deb-revision 1 --fast
sh deploy/debian/package.sh "$tools" "$program" "$work/two" --deb-revision 2 --fast
good "packaged $(cd "$work" && ls one/*.deb two/*.deb | xargs)"

# Runs a command in a chroot, with processes, mounts and a network of its own, of which nothing is left when it ends.
inside() {
    root=$1
    shift
    as_root unshare --mount --pid --net --uts --ipc --fork sh -c '
        root=$1; shift
        mount -t proc proc "$root/proc"
        mount -t tmpfs tmpfs "$root/dev"
        mkdir "$root/dev/shm"
        for node in null zero full random urandom tty; do
            : >"$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"
        done
        ln -s /proc/self/fd "$root/dev/fd"
        exec chroot "$root" "$@"
    ' inside "$root" "$@"
}
unpacked() {
    as_root sh scripts/chroot.sh "$tools" "$1" $2
    as_root mkdir "$work/$1"
    as_root tar -C "$work/$1" --exclude='./dev/*' -xf "$tools/chroot/$1.tar"
}

unpacked lint lintian
as_root cp "$work/one"/*.deb "$work/lint/package.deb"
as_root sh -c "cd '$work/lint' && mv package.deb scoreline_$(dpkg-deb -f "$work/one"/*.deb Version)_amd64.deb"
# Nobody asked Debian for the package.
inside "$work/lint" sh -c 'lintian --allow-root --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs /*.deb'
good "lintian has neither errors nor warnings"

unpacked debian "systemd procps iproute2 ca-certificates"
as_root mkdir "$work/debian/packages"
as_root cp "$work/one"/*.deb "$work/debian/packages/1.deb"
as_root cp "$work/two"/*.deb "$work/debian/packages/2.deb"
as_root cp deploy/debian/inside.sh "$work/debian/inside.sh"
inside "$work/debian" bash /inside.sh
