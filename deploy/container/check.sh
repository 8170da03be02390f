#!/bin/sh
# Builds the image by its Dockerfile and runs it as it is meant to run: another user, a root that can't be written to, no network
# but loopback. There is no registry and no Docker here, so the two base images are stand-ins (of the same Debian release, from
# Debian's packages), cargo is one that has the program already, and what a container engine does at a start is done by
# unshare, chroot and setpriv. Needs root, and TOOLS; takes the program from SCORELINE, or target/debug.
set -eu
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || exec sudo env "PATH=$PATH" "TOOLS=${TOOLS:-}" "SCORELINE=${SCORELINE:-}" sh deploy/container/check.sh
tools=$(mkdir -p "${TOOLS:-target/tools}" && cd "${TOOLS:-target/tools}" && pwd)
good() { echo "good: $*"; }
wrong() { echo "wrong: $*" >&2 && exit 1; }

program=${SCORELINE:-${CARGO_TARGET_DIR:-target}/debug/scoreline}
[ -x "$program" ] || cargo build --locked --bin scoreline

missing=
for tool in buildah mmdebstrap; do command -v $tool >/dev/null || missing="$missing $tool"; done
command -v unshare >/dev/null || missing="$missing util-linux"
command -v ip >/dev/null || missing="$missing iproute2"
if [ -n "$missing" ]; then
    echo "installing$missing"
    apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >/dev/null; }
    # shellcheck disable=SC2086
    apt install -y --no-install-recommends $missing || { apt update && apt install -y --no-install-recommends $missing; }
fi
sh scripts/venv.sh "$tools" containers deploy/container/requirements.txt
"$tools/containers/bin/hadolint" Dockerfile
good "hadolint finds nothing in the Dockerfile"

release=trixie
for base in $(sed -n 's/^FROM \([^ ]*\).*/\1/p' Dockerfile); do
    case $base in
    *-$release | *-debian13:*) ;;
    *) wrong "$base is not of Debian 13, as the other image is" ;;
    esac
done

# What is in distroless' cc image, but for its certificates, which are this machine's; and a shell with tools to build in.
folder=$tools/container
mkdir -p "$folder"
pack() {
    [ -e "$folder/$1.tar" ] && return
    echo "packing $1 from Debian $release"
    mmdebstrap --quiet --variant=extract --include="$2" $release "$folder/new.tar" "deb http://deb.debian.org/debian $release main"
    mv "$folder/new.tar" "$folder/$1.tar"
}
pack runtime base-files,netbase,libc6,libgcc-s1
pack build base-files,coreutils,dash,findutils,sed

# A storage of its own, which goes with the scratch folder.
scratch=$(mktemp -d)
cleanup() {
    [ -z "${pid:-}" ] || kill -KILL "$pid" 2>/dev/null || true
    buildah umount --all >/dev/null 2>&1 || true
    rm -rf "$scratch"
}
trap cleanup EXIT INT TERM
export BUILDAH_ISOLATION=chroot
buildah() { command buildah --storage-driver vfs --root "$scratch/storage" --runroot "$scratch/run" "$@"; }

mkdir -p "$scratch/rust/usr/local/bin" "$scratch/rust/tmp" "$scratch/empty"
cp deploy/container/standin/cargo "$scratch/rust/usr/local/bin/"
strip -o "$scratch/rust/program" "$program" 2>/dev/null || cp "$program" "$scratch/rust/program"
stand_in() {
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$folder/$2.tar" / >/dev/null
    buildah add --quiet "$container" "$3" / >/dev/null
    buildah config --env PATH=/usr/local/bin:/usr/bin:/bin "$container"
    buildah commit --quiet --rm "$container" "$1" >/dev/null
}
stand_in "$(sed -n 's/^FROM \([^ ]*\) AS build$/\1/p' Dockerfile)" build "$scratch/rust"
stand_in "$(sed -n '/ AS /d; s/^FROM \([^ ]*\)$/\1/p' Dockerfile)" runtime "$scratch/empty"
buildah build --quiet --format docker --pull-never --build-arg SCORELINE_REVISION=0123abc --build-arg VERSION=1.2.3 \
    --build-arg PROFILE=dev --tag scoreline . >/dev/null
good "the Dockerfile builds, with stand-ins for its two base images and for cargo"

buildah inspect --type image scoreline >"$scratch/image.json"
"$tools/containers/bin/python" - "$scratch/image.json" <<'PYTHON'
import json, sys
image = json.load(open(sys.argv[1]))["Docker"]["config"]
labels = image["Labels"]
wanted = {
    "User": "65532:65532", "Entrypoint": ["/usr/local/bin/scoreline"], "Cmd": ["serve"], "StopSignal": "SIGTERM",
    "Volumes": {"/var/lib/scoreline": {}}, "ExposedPorts": {"8080/tcp": {}},
}
for key, value in wanted.items():
    assert image[key] == value, (key, image[key])
assert image["Healthcheck"]["Test"] == ["CMD", "/usr/local/bin/scoreline", "health"], image["Healthcheck"]
for label in ("title", "description", "licenses"):
    assert labels[f"org.opencontainers.image.{label}"], label
assert labels["org.opencontainers.image.revision"] == "0123abc" and labels["org.opencontainers.image.version"] == "1.2.3", labels
PYTHON
good "user, entry, health check, stop signal, volume and labels are in the image"

root=$scratch/root
mkdir "$root" "$scratch/volume" "$scratch/config" "$scratch/srv" "$scratch/srv/in"
container=$(buildah from --pull-never scoreline)
mounted=$(buildah mount "$container")
[ ! -e "$mounted/bin/sh" ] || wrong "there is a shell in the image"
owner=$(stat -c '%u %g %a' "$mounted/var/lib/scoreline")
[ "$owner" = "65532 65532 700" ] || wrong "the state folder has the owner and mode $owner"
echo "good: $(du -sm "$mounted" | cut -f 1) MB, and no shell in it; the program alone is $(du -sm "$mounted/usr/local/bin/scoreline" | cut -f 1) MB of an unoptimised build"
[ -e "$mounted/etc/ssl/certs/ca-certificates.crt" ] || install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$mounted/etc/ssl/certs/ca-certificates.crt"

# The state folder of a new volume is the image's; the other folders and the config are the operator's.
cp -a "$mounted/var/lib/scoreline/." "$scratch/volume"
chown 65532:65532 "$scratch/volume" && chmod 700 "$scratch/volume"
cat >"$scratch/config/scoreline.toml" <<'TOML'
[http]
listen = "0.0.0.0:8080"
tokens = [{ role = "operate", secret = { file = "/etc/scoreline/token" } }]

[storage.s]
connection_string = "UseDevelopmentStorage=true"
container = "scoring"

[endpoints.e]
kind = "bes"
url = "http://127.0.0.1:9080/workspaces/w/services/s/jobs"
api_key = { file = "/etc/scoreline/key" }

[feeds.f]
endpoint = "e"
storage = "s"
outputs = { output1 = "{stem}.scores.csv" }
watch.folder = "/srv/in"
deliver.folder = "/srv/out"
source.archive = "/srv/archive"
source.failed = "/srv/failed"
TOML
echo token >"$scratch/config/token"
echo key >"$scratch/config/key"
chown -R 65532:65532 "$scratch/srv"

# What an engine does for `run --read-only --cap-drop ALL --security-opt no-new-privileges --network none`.
cat >"$scratch/start" <<SH
set -eu
ip link set lo up
mount --bind "$mounted" "$root"
mkdir -p "$mounted/srv" "$mounted/proc" "$mounted/etc/scoreline"
mount --bind "$scratch/srv" "$root/srv"
mount --bind "$scratch/volume" "$root/var/lib/scoreline"
mount --bind "$scratch/config" "$root/etc/scoreline"
mount -o remount,ro,bind "$root/etc/scoreline"
mount -o remount,ro,bind "$root"
mount -t proc proc "$root/proc"
exec setpriv --no-new-privs -- unshare --root="$root" --setgid 65532 --setuid 65532 /usr/local/bin/scoreline serve
SH
unshare --mount --net --pid --fork --kill-child sh "$scratch/start" 2>"$scratch/log" &
pid=$!
inside() { nsenter --target "$inner" --mount --net --pid --root --setuid 65532 --setgid 65532 -- /usr/local/bin/scoreline "$@"; }
until_so() {
    what=$1 && shift
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] && kill -0 "$pid" 2>/dev/null || { cat "$scratch/log" >&2 && wrong "waited in vain until $what"; }
        sleep 0.1
    done
}
until_so "it is ready" grep -q '"message":"ready"' "$scratch/log"
inner=$(cat "/proc/$pid/task/$pid/children")
inner=${inner% }
[ "$(inside --version)" = "scoreline $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)" ] || wrong "it tells another version"
[ "$(awk '/^(Uid|CapEff|NoNewPrivs)/ { printf "%s ", $2 }' "/proc/$inner/status")" = "65532 0000000000000000 1 " ] ||
    wrong "it runs with more rights than it should: $(cat "/proc/$inner/status")"
[ "$(inside health)" = ok ] || wrong "the health check fails"
[ "$(inside health --ready)" = ready ] || wrong "it is not ready"
inside feeds list | grep -q '^f ' || wrong "the commands in the image don't reach the daemon"
good "it serves as 65532 without a capability, on a root that can't be written to, and its health check says so"
python3 - "$scratch/log" <<'PYTHON'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert any(line["message"] == "ready" for line in lines)
PYTHON
good "its log on stderr is JSON, line by line"
kill -TERM "$inner"
code=0
wait "$pid" || code=$?
[ $code = 0 ] || { cat "$scratch/log" >&2 && wrong "as process 1 it ended with $code after SIGTERM"; }
grep -q '"message":"stopped"' "$scratch/log" || wrong "it did not stop by itself"
pid=
good "as process 1 it ends by itself, with 0, after SIGTERM"
[ -e "$scratch/volume/lock" ] || wrong "the state is not in the volume"
good "all that it wrote is in the volume of its state and in the feeds' folders"
