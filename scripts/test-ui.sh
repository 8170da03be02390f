#!/bin/sh
# Tests the web UI in a real browser, Debian's Chromium, against the real program; checks its types, and that its vendored
# files are those of their packages. Builds the program unless SCORELINE names one.
set -eu
cd "$(dirname "$0")/.."
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v google-chrome)} || {
    echo "make test-ui needs Chromium: set CHROMIUM to it" >&2
    exit 1
}
if [ -z "${SCORELINE:-}" ]; then
    cargo build --locked --features otlp
    SCORELINE=${CARGO_TARGET_DIR:-$PWD/target}/debug/scoreline
fi
export CHROMIUM SCORELINE
cd tests/ui
# What is installed is what the lock file says, or is made so.
if ! cmp -s package-lock.json node_modules/.installed; then
    PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --silent --no-audit --no-fund
    cp package-lock.json node_modules/.installed
fi
node vendor.mjs
node_modules/.bin/tsc -p .
echo "good: the types of the UI and of its tests"
exec node --test --test-reporter=spec ui.test.mjs
