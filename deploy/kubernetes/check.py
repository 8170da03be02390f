"""What check.sh finds out about the manifests. Each line that begins with "good:" is a thing that was tried."""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator import v1 as operator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BIN = Path(sys.executable).parent
OVERLAYS = ["single", "postgres"]
COMPONENTS = ["monitoring", "workload-identity"]
# From the oldest that is still supported somewhere to the newest whose schemas there are.
VERSIONS = ["1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]
RULES = HERE / "components/monitoring/rules.yaml"
PROMETHEUS = ROOT / "deploy/prometheus"
SECRETS = "/run/secrets/scoreline"


def open_routes():
    """What the daemon answers to whoever asks: health and metrics."""
    return set(re.findall(r'path = "([^"]+)"', (ROOT / "src/http/health.rs").read_text()))


def good(text):
    print(f"good: {text}", flush=True)


def wrong(text):
    sys.exit(f"wrong: {text}")


def run(*command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if done.returncode:
        wrong(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def rules():
    """The alerts of deploy/prometheus as the operator wants them: word for word, comments included."""
    text = (
        "# Made by `deploy/kubernetes/check.sh --write-rules` from deploy/prometheus: change it there.\n"
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: scoreline\nspec:\n  groups:\n"
    )
    for name in ["alerts.yml", "thresholds.yml"]:
        file = PROMETHEUS / name
        if not file.exists():
            wrong(f"{file} is not there")
        lines = file.read_text().splitlines()
        text += "".join(f"  {line}".rstrip() + "\n" for line in lines[lines.index("groups:") + 1 :])
    return text


def build(overlay, components):
    """An overlay as a user writes it, one that has these components too."""
    with tempfile.TemporaryDirectory() as folder:
        up = os.path.relpath(HERE, folder)
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "scoreline",
            "resources": [f"{up}/overlays/{overlay}"],
            "components": [f"{up}/components/{name}" for name in components],
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return list(yaml.safe_load_all(run(BIN / "kubectl", "kustomize", folder)))


def lost(given, kept, path=""):
    """The keys that a schema did not know: what it read lacks them."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [
            found
            for key, value in given.items()
            for found in ([f"{path}.{key}"] if key not in kept else lost(value, kept[key], f"{path}.{key}"))
        ]
    if isinstance(given, list) and isinstance(kept, list):
        return [found for n, (a, b) in enumerate(zip(given, kept)) for found in lost(a, b, f"{path}[{n}]")]
    return []


def fits_kubernetes(manifest, version, where):
    """What the API server of that version would read, without a key that it doesn't know."""
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        wrong(f"{where}: {manifest['kind']} in Kubernetes {version}: {error}")


def restricted(pod, where):
    """The pod security standard "restricted", which the namespace enforces."""
    spec, security = pod["spec"], pod["spec"]["securityContext"]
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    kinds = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    for volume in spec["volumes"]:
        found += [f"volume {key}" for key in volume if key != "name" and key not in kinds]
    if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("seccompProfile")
    for container in spec["containers"] + spec.get("initContainers", []):
        own = container["securityContext"]
        if not own.get("runAsNonRoot", security.get("runAsNonRoot")) or own.get("runAsUser", security.get("runAsUser")) == 0:
            found.append("runAsNonRoot")
        if own.get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation")
        if own.get("capabilities") != {"drop": ["ALL"]}:
            found.append("capabilities")
        found += [key for key in ("privileged", "procMount", "seLinuxOptions", "sysctls") if own.get(key)]
        if own.get("readOnlyRootFilesystem") is not True:
            found.append("readOnlyRootFilesystem (which is asked for here besides)")
    if spec.get("automountServiceAccountToken") is not False:
        found.append("automountServiceAccountToken (which is asked for here besides)")
    if found:
        wrong(f"{where}: {', '.join(found)}")


def secret_files(value):
    """All { file = "…" } of a config."""
    if isinstance(value, dict):
        return [value["file"]] if set(value) == {"file"} else [f for part in value.values() for f in secret_files(part)]
    return [f for part in value for f in secret_files(part)] if isinstance(value, list) else []


def scan(file, where):
    """checkov's opinion: whatever it skips has its reason in the manifest."""
    command = [BIN / "checkov", "-f", file, "--framework", "kubernetes", "--skip-download", "-o", "json"]
    summary = json.loads(run(*command))["summary"]
    if summary["failed"] or summary["parsing_errors"] or summary["passed"] < 80 or summary["skipped"] > 2:
        wrong(f"{where}: {summary}")
    return f"; checkov: {summary['passed']} passed, 0 failed, {summary['skipped']} skipped with a reason"


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m|h)", text).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def one(manifests, kind):
    found = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found[0] if len(found) == 1 else wrong(f"there are {len(found)} of kind {kind}")


def fits_the_program(overlay, manifests):
    """Ports, paths, folders, users and secrets: what the manifests say and what the program does."""
    config_map = one(manifests, "ConfigMap")
    workload = one(manifests, "StatefulSet" if overlay == "single" else "Deployment")
    pod = workload["spec"]["template"]["spec"]
    node = pod["containers"][0]
    text = config_map["data"]["scoreline.toml"]
    config = tomllib.loads(text)

    def expect(what, holds):
        if not holds:
            wrong(f"{overlay}: {what}")

    ports = {port["name"]: port["containerPort"] for port in node["ports"]}
    host, _, port = config["http"]["listen"].rpartition(":")
    expect("the port is not the one of http.listen", ports == {"http": int(port)} and host == "0.0.0.0")
    expect("the service has another port", one(manifests, "Service")["spec"]["ports"] == [{"name": "http", "port": int(port), "targetPort": "http"}])
    routes = open_routes()
    probes = {kind: node[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    paths = {kind: probe["path"] for kind, probe in probes.items()}
    expect("a probe asks for what there is not", set(paths.values()) <= routes and all(probe["port"] == "http" for probe in probes.values()))
    expect("the probes are mixed up", paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"})

    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"]: claim for claim in workload["spec"].get("volumeClaimTemplates", [])}
    mounts = {mount["mountPath"]: mount for mount in node["volumeMounts"]}
    expect("a mount has no volume", all(mount["name"] in volumes for mount in mounts.values()))
    expect("the config is not mounted", volumes[mounts["/etc/scoreline"]["name"]]["configMap"]["name"] == config_map["metadata"]["name"])
    expect("the config's name does not change with it", config_map["metadata"]["name"] != "scoreline-config")
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    example = tomllib.loads((ROOT / "config/scoreline.toml").read_text())
    expect("other folders can be written to than those that have to", writable == {example["node"]["state_dir"], "/srv/scoreline"})
    expect("the state's folder is set elsewhere", "state_dir" not in config.get("node", {}))
    watched = [feed["watch"]["folder"] for feed in config["feeds"].values() if "watch" in feed]
    made = pod["initContainers"][0]["command"]
    expect("a drop folder is not made", set(watched) == set(made[2:]) and made[:2] == ["mkdir", "-p"])
    folders = re.findall(r'= "(/srv/[^"]*)"', text)
    expect("a folder is in no volume", folders and all(folder.startswith("/srv/scoreline/") for folder in folders))

    files = secret_files(config)
    expect("a secret is not mounted", files and all(Path(file).parent == Path(SECRETS) for file in files) and SECRETS in mounts)
    readme = (HERE / "README.md").read_text()
    for file in files:
        expect(f"README.md does not tell how to make the secret {Path(file).name}", f"--from-file={Path(file).name}=" in readme)
    expect("plain secrets in the config map", "password" not in text.lower() and "AccountKey" not in text)

    grace = config.get("node", {}).get("stop_grace", example["node"]["stop_grace"])
    expect("it is killed before it has stopped", pod["terminationGracePeriodSeconds"] >= seconds(grace) + 10)
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.M)
    security = pod["securityContext"]
    expect("the image's user is another one", [security["runAsUser"], security["fsGroup"]] == [int(user[1]), int(user[2])])
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    expect("the image is of another version", node["image"] == f"scoreline:{version}")
    labels = workload["spec"]["template"]["metadata"]["labels"].items()
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = one(manifests, kind)["spec"]
        selector = spec.get("podSelector", spec.get("selector"))
        expect(f"{kind} selects other pods", selector.get("matchLabels", selector).items() <= labels)
    outside = [peer for rule in one(manifests, "NetworkPolicy")["spec"]["egress"] for peer in rule["to"] if "podSelector" in peer]
    expect("names are asked for of the wrong pods", [peer["podSelector"]["matchLabels"] for peer in outside] == [{"k8s-app": "kube-dns"}])

    # The program's own opinion, with secrets that are there.
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            values = {"storage": "UseDevelopmentStorage=true", "database-url": "postgres://u:p@db/scoreline"}
            Path(folder, Path(file).name).write_text(values.get(Path(file).name, "secret"))
        Path(folder, "scoreline.toml").write_text(text.replace(SECRETS, folder))
        program = [os.environ["SCORELINE"], "--config", f"{folder}/scoreline.toml", "--json"]
        environment = {entry["name"]: "scoreline-0" for entry in node["env"]}
        checked = json.loads(run(*program, "check", env=environment))
        expect(f"the program warns: {checked}", checked["warnings"] == [])
        shown = json.loads(run(*program, "config", "show", env=environment))
        expect("the node has not its pod's name", shown["node"]["name"] == "scoreline-0")


def main():
    if "--write-rules" in sys.argv:
        RULES.write_text(rules())
        return
    if rules() != RULES.read_text():
        wrong("the alerts changed: deploy/kubernetes/check.sh --write-rules takes them over")
    good("the operator's rules are those of deploy/prometheus")
    for overlay in OVERLAYS:
        for components in [[], *[[name] for name in COMPONENTS], COMPONENTS]:
            manifests = build(overlay, components)
            name = " + ".join([overlay, *components])
            own = [manifest for manifest in manifests if "monitoring.coreos.com" not in manifest["apiVersion"]]
            for manifest in own:
                for version in VERSIONS:
                    fits_kubernetes(manifest, version, name)
            scanned = ""
            if len(components) != 1:
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder, "manifests.yaml")
                    file.write_text(yaml.safe_dump_all(own))
                    scanned = scan(file, name)
            for manifest in manifests:
                if manifest not in own:
                    read = getattr(operator, manifest["kind"]).model_validate(manifest)
                    unknown = lost(manifest, read.model_dump(mode="json", by_alias=True, exclude_none=True))
                    if unknown:
                        wrong(f"{name}: {manifest['kind']} has no {', '.join(unknown)}")
                if manifest["kind"] in ("Deployment", "StatefulSet"):
                    restricted(manifest["spec"]["template"], name)
            fits_the_program(overlay, manifests)
            good(f"{name}: {len(manifests)} manifests are as Kubernetes {VERSIONS[0]} to {VERSIONS[-1]} wants them{scanned}")
            if "workload-identity" in components:
                identity = one(manifests, "ServiceAccount")["metadata"]["annotations"]
                pods = one(manifests, "StatefulSet" if overlay == "single" else "Deployment")["spec"]["template"]["metadata"]["labels"]
                if "azure.workload.identity/client-id" not in identity or pods.get("azure.workload.identity/use") != "true":
                    wrong(f"{name}: the pods don't ask for an identity")
            if "monitoring" in components:
                endpoint = one(manifests, "ServiceMonitor")["spec"]["endpoints"][0]
                if endpoint["port"] != "http" or endpoint["path"] not in open_routes():
                    wrong(f"{name}: what is scraped is not there")
    good("pods keep the restricted standard, and ports, probes, folders, secrets, users and configs fit the program")
    good("the operator's schemas know every key of its manifests")


main()
