#!/bin/sh
# Makes TOOLS/chroot/NAME.tar, a Debian of the kind that this machine is with some packages, unless it is there:
# `chroot.sh TOOLS NAME PACKAGE…`. For checks that install, which nothing on the machine itself is to feel. Needs root.
set -eu
tools=$1 name=$2
shift 2
tar=$tools/chroot/$name.tar
if ! printf '%s\n' "$@" | cmp -s - "$tar.packages"; then
    sh "$(dirname "$0")/deb.sh" "$tools" mmdebstrap
    echo "making a chroot with $* in $tar"
    mkdir -p "$tools/chroot"
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    "$tools/deb/usr/bin/mmdebstrap" --quiet --format=tar --variant=minbase --include="$*" "$release" "$tar.new"
    mv "$tar.new" "$tar"
    # Last, so that a chroot that was broken off is begun anew.
    printf '%s\n' "$@" >"$tar.packages"
fi
