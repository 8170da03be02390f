#!/bin/sh
# Checks what lies beside this file, each by the tool that will read it; TOOLS is the folder that those are unpacked into.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
scripts=$here/../../scripts
tools=${TOOLS:?"the folder to unpack tools into"}
mkdir -p "$tools"
tools=$(cd "$tools" && pwd)

# Both are programs without dependencies, and Debian's packages of them can be unpacked beside the tests.
for program in prometheus/promtool prometheus-alertmanager/amtool; do
    [ -x "$tools/deb/usr/bin/${program#*/}" ] || {
        command -v apt-get >/dev/null || { echo "${program#*/} is missing in $tools/deb/usr/bin" >&2; exit 1; }
        sh "$scripts/deb.sh" "$tools" "${program%/*}"
    }
done
promtool=$tools/deb/usr/bin/promtool
amtool=$tools/deb/usr/bin/amtool
sh "$scripts/venv.sh" "$tools" alerts "$here/requirements.txt"

# Quiet when all is well: these tools tell much of what they found good.
try() {
    said=$("$@" 2>&1) || { echo "$said" >&2; echo "failed: $*" >&2; exit 1; }
}
cd "$here"
try "$promtool" check config prometheus.yml
echo "prometheus.yml: a config for Prometheus, with its rule files"
try "$promtool" check rules --lint=all --lint-fatal alerts.yml thresholds.yml
echo "alerts.yml, thresholds.yml: rules without lint"
"$tools/alerts/bin/python" check.py
for tests in tests/*.yml; do
    try "$promtool" test rules "$tests"
    echo "$tests: alerts fire when they should, and not when they shouldn't"
done
try "$amtool" check-config alertmanager.yml
for route in page=on-call ticket=tickets info=digest; do
    to=$("$amtool" config routes test --config.file=alertmanager.yml "severity=${route%=*}" 2>/dev/null)
    [ "$to" = "${route#*=}" ] || { echo "alertmanager.yml: ${route%=*} goes to $to" >&2; exit 1; }
done
echo "alertmanager.yml: a config for Alertmanager, with a receiver for each severity"
