#!/bin/sh
# Builds every overlay, with and without the components, by the kustomize in kubectl; holds the result against Kubernetes' own schemas
# and the operator's, has it scanned, and holds it against the program. `check.sh --write-rules` makes components/monitoring/rules.yaml
# anew from deploy/prometheus. Needs Python, and TOOLS; takes the program from SCORELINE, or target/debug.
set -eu
cd "$(dirname "$0")/../.."
tools=$(mkdir -p "${TOOLS:-target/tools}" && cd "${TOOLS:-target/tools}" && pwd)
sh scripts/venv.sh "$tools" kubernetes deploy/kubernetes/requirements.txt
SCORELINE=${SCORELINE:-${CARGO_TARGET_DIR:-target}/debug/scoreline}
[ -x "$SCORELINE" ] || cargo build --locked --bin scoreline
export SCORELINE
exec "$tools/kubernetes/bin/python" deploy/kubernetes/check.py "$@"
