#!/bin/bash
# What check.sh does in the chroot: the life of an installed package, from the first installation to the purge.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
ip link set lo up

good() {
    echo "debian: $*"
}
wrong() {
    echo "debian: $*" >&2
    exit 1
}
# Each path with the owner, the group and the mode that it should have.
has() {
    local is
    is=$(stat -c '%U:%G %a' "$1") || wrong "$1 is missing"
    [ "$is" = "$2" ] || wrong "$1 is $is and should be $2"
}
fetch() {
    exec 3<>/dev/tcp/127.0.0.1/8080
    printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$1" >&3
    cat <&3
    exec 3>&-
}
install() {
    # Nobody is asked anything, as on a server that upgrades by itself.
    dpkg -i --force-confdef --force-confold "$1" >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log >&2; wrong "$1 could not be installed"; }
}

# As user scoreline, the way that the unit does it.
start() {
    setpriv --reuid scoreline --regid scoreline --clear-groups --no-new-privs \
        env -i PATH=/usr/bin:/bin NOTIFY_SOCKET=/run/nobody scoreline serve 2>/tmp/log &
    daemon=$!
    for _ in $(seq 600); do
        ! grep -q '"message":"ready"' /tmp/log || return 0
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    cat /tmp/log >&2
    wrong "the daemon did not start"
}
stop() {
    kill -TERM "$daemon"
    wait "$daemon" || { cat /tmp/log >&2; wrong "the daemon ended with $?"; }
}

# The machine says that no service may be started, as one does in a chroot.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

install /packages/1.deb
systemd-tmpfiles --create scoreline.conf
has /usr/bin/scoreline "root:root 755"
has /etc/scoreline "root:root 755"
has /etc/scoreline/scoreline.toml "root:root 644"
has /etc/scoreline/secrets "root:root 700"
has /var/lib/scoreline "scoreline:scoreline 700"
has /usr/lib/systemd/system/scoreline.service "root:root 644"
for file in README.md.gz README.md; do
    [ ! -e "/usr/share/doc/scoreline/$file" ] || readme=$file
done
[ -n "${readme:-}" ] || wrong "there is no README"
[ -s /usr/share/doc/scoreline/copyright ] || wrong "there is no copyright"
for example in scoreline.toml folders.conf; do
    ls /usr/share/doc/scoreline/examples/$example* >/dev/null || wrong "there is no example $example"
done
case $(getent passwd scoreline) in
*:/var/lib/scoreline:/usr/sbin/nologin) ;;
*) wrong "user scoreline is $(getent passwd scoreline)" ;;
esac
[ "$(systemctl is-enabled scoreline.service)" = enabled ] || wrong "the service is not enabled"
[ "$(dpkg-query -W -f '${Conffiles}' scoreline | awk '{print $1}' | xargs)" = /etc/scoreline/scoreline.toml ] ||
    wrong "the config is no conffile"
good "installed: files, owners, user, enabled service"

scoreline --version
scoreline completions bash | bash -n
scoreline check
# What stands there as a comment is a good config, too.
sed 's/^# \(\[\|[a-z_.]* = \)/\1/' /etc/scoreline/scoreline.toml >/tmp/first-feed.toml
mkdir -p /srv/churn/in /tmp/secrets
echo 'AccountName=a;AccountKey=c2VjcmV0' >/tmp/secrets/storage
echo 'key' >/tmp/secrets/churn-key
CREDENTIALS_DIRECTORY=/tmp/secrets scoreline --config /tmp/first-feed.toml check | grep -q '1 feed, 1 endpoint' ||
    wrong "the config's own example is not good"
good "the config as it comes is good, and so is the feed that it shows"

told=$(systemd-analyze verify scoreline.service 2>&1) && [ -z "$told" ] || wrong "systemd-analyze verify: $told"
good "the installed unit is verified"

start
fetch /healthz | grep -q '200 OK' || wrong "it is not healthy"
fetch /readyz | grep -q '200 OK' || wrong "it is not ready"
scoreline feeds list >/dev/null
stop
has /var/lib/scoreline/scoreline.db "scoreline:scoreline $(stat -c %a /var/lib/scoreline/scoreline.db)"
good "the installed config starts, answers and stops"

echo '# a change of the machine'"'"'s own' >>/etc/scoreline/scoreline.toml
echo secret >/etc/scoreline/secrets/mine
before=$(sha256sum /etc/scoreline/scoreline.toml /etc/scoreline/secrets/mine)
state=$(stat -c '%i %s' /var/lib/scoreline/scoreline.db)
install /packages/2.deb
case $(dpkg-query -W -f '${Version}' scoreline) in *-2) ;; *) wrong "it was not upgraded" ;; esac
[ "$before" = "$(sha256sum /etc/scoreline/scoreline.toml /etc/scoreline/secrets/mine)" ] || wrong "the config was changed"
[ "$state" = "$(stat -c '%i %s' /var/lib/scoreline/scoreline.db)" ] || wrong "the store was changed"
has /etc/scoreline/secrets "root:root 700"
start
fetch /readyz | grep -q '200 OK' || wrong "it is not ready after the upgrade"
stop
good "upgraded: config, secrets and store are as they were"

dpkg -r scoreline >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log >&2; wrong "it could not be removed"; }
[ ! -e /usr/bin/scoreline ] || wrong "the program is still there"
[ "$before" = "$(sha256sum /etc/scoreline/scoreline.toml /etc/scoreline/secrets/mine)" ] || wrong "the config went with it"
[ -e /var/lib/scoreline/scoreline.db ] || wrong "the store went with it"
good "removed: config, secrets and store stay"

install /packages/2.deb
[ "$before" = "$(sha256sum /etc/scoreline/scoreline.toml /etc/scoreline/secrets/mine)" ] || wrong "the config was replaced"
dpkg -P scoreline >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log >&2; wrong "it could not be purged"; }
[ ! -e /etc/scoreline ] || wrong "the config is still there: $(ls -R /etc/scoreline)"
[ -e /var/lib/scoreline/scoreline.db ] || wrong "the store was purged"
grep -q 'its store is kept in /var/lib/scoreline' /tmp/dpkg.log || wrong "nobody is told of the store"
left=$(find /etc /usr /var/lib/systemd -name '*scoreline*' -not -path '/usr/share/doc/*')
[ -z "$left" ] || wrong "the purge leaves $left"
good "purged: config and secrets are gone, the store stays and is told of"
