#!/bin/sh
# Unpacks programs from Debian packages into TOOLS/deb, without installing them, so that no service is started and nothing
# else on the machine changes: `deb.sh TOOLS PACKAGE…`. For programs that need no other package, like those written in Go.
set -eu
into=$1/deb
shift
for package in "$@"; do
    [ -e "$into/.has-$package" ] && continue
    echo "unpacking $package into $into"
    mkdir -p "$into/cache"
    download() { (cd "$into/cache" && apt-get -qq -o APT::Sandbox::User=root download "$package"); }
    root=
    [ "$(id -u)" = 0 ] || root=sudo
    download || { $root apt-get -qq update && download; }
    dpkg -x "$into/cache/$package"_*.deb "$into"
    rm -f "$into/cache/$package"_*.deb
    touch "$into/.has-$package"
done
