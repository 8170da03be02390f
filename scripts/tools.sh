#!/bin/sh
# Installs what the tests run against and is missing: Azurite, a blob server, from npm. Into the folder given, so that
# nothing else on the machine changes.
set -eu
tools=${1:?"the folder to install into"}

need() {
    command -v "$1" >/dev/null 2>&1 || { echo "make test needs $1: $2" >&2; exit 1; }
}
need cargo "install Rust from https://rustup.rs"
need cc "install a C compiler (Debian: apt-get install gcc libc6-dev)"
need node "install Node.js 20 or later (Debian: apt-get install nodejs npm)"
need npm "install npm (Debian: apt-get install npm)"

version=3.37.0
installed=$(sed -n 's/.*"version": "\(.*\)".*/\1/p' "$tools/node_modules/azurite/package.json" 2>/dev/null | head -n 1)
if [ "$installed" != "$version" ]; then
    echo "installing azurite $version into $tools"
    mkdir -p "$tools"
    npm install --silent --no-audit --no-fund --prefix "$tools" "azurite@$version"
fi
