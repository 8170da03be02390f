#!/bin/sh
# Installs what the tests run against and is missing: Azurite, a blob server, from npm and Schemathesis, a client that
# thinks up its calls, from PyPI, and Prometheus into the folder given, so that nothing else on the machine changes; and PostgreSQL, with
# SOAK_PATRONI=1 Patroni too, from the system's packages. The tests start servers of their own.
set -eu
tools=${1:?"the folder to install into"}

# What is missing is installed from Debian's packages where that can be done, else named.
install() {
    root=
    [ "$(id -u)" = 0 ] || root=sudo
    echo "installing $*"
    apt() { $root env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >/dev/null; }
    apt install -y --no-install-recommends "$@" || { apt update && apt install -y --no-install-recommends "$@"; }
}
missing() {
    echo "make test needs $1" >&2
    exit 1
}
has() {
    command -v "$1" >/dev/null 2>&1
}
has_postgres() {
    has initdb || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}
has_python() {
    python3 -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}
has_chromium() {
    [ -n "${CHROMIUM:-}" ] || has chromium || has google-chrome
}
has_patroni() {
    has patroni && has etcd
}

has cargo || missing "Rust: see https://rustup.rs"
if has apt-get; then
    has cc || install gcc libc6-dev || true
    has npm || install nodejs npm || true
    has_postgres || install postgresql || true
    has_python || install python3 python3-venv || true
    has_chromium || install chromium || true
    [ "${SOAK_PATRONI:-}" != 1 ] || has_patroni || install patroni etcd-server || true
fi
has cc || missing "a C compiler"
has npm || missing "Node.js 20 or later, with npm"
has_python || missing "Python 3.11 or later, with venv"
[ "${SOAK_PATRONI:-}" != 1 ] || has_patroni || missing "Patroni and etcd for SOAK_PATRONI=1"
has_chromium || missing "Chromium"
has_postgres || missing "a PostgreSQL server, 13 or later, with initdb and pg_ctl on the PATH"

version=3.37.0
installed=$(sed -n 's/.*"version": "\(.*\)".*/\1/p' "$tools/node_modules/azurite/package.json" 2>/dev/null | head -n 1)
if [ "$installed" != "$version" ]; then
    echo "installing azurite $version into $tools"
    mkdir -p "$tools"
    npm install --silent --no-audit --no-fund --prefix "$tools" "azurite@$version"
fi

sh "$(dirname "$0")/venv.sh" "$tools" openapi "$(dirname "$0")/../tests/it/openapi/requirements.txt"

# Prometheus scrapes the daemon that the tests run; promtool reads what deploy/ says of it.
if has apt-get; then
    sh "$(dirname "$0")/deb.sh" "$tools" prometheus
else
    has prometheus || missing "Prometheus, with promtool"
    mkdir -p "$tools/deb/usr/bin"
    ln -sf "$(command -v prometheus)" "$(command -v promtool)" "$tools/deb/usr/bin/"
fi
