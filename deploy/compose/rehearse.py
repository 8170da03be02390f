"""Does what compose.yaml says, without Docker, in namespaces that end with this program: see check.sh."""

import glob
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

SCRATCH = Path(sys.argv[1])
MODEL = json.loads((SCRATCH / "compose.json").read_text())
SERVICES = MODEL["services"]
GATEWAY = "10.89.0.1"
# There is no Grafana to be had here.
NOT_RUN = {"grafana"}
POSTGRES = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
NAMES = {}


def good(text):
    print(f"good: {text}", flush=True)


def wrong(text):
    for log in sorted(SCRATCH.glob("*.log")):
        print(f"--- {log.name}\n{log.read_text()[-2500:]}", file=sys.stderr)
    sys.exit(f"wrong: {text}")


def sh(*command):
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def until(what, holds, seconds=120):
    end = time.monotonic() + seconds
    while True:
        try:
            if found := holds():
                return found
        except OSError:
            pass
        if time.monotonic() > end:
            wrong(f"waited in vain until {what}")
        time.sleep(0.1)


def answer_names():
    """The names of services, as Docker's own server answers them."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((GATEWAY, 53))
    while True:
        query, caller = server.recvfrom(512)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += query[at] + 1
        question = query[12 : at + 5]
        found = NAMES.get(".".join(labels).lower(), [])
        asked = found if question[-4:-2] == b"\0\1" else []
        head = query[:2] + struct.pack(">HHHHH", 0x8180 if found else 0x8183, 1, len(asked), 0, 0)
        records = [b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address) for address in asked]
        server.sendto(head + question + b"".join(records), caller)


class Container:
    """One of a service's containers: a network namespace, a root and a process."""

    count = 1

    def __init__(self, service, name):
        Container.count += 1
        self.service, self.name = SERVICES[service], name
        self.address, number = f"10.89.0.{Container.count}", Container.count
        NAMES.setdefault(service, []).append(self.address)
        sh("ip", "netns", "add", name)
        sh("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        sh("ip", "link", "set", f"v{number}", "master", "compose", "up")
        for command in (["addr", "add", f"{self.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
            sh("ip", "-n", name, *command)
        self.ours = self.service["image"].startswith("scoreline:")
        self.user = ["--setgid", "65532", "--setuid", "65532"] if self.ours else []
        self.root = self.furnish()
        self.process = None

    def furnish(self):
        root, lower = SCRATCH / "roots" / self.name / "root", IMAGE if self.ours else Path("/")
        upper, work = root.parent / "upper", root.parent / "work"
        for folder in (root, upper, work):
            folder.mkdir(parents=True)
        sh("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", root)
        mounts = [("/dev", "/dev", False)]
        if not self.ours:
            here = {str(Path(path).resolve().parent) for path in (os.environ["AZURITE"], os.environ["PROMETHEUS"])}
            mounts += [(str(path), str(path), True) for path in here | {str(Path.cwd())}]
        for volume in self.service.get("volumes", []):
            source = Path(volume["source"]) if volume["type"] == "bind" else SCRATCH / "volumes" / volume["source"]
            if volume["type"] == "volume":
                source.mkdir(parents=True, exist_ok=True)
            mounts.append((str(source), volume["target"], volume.get("read_only", False)))
        for kind in ("configs", "secrets"):
            for entry in self.service.get(kind, []):
                target = entry.get("target") or entry["source"]
                mounts.append((MODEL[kind][entry["source"]]["file"], target if target.startswith("/") else f"/run/secrets/{target}", True))
        for source, target, read_only in mounts:
            place = root / target.lstrip("/")
            if not Path(source).exists():
                wrong(f"{self.name}: {source} is not there, and Docker would make an empty folder of it")
            if Path(source).is_dir():
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
            sh("mount", "--bind", source, place)
            if read_only:
                sh("mount", "-o", "remount,ro,bind", place)
        for entry in self.service.get("tmpfs") or []:
            target, _, options = entry.partition(":")
            sh("mount", "-t", "tmpfs", "-o", options or "rw", "none", root / target.lstrip("/"))
        (root / "proc").mkdir(exist_ok=True)
        sh("mount", "-t", "proc", "proc", root / "proc")
        for name, text in (("resolv.conf", f"nameserver {GATEWAY}\n"), ("hosts", f"127.0.0.1 localhost\n{self.address} {self.name}\n")):
            (root / "etc" / name).unlink(missing_ok=True)
            (root / "etc" / name).write_text(text)
        if self.service.get("read_only"):
            sh("mount", "-o", "remount,ro,bind", root)
        return root

    def inside(self, command, **more):
        network = ["nsenter", f"--net=/run/netns/{self.name}"]
        environment = {"PATH": f"{POSTGRES}:/usr/local/bin:/usr/bin:/bin"} | (self.service.get("environment") or {})
        if self.ours:
            environment["TMPDIR"] = "/var/lib/scoreline"
        jailed = ["setpriv", "--no-new-privs", "--", "unshare", f"--root={self.root}", "--wd=/", *self.user, "--", *command]
        return subprocess.Popen(network + jailed, env=environment, stdin=subprocess.DEVNULL, **more)

    def start(self):
        command = self.service.get("command")
        if self.ours:
            command = ["/usr/local/bin/scoreline", *(command or ["serve"])]
        elif self.name == "postgres":
            command = ["bash", "-c", AS_THE_IMAGE_DOES]
        elif self.name == "azurite":
            command = [os.environ["AZURITE"], *command[1:]]
        elif self.name == "prometheus":
            command = [os.environ["PROMETHEUS"], *command]
        log = (SCRATCH / f"{self.name}.log").open("w")
        self.process = self.inside(command, stdout=log, stderr=log)

    def runs(self, *command):
        process = self.inside(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output, _ = process.communicate()
        return output if process.returncode == 0 else None

    def lives(self):
        return self.process.poll() is None or wrong(f"{self.name} ended by itself")

    def log(self):
        return (SCRATCH / f"{self.name}.log").read_text()

    def is_healthy(self):
        test = self.service["healthcheck"]["test"][1:]
        if test[0] == "nc":
            # This machine has none, so it is done by hand.
            socket.create_connection((self.address, int(test[-1])), timeout=1).close()
            return True
        return self.runs(*test) is not None


# What the image's entry point does when its volume is empty, by the variables that it is given.
AS_THE_IMAGE_DOES = """
set -eu
data=/var/lib/postgresql/data
chown postgres "$data" && chmod 700 "$data"
as() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
install -o postgres -m 0600 "$POSTGRES_PASSWORD_FILE" /tmp/pwfile
mkdir -p /var/run/postgresql && chown postgres /var/run/postgresql
as initdb --pgdata="$data" --username="$POSTGRES_USER" --pwfile=/tmp/pwfile --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --auth-local=trust >/dev/null
echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
as pg_ctl --pgdata="$data" --wait --options="-c listen_addresses=''" start >/dev/null
as createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
as pg_ctl --pgdata="$data" --wait stop >/dev/null
exec setpriv --reuid postgres --regid postgres --init-groups postgres -D "$data" -c listen_addresses='*'
"""


def image():
    """The image's root: this machine's C library stands in for the base image's."""
    root = SCRATCH / "image"
    for folder in ("usr/local/bin", "var/lib/scoreline", "etc/ssl/certs", "etc/scoreline", "srv", "run", "tmp", "dev", "proc"):
        (root / folder).mkdir(parents=True)
    shutil.copy(os.environ["SCORELINE"], root / "usr/local/bin/scoreline")
    needed = subprocess.run(["ldd", os.environ["SCORELINE"]], capture_output=True, text=True, check=True).stdout
    # The resolver's parts are opened by name.
    for library in re.findall(r"(/\S+) \(0x", needed) + glob.glob("/lib/*-linux-gnu/libnss_*.so.2") + glob.glob("/lib/*-linux-gnu/libresolv.so.2"):
        (root / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library.lstrip("/"))
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs/")
    return root


def ordered():
    """The services, each after those that it depends on."""
    done = []
    while len(done) < len(SERVICES):
        done += [name for name in SERVICES if name not in done and set(SERVICES[name].get("depends_on") or {}) <= set(done)]
    return [name for name in done if name not in NOT_RUN]


def drop(name, text):
    """As `docker compose cp` does: root's file, written under its own name."""
    file = SCRATCH / "volumes/folders/churn/in" / name
    file.write_text(text)
    file.chmod(0o644)


def delivered():
    return sorted(path.name for path in (SCRATCH / "volumes/folders/churn/out").glob("[!.]*"))


def ask(container, port, path):
    with urllib.request.urlopen(f"http://{container.address}:{port}{path}", timeout=5) as answer:
        return json.load(answer)["data"]


def main():
    global IMAGE
    sh("mount", "-t", "tmpfs", "none", SCRATCH)
    (SCRATCH / "compose.json").write_text(json.dumps(MODEL))
    sh("mount", "-t", "tmpfs", "none", "/run")
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "link", "add", "compose", "type", "bridge")
    sh("ip", "addr", "add", f"{GATEWAY}/24", "dev", "compose")
    sh("ip", "link", "set", "compose", "up")
    threading.Thread(target=answer_names, daemon=True).start()
    for name, service in SERVICES.items():
        for port in service.get("ports") or []:
            if port.get("host_ip") != "127.0.0.1":
                wrong(f"{name} can be reached from other machines")
        for volume in service.get("volumes") or []:
            if volume["type"] == "bind" and not Path(volume["source"]).exists():
                wrong(f"{name}: {volume['source']} is not there, and Docker would make an empty folder of it")
    good("every port is published on loopback alone, and what is mounted is there")

    IMAGE = image()
    containers = {}
    for service in ordered():
        replicas = (SERVICES[service].get("deploy") or {}).get("replicas", 1)
        for name in [service] if replicas == 1 else [f"{service}-{n + 1}" for n in range(replicas)]:
            for other, needs in (SERVICES[service].get("depends_on") or {}).items():
                if needs["condition"] == "service_healthy":
                    until(f"{other} is healthy", containers[other].is_healthy)
                elif needs["condition"] == "service_completed_successfully" and containers[other].process.wait(60):
                    wrong(f"{other} failed")
            containers[name] = Container(service, name)
            containers[name].start()
    nodes = [containers[name] for name in containers if name.startswith("scoreline-")]
    cli = "/usr/local/bin/scoreline"
    for node in nodes:
        until(f"{node.name} is ready", lambda node=node: node.lives() and node.runs(cli, "health", "--ready") == "ready\n")
    good(f"{', '.join(containers)} started in the order that they depend on each other; {len(nodes)} nodes are ready")

    samples = ["monday", "tuesday", "wednesday"]
    until("the samples are scored", lambda: delivered() == [f"{name}.scores.csv" for name in samples])
    text = (SCRATCH / "volumes/folders/churn/out/monday.scores.csv").read_text()
    if "1,1,2,2,0,2,0,1" not in text:
        wrong(f"other scores were delivered: {text}")
    jobs = lambda: json.loads(nodes[0].runs(cli, "jobs", "list", "--json"))["jobs"]
    until("their jobs have succeeded", lambda: [job["phase"] for job in jobs()] == ["succeeded"] * 3)
    archive = SCRATCH / "volumes/folders/churn/archive"
    if sorted(path.stem for path in archive.glob("*.csv")) != samples:
        wrong(f"the archive holds {list(archive.iterdir())}")
    good("the samples came back scored, and are archived")
    sandbox = NAMES["sandbox"][0]
    methods = set(re.findall(rf'^{re.escape(sandbox)} .*"(GET|PUT) /devstoreaccount1/scoring/', containers["azurite"].log(), re.M))
    if methods != {"GET", "PUT"}:
        wrong(f"the sandbox asked Azurite for {methods or 'nothing'}")
    good("the sandbox read the inputs in Azurite and wrote the outputs there, by the links that it was given")

    drop("more.csv", "Col2\nOne more\n")
    until("a file of root's is scored", lambda: "more.scores.csv" in delivered())
    good("a file that `docker compose cp` brings is scored")
    up = lambda: ask(containers["prometheus"], 9090, "/api/v1/query?query=up%7Bjob=%22scoreline%22,site=%22default%22%7D==1")["result"]
    until("Prometheus has all nodes", lambda: len(up()) == len(nodes))
    groups = ask(containers["prometheus"], 9090, "/api/v1/rules")["groups"]
    if not groups or any(rule["health"] == "err" for group in groups for rule in group["rules"]):
        wrong(f"the rules are not well: {groups}")
    good(f"Prometheus scrapes {len(nodes)} nodes, which it found by their name, and has {sum(len(group['rules']) for group in groups)} rules")

    nodes[0].process.send_signal(signal.SIGTERM)
    if nodes[0].process.wait(45):
        wrong("a node that was stopped did not end well")
    drop("last.csv", "Col2\nThe last one\n")
    until("the other node goes on", lambda: "last.scores.csv" in delivered())
    good("a node that is stopped ends by itself, and the other one goes on")
    print("not tried: Docker itself, the images of the others, and Grafana", flush=True)


main()
