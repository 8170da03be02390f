#!/bin/sh
# Reads compose.yaml by Docker Compose itself, and then does what it says without Docker: every service in a network and a root of its
# own, with its mounts, secrets, user and order of start, and the programs of this machine in place of the images'. Needs root and
# TOOLS with what scripts/tools.sh installs; takes the program from SCORELINE, or target/debug.
set -eu
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || exec sudo env "PATH=$PATH" "TOOLS=${TOOLS:-}" "SCORELINE=${SCORELINE:-}" "CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-}" sh deploy/compose/check.sh
tools=$(mkdir -p "${TOOLS:-target/tools}" && cd "${TOOLS:-target/tools}" && pwd)
SCORELINE=${SCORELINE:-${CARGO_TARGET_DIR:-target}/debug/scoreline}
[ -x "$SCORELINE" ] || cargo build --locked --bin scoreline
AZURITE=${AZURITE:-$tools/node_modules/.bin/azurite-blob}
PROMETHEUS=${PROMETHEUS:-$tools/deb/usr/bin/prometheus}
export SCORELINE AZURITE PROMETHEUS
for program in "$AZURITE" "$PROMETHEUS"; do
    [ -x "$program" ] || { echo "wrong: $program is not there: make tools installs it" >&2 && exit 1; }
done
command -v ip >/dev/null || apt-get -qq install -y --no-install-recommends iproute2 >/dev/null
sh scripts/venv.sh "$tools" containers deploy/container/requirements.txt
compose=$("$tools/containers/bin/python" -c 'import compose, pathlib; print(pathlib.Path(compose.__file__).parent / "docker-compose")')
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$compose" config --format json >"$scratch/compose.json"
echo "good: Docker Compose $("$compose" version --short) reads compose.yaml"
unshare --mount --net --pid --fork --kill-child --mount-proc python3 deploy/compose/rehearse.py "$scratch"
