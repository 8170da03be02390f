#!/bin/sh
# Checks the dashboards: against the types of Grafana's own schema, and against what Grafana doesn't say but people notice.
# What their queries answer is tested with a real Prometheus, in tests/it/metrics.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${TOOLS:?the folder of the tools}/grafana"
tools=$(cd "$TOOLS/grafana" && pwd)

# Exact versions, and none of them depends on anything else: Grafana 13.2, which they are of, is what current means.
pins="@grafana/schema@13.2.3 typescript@5.9.3 yaml@2.8.1"
if [ "$(cat "$tools/pins" 2>/dev/null)" != "$pins" ]; then
    echo "installing $pins into $tools"
    # shellcheck disable=SC2086
    npm install --silent --no-audit --no-fund --no-save --prefix "$tools" $pins
    echo "$pins" >"$tools/pins"
fi

cp "$here/check.mjs" "$tools/check.mjs"
rm -rf "$tools/types"
mkdir "$tools/types"
node "$tools/check.mjs" "$here" "$tools/types"
if ! (cd "$tools" && node_modules/.bin/tsc --noEmit --strict --skipLibCheck --target es2022 --module esnext \
    --moduleResolution bundler types/*.ts); then
    echo "deploy/grafana: a dashboard is not what Grafana's schema says; the lines above are of $tools/types" >&2
    exit 1
fi
echo "ok: the dashboards are of the types of @grafana/schema: each panel's options and fields are its plugin's"
