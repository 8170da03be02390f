#!/bin/bash
# What check.sh does in the machine that it boots: the daemon under a real systemd, held to its unit.
set -uo pipefail
trap 'echo $? >/ended.new; mv /ended.new /ended' EXIT

good() {
    echo "systemd: $*"
}
wrong() {
    echo "systemd: $*"
    systemctl status --no-pager --full scoreline
    journalctl --no-pager -n 30 -u scoreline
    exit 1
}
# Waits for up to a minute.
until_true() {
    for _ in $(seq 600); do
        ! "$@" || return 0
        sleep 0.1
    done
    return 1
}
is() {
    systemctl show --value -p "$1" scoreline
}
answers() {
    (
        exec 3<>/dev/tcp/127.0.0.1/8080 &&
            printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$1" >&3 && grep -q "${2:-200 OK}" <&3
    ) 2>/dev/null
}

ip link set lo up
scoreline sandbox --listen 127.0.0.1:19900 --run-time 0s --api-key churn-key >/tmp/remote.toml 2>/dev/null &
until_true grep -q '^api_key' /tmp/remote.toml || wrong "there is no remote side"

# The config's own example, with its secrets where it says that they belong.
sed -i -e 's/^# \(\[\|[a-z_.]* = \)/\1/' -e "s|^url = .*|$(grep '^url = ' /tmp/remote.toml)|" /etc/scoreline/scoreline.toml
echo 'watch.settle = "100ms"' >>/etc/scoreline/scoreline.toml
umask 077
sed -n 's/^connection_string = "\(.*\)"/\1/p' /tmp/remote.toml >/etc/scoreline/secrets/storage
echo churn-key >/etc/scoreline/secrets/churn-key
umask 022
mkdir -p /srv/churn/in
chown -R scoreline: /srv/churn
CREDENTIALS_DIRECTORY=/etc/scoreline/secrets scoreline check || wrong "the config can't be checked by hand"

systemctl start scoreline || wrong "it did not start"
answers /readyz || wrong "systemd says that it is ready before it is"
[ "$(is ActiveState)" = active ] || wrong "it is not active"
[ "$(ps -o user= -p "$(is MainPID)")" = scoreline ] || wrong "it runs as somebody else"
setpriv --reuid scoreline --regid scoreline --clear-groups cat /etc/scoreline/secrets/churn-key 2>/dev/null &&
    wrong "its user can read the secrets"
good "started: ready when systemd says so, as its own user, with secrets that this one can't read"

printf 'Col2\nThis is a good day\n' >/srv/churn/a.csv
mv /srv/churn/a.csv /srv/churn/in/a.csv
until_true test -e /srv/churn/out/a.scores.csv || wrong "nothing was scored"
until_true test -e /srv/churn/archive/a.csv || wrong "the source was not archived"
[ "$(stat -c '%U %a' /srv/churn/out/a.scores.csv)" = "scoreline 660" ] || wrong "$(ls -l /srv/churn/out)"
idle() { [ "$(is StatusText)" = "0 jobs in hand" ]; }
until_true idle || wrong "its status is $(is StatusText)"
good "a file was scored under all of the unit's restrictions; status: $(is StatusText)"

pid=$(is MainPID)
in_force() { answers /metrics "^scoreline_config_last_reload_successful $1"; }
echo 'no = "key"' >>/etc/scoreline/scoreline.toml
systemctl reload scoreline || wrong "it can't be told to reload"
until_true in_force 0 || wrong "a wrong config was taken at a reload"
sed -i '$d' /etc/scoreline/scoreline.toml
systemctl reload scoreline || wrong "it can't be told to reload again"
until_true in_force 1 || wrong "the config was not taken at a reload"
[ "$(is MainPID) $(is ActiveState)" = "$pid active" ] || wrong "a reload ended it"
good "a reload takes a config as a whole, or refuses it as a whole"

# A daemon that stands still.
mkdir -p /run/systemd/system/scoreline.service.d
printf '[Service]\nWatchdogSec=3\nRestartSec=100ms\n' >/run/systemd/system/scoreline.service.d/hasty.conf
systemctl daemon-reload
systemctl restart scoreline || wrong "it did not start again"
sleep 7
[ "$(is NRestarts)" = 0 ] || wrong "a daemon that is well was restarted by the watchdog"
kill -STOP "$(is MainPID)"
restarted() { [ "$(is NRestarts)" = 1 ] && [ "$(is ActiveState)" = active ]; }
until_true restarted || wrong "one that stands still was not restarted"
answers /readyz || wrong "it is not ready after the watchdog's restart"
good "the watchdog lets a daemon live that is well, and restarts one that stands still"

systemctl stop scoreline || wrong "it did not stop"
[ "$(is ActiveState) $(is Result) $(is ExecMainStatus)" = "inactive success 0" ] || wrong "it did not end well"
good "stopped"

echo 'no = "key"' >>/etc/scoreline/scoreline.toml
systemctl start scoreline 2>/dev/null && wrong "a wrong config is taken"
sleep 1
[ "$(is ActiveState) $(is ExecMainStatus) $(is NRestarts)" = "failed 78 0" ] || wrong "a wrong config is tried again"
good "a wrong config is told once and not tried again"
