#!/bin/sh
# Installs what the tests run against and is missing: Azurite, a blob server, from npm into the folder given, so that
# nothing else on the machine changes; and PostgreSQL from the system's packages. The tests start servers of their own.
set -eu
tools=${1:?"the folder to install into"}

# What is missing is installed from Debian's packages where that can be done, else named.
need() {
    command=$1 packages=$2 elsewhere=$3
    command -v "$command" >/dev/null 2>&1 && return
    if command -v apt-get >/dev/null 2>&1; then
        echo "installing $packages"
        root=""
        [ "$(id -u)" = 0 ] || root=sudo
        # shellcheck disable=SC2086 # several words are several packages
        $root apt-get install -y --no-install-recommends $packages >/dev/null && return
    fi
    echo "make test needs $command: $elsewhere" >&2
    exit 1
}
need cc "gcc libc6-dev" "install a C compiler"
need node "nodejs npm" "install Node.js 20 or later"
need npm "npm" "install npm"
command -v cargo >/dev/null 2>&1 || { echo "make test needs Rust: see https://rustup.rs" >&2; exit 1; }

version=3.37.0
installed=$(sed -n 's/.*"version": "\(.*\)".*/\1/p' "$tools/node_modules/azurite/package.json" 2>/dev/null | head -n 1)
if [ "$installed" != "$version" ]; then
    echo "installing azurite $version into $tools"
    mkdir -p "$tools"
    npm install --silent --no-audit --no-fund --prefix "$tools" "azurite@$version"
fi

has_postgres() {
    command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}
if ! has_postgres; then
    command -v apt-get >/dev/null 2>&1 || {
        echo "make test needs a PostgreSQL server, 13 or later, with initdb and pg_ctl on the PATH" >&2
        exit 1
    }
    root=
    if [ "$(id -u)" != 0 ]; then
        need sudo "or install PostgreSQL yourself (Debian: apt-get install postgresql)"
        root=sudo
    fi
    echo "installing postgresql with apt-get"
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q postgresql ||
        { $root apt-get update -q && $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q postgresql; }
    has_postgres || { echo "make test needs initdb: look at what apt-get said" >&2; exit 1; }
fi
