#!/bin/sh
# Runs the tests against real parts; --heavy runs those that take long instead, --soak the one that takes as long as one
# likes. All with every feature, so that all is built once. Private servers are started by the tests themselves, on free ports, and end with them.
set -eu
cd "$(dirname "$0")/.."
tools=$(cd "${TOOLS:-target/tools}" && pwd)
AZURITE="$tools/node_modules/.bin/azurite-blob"
SCHEMATHESIS="$tools/openapi/bin/schemathesis"
PROMETHEUS="$tools/deb/usr/bin/prometheus"
PROMTOOL="$tools/deb/usr/bin/promtool"
export AZURITE SCHEMATHESIS PROMETHEUS PROMTOOL

if [ "${1:-}" = --soak ]; then
    exec cargo test --locked --features otlp --test it -- soak::long:: --ignored --nocapture
fi

# One test fills a small disk that it mounts for that. Cargo stays what it is; only the test programs run as root.
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        echo "make test needs root or sudo: one of the tests mounts a small disk to fill it" >&2
        exit 1
    }
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${host}_RUNNER=$PWD/scripts/as-root.sh"
fi
if [ "${1:-}" = --heavy ]; then
    # One after the other: some measure the memory of the process that they are all in.
    exec cargo test --locked --features otlp --test it -- heavy:: --ignored --test-threads=1
fi
exec cargo test --locked --workspace --features scoreline/otlp
