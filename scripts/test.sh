#!/bin/sh
# Runs the tests against real parts; --heavy runs those that take long instead. Private servers are started by the tests
# themselves, on free ports, and end with them.
set -eu
cd "$(dirname "$0")/.."
tools=$(cd "${TOOLS:-target/tools}" && pwd)
AZURITE="$tools/node_modules/.bin/azurite-blob"
export AZURITE

if [ "$(id -u)" != 0 ] && ! unshare --user --map-root-user --mount true 2>/dev/null; then
    echo "make test needs root (or user namespaces) for its full-disk test: run it as root or with sudo" >&2
    exit 1
fi
if [ "${1:-}" = --heavy ]; then
    exec cargo test --locked --test it -- heavy:: --ignored
fi
exec cargo test --locked
