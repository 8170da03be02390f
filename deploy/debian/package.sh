#!/bin/sh
# Makes the Debian package out of a program that is built already: `package.sh TOOLS PROGRAM INTO [OPTION OF cargo-deb…]`.
#
#   cargo build --release --locked
#   sh deploy/debian/package.sh target/tools target/release/scoreline target/debian
#
# It fits the Debian release that the program was built on, and later ones.
set -eu
cd "$(dirname "$0")/../.."
mkdir -p "$1" "$3"
tools=$(cd "$1" && pwd) program=$2 into=$(cd "$3" && pwd)
shift 3

version=3.8.0
PATH=$tools/cargo/bin:$PATH
if [ "$(cargo deb --version 2>/dev/null)" != "cargo-deb $version" ]; then
    echo "installing cargo-deb $version into $tools/cargo"
    cargo install --quiet --locked --root "$tools/cargo" --version "$version" cargo-deb
fi

# cargo-deb takes what lies in the target folder, so it gets one of its own.
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/release/completions" "$stage/release/examples" "$stage/release/doc"
cp config/scoreline.toml deploy/systemd/folders.conf "$stage/release/examples"
for folder in deploy/prometheus deploy/grafana; do
    [ ! -d "$folder" ] || cp -R "$folder" "$stage/release/examples"
done
strip -o "$stage/release/scoreline" "$program"
for shell in bash zsh fish; do
    "$stage/release/scoreline" completions "$shell" >"$stage/release/completions/scoreline.$shell"
done
gzip -9n <CHANGELOG.md >"$stage/release/doc/changelog.gz"
release=$("$stage/release/scoreline" --version | sed 's/.* //')
{
    printf 'scoreline (%s-1) unstable; urgency=medium\n\n  * What is new is in changelog.gz.\n\n' "$release"
    printf ' -- The scoreline authors <maintainers@scoreline.example>  %s\n' "$(date -R -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}")"
} | gzip -9n >"$stage/release/doc/changelog.Debian.gz"
CARGO_TARGET_DIR=$stage cargo deb --quiet --locked --no-build --output "$into" "$@"
