#!/bin/sh
# Asks systemd's own tools what they think of the unit, then boots a real systemd in a chroot, with processes, mounts and a
# network of its own, and has it run the daemon under the unit as it is. As root or with sudo, where cgroup 2 is mounted;
# TOOLS says where what it needs is kept. PROGRAM=… runs that one in place of what `cargo build` makes.
set -eu
cd "$(dirname "$0")/../.."
tools=${TOOLS:-target/tools}
mkdir -p "$tools"
tools=$(cd "$tools" && pwd)

program=${PROGRAM:-${CARGO_TARGET_DIR:-target}/debug/scoreline}
[ -n "${PROGRAM:-}" ] || cargo build --quiet --locked
[ -x "$program" ] || { echo "there is no program $program" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}
good() {
    echo "systemd: $*"
}
wrong() {
    echo "systemd: $*" >&2
    exit 1
}

hierarchy=$(sed -n 's/^[^ ]* \([^ ]*\) cgroup2 .*/\1/p' /proc/mounts | head -n 1)
[ -n "$hierarchy" ] || wrong "no systemd can be booted where cgroup 2 is not mounted"
cgroup=$hierarchy/scoreline-check-$$
work=$(mktemp -d)
root=$work/root
ended() {
    # The first process of the machine is the one whose end is everybody's.
    [ ! -d "$cgroup" ] || as_root sh -c 'xargs -r kill -9 <"$1/cgroup.procs"' kill "$cgroup" 2>/dev/null || true
    for _ in $(seq 100); do
        [ -d "$cgroup" ] || break
        as_root find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
    done
    as_root rm -rf --one-file-system "$work"
}
trap ended EXIT

inside() {
    as_root unshare --mount --fork sh -c 'root=$1; shift; mount -t proc proc "$root/proc"; exec chroot "$root" "$@"' inside "$root" "$@"
}
as_root sh scripts/chroot.sh "$tools" debian systemd procps iproute2 ca-certificates
as_root mkdir "$root"
as_root tar -C "$root" --exclude='./dev/*' -xf "$tools/chroot/debian.tar"
# As the unit's first lines say.
as_root strip -o "$root/usr/local/bin/scoreline" "$program"
as_root install -D -m 0644 -t "$root/usr/local/lib/sysusers.d" deploy/systemd/sysusers.d/scoreline.conf
as_root install -D -m 0644 -t "$root/usr/local/lib/tmpfiles.d" deploy/systemd/tmpfiles.d/scoreline.conf
inside systemd-sysusers 2>/dev/null
inside systemd-tmpfiles --create scoreline.conf
as_root install -D -m 0644 deploy/debian/scoreline.toml "$root/etc/scoreline/scoreline.toml"
as_root install -D -m 0644 -t "$root/etc/systemd/system" deploy/systemd/scoreline.service
for is in "/var/lib/scoreline scoreline:scoreline 700" "/etc/scoreline/secrets root:root 700"; do
    path=${is%% *}
    [ "$is" = "$(inside stat -c '%n %U:%G %a' "$path")" ] || wrong "$path is not as tmpfiles.d says"
done
good "user and folders are made"

unit=/etc/systemd/system/scoreline.service
inside systemd-analyze security --offline=true --threshold=20 --no-pager "$unit" >"$work/exposure" ||
    wrong "$(tail -n 1 "$work/exposure")"
good "$(sed -n 's/^[^O]*\(Overall exposure.*[0-9]\) .*/\1/p' "$work/exposure")"
drop_in=$root$unit.d
for with in without with; do
    if [ "$with" = with ]; then
        as_root install -D -m 0644 -t "$drop_in" deploy/systemd/folders.conf
        # With all that stands there as a comment.
        as_root sed -i 's/^#\([A-Z]\)/\1/' "$drop_in/folders.conf"
    fi
    told=$(inside systemd-analyze verify scoreline.service 2>&1) && [ -z "$told" ] || wrong "$with drop-in: $told"
done
as_root rm -r "$drop_in"
good "the unit is verified, with and without the drop-in"

as_root cp deploy/systemd/booted.sh "$root/booted.sh"
as_root tee "$root/etc/systemd/system/check.service" >/dev/null <<'UNIT'
[Unit]
DefaultDependencies=no
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/bash /booted.sh
StandardOutput=append:/told
StandardError=append:/told
UNIT
as_root tee "$root/etc/systemd/system/check.target" >/dev/null <<'UNIT'
[Unit]
Requires=basic.target check.service
UNIT
as_root mkdir "$cgroup"
as_root sh -c '
    echo $$ >"$2/cgroup.procs"
    exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child sh -c '\''
        set -eu
        mount --bind "$1" "$1"
        cd "$1"
        mount -t proc proc proc
        mount -t sysfs -o ro sysfs sys
        mount -t cgroup2 cgroup2 sys/fs/cgroup
        for folder in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs $folder; done
        chmod 1777 tmp
        mkdir dev/pts dev/shm dev/mqueue dev/hugepages
        mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
        mount -t tmpfs tmpfs dev/shm
        mount -t mqueue mqueue dev/mqueue
        ln -s pts/ptmx dev/ptmx
        ln -s /proc/self/fd dev/fd
        cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty dev/
        mkdir outside
        pivot_root . outside
        umount -l /outside
        # Whoever starts a systemd in a container sees to this; credentials come to a service by it.
        mount --make-rshared /
        exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
            /lib/systemd/systemd --system --unit=check.target --log-target=null --show-status=0
    '\'' boot "$1"
' boot "$root" "$cgroup" </dev/null >"$work/boot.log" 2>&1 &
for _ in $(seq 3000); do
    [ ! -e "$root/ended" ] || break
    sleep 0.1
done
as_root cat "$root/told" 2>/dev/null || true
[ "$(as_root cat "$root/ended" 2>/dev/null)" = 0 ] || wrong "the daemon did not live under a real systemd as it should: $(cat "$work/boot.log")"
