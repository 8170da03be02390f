"""Holds the alerts, their tests, their runbook and the metrics of the source against each other.

promtool knows nothing of the metrics that the daemon really has: a rule with a mistyped name, label or label value is good
to it, and a test with the same mistake in it as well. So every expression is followed here from its selectors outwards.
"""

import re
import sys
from pathlib import Path

import promql_parser as promql
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TARGET = {"site", "instance", "job"}  # labels of the target, which every series has
OTHERS = {"up", "process_start_time_seconds"}  # Prometheus' own, and what its conventions name
SEVERITIES = {"page", "ticket", "info"}
SET_OPERATORS = {"and", "or", "unless"}
wrong = []
good = []


def complain(what):
    wrong.append(what)


def read(path):
    return yaml.safe_load((HERE / path).read_text())


def metrics_of_the_source():
    """Labels of each series that the daemon shows, by its name."""
    files = [ROOT / "src/metrics.rs", *sorted((ROOT / "src/metrics").glob("**/*.rs"))]
    source = "".join(file.read_text() for file in files)
    text = r'"((?:[^"\\]|\\.)*)"'
    made = re.findall(rf"\.(gauges?|counters?|seconds|seconds_by|histograms?)\(\s*{text},\s*{text},?\s*(?:&\[([^\]]*)\])?", source)
    series = {}
    for kind, name, _, labels in made:
        labels, name = set(re.findall(text, labels)), f"scoreline_{name}"
        if kind.startswith("histogram"):
            series |= {f"{name}_bucket": labels | {"le"}, f"{name}_count": labels, f"{name}_sum": labels}
        else:
            series[name] = labels
    if len(series) < 40:
        sys.exit(f"only {len(series)} metrics found in src/metrics.rs: is it written in another way?")
    return series


def values_of_the_source():
    """The closed sets of label values."""

    def named(file):
        return set(re.findall(r'Self::\w+(?:\(_\))? => "(\w+)"', (ROOT / file).read_text()))

    metrics = (ROOT / "src/metrics.rs").read_text()

    def listed(constant):
        return set(re.findall(r'"(\w+)"', re.search(rf"{constant}: [^=]*= \[([^\]]*)\]", metrics)[1]))

    phases = named("src/job/phase.rs")
    return {
        "phase": phases,
        "to": phases,
        "result": phases | named("src/fire.rs") | {"ran"},
        "state": listed("INBOX_STATES"),
        "operation": listed("OPERATIONS"),
        "table": listed("STORE_TABLES"),
        "reason": listed("ADOPTION_REASONS"),
        "window": {"minute", "week"},
    }


class Reader:
    """Finds the labels of what an expression gives; None for a number."""

    def __init__(self, series, values):
        self.series, self.values, self.where = series, values, ""

    def labels_of(self, where, expression):
        self.where = where
        return self.follow(promql.parse(expression))

    def follow(self, e):
        match type(e).__name__:
            case "NumberLiteral" | "StringLiteral":
                return None
            case "ParenExpr" | "UnaryExpr" | "SubqueryExpr":
                return self.follow(e.expr)
            case "MatrixSelector":
                return self.follow(e.vector_selector)
            case "VectorSelector":
                return self.select(e)
            case "AggregateExpr":
                return self.aggregate(e)
            case "Call":
                found = [labels for labels in map(self.follow, e.args) if labels is not None]
                if not found:
                    return None
                return found[0] - {"le"} if e.func.name == "histogram_quantile" else found[0]
            case "BinaryExpr":
                return self.combine(e)
        sys.exit(f"{self.where}: {type(e).__name__} is not known here")

    def select(self, e):
        own = self.series.get(e.name)
        if own is None:
            complain(f"{self.where}: there is no metric {e.name}")
            return TARGET
        for matcher in e.matchers.matchers:
            if matcher.name not in own:
                complain(f"{self.where}: {e.name} has no label {matcher.name}")
            known = self.values.get(matcher.name)
            for value in matcher.value.split("|"):
                if known and value not in known:
                    complain(f"{self.where}: {e.name} has no {matcher.name}={value}")
        return own

    def aggregate(self, e):
        inner = self.follow(e.expr)
        kept = set(e.modifier.labels) if e.modifier else set()
        if e.modifier and e.modifier.type != promql.AggModifierType.By:
            sys.exit(f"{self.where}: only `by` is known here")
        for label in kept - (inner or set()):
            complain(f"{self.where}: `by ({label})` of what has no such label")
        return kept

    def combine(self, e):
        left, right = self.follow(e.lhs), self.follow(e.rhs)
        if left is None or right is None:
            return right if left is None else left
        op, modifier = str(e.op), e.modifier
        matching = modifier.matching if modifier else None
        if op == "or":
            return left & right
        if matching is None:
            if left != right:
                complain(f"{self.where}: the sides of `{op}` have other labels: {sorted(left ^ right)}")
            return left
        on = set(matching.labels)
        for label in on - (left & right):
            complain(f"{self.where}: `on ({label})` of what has no such label")
        many = modifier.card == promql.VectorMatchCardinality.ManyToOne
        return left if op in SET_OPERATORS or many else on


def main():
    daemon = metrics_of_the_source()
    series = {name: labels | TARGET for name, labels in daemon.items()} | {name: set(TARGET) for name in OTHERS}
    reader = Reader(series, values_of_the_source())
    rules = [rule for file in ("thresholds.yml", "alerts.yml") for group in read(file)["groups"] for rule in group["rules"]]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    records = [rule for rule in rules if "record" in rule]
    if len(alerts) + len(records) != len(rules):
        complain("two alerts have one name")

    for rule in records:
        name = rule["record"]
        # One that reads itself has the labels that it is aggregated by.
        if name in rule["expr"]:
            series[name] = set(re.search(r"by \(([^)]*)\)", rule["expr"])[1].split(", "))
        series[name] = (reader.labels_of(name, str(rule["expr"])) or set()) | set(rule.get("labels", {}))
    good.append(f"alerts.yml: {len(records)} recorded series are made of what the daemon shows")

    readme = (HERE / "README.md").read_text()
    sections = re.findall(r"^### (\w+)$", readme, re.M)
    for name, rule in alerts.items():
        labels = reader.labels_of(name, rule["expr"])
        notes = rule.get("annotations", {})
        if rule.get("labels", {}).get("severity") not in SEVERITIES:
            complain(f"{name}: severity is none of {sorted(SEVERITIES)}")
        for key in ("summary", "description", "runbook_url"):
            if not notes.get(key):
                complain(f"{name}: no {key}")
        if notes.get("runbook_url", "").partition("#")[2] != name.lower() or name not in sections:
            complain(f"{name}: runbook_url leads to no section of README.md")
        for used in set(re.findall(r"\$labels\.(\w+)", str(notes))) - labels:
            complain(f"{name}: its text names {used}, which it has not")
    for name in set(sections) - set(alerts):
        complain(f"README.md: {name} is no alert")
    if len(sections) != len(set(sections)):
        complain("README.md: two sections have one name")
    good.append(f"alerts.yml: {len(alerts)} alerts have a severity, their texts, and labels and metrics that exist")
    good.append(f"README.md: {len(sections)} sections, one for each alert")

    fired, silent = set(), set()
    for file in sorted((HERE / "tests").glob("*.yml")):
        for test in yaml.safe_load(file.read_text())["tests"]:
            for given in test["input_series"]:
                selector = promql.parse(given["series"])
                reader.where = f"{file.name}, {test['name']}"
                reader.select(selector)
                has, needs = {m.name for m in selector.matchers.matchers}, daemon.get(selector.name, set())
                if needs - has:
                    complain(f"{reader.where}: {selector.name} without {sorted(needs - has)}")
            for case in test["alert_rule_test"]:
                # A quiet night tells nothing about an alert's edge.
                if file.name != "quiet.yml":
                    (fired if case["exp_alerts"] else silent).add(case["alertname"])
    for name in alerts:
        if name not in fired:
            complain(f"{name}: no test in which it fires")
        if name not in silent:
            complain(f"{name}: no test in which it nearly fires")
    quiet = {case["alertname"] for test in read("tests/quiet.yml")["tests"] for case in test["alert_rule_test"]}
    for name in (fired | silent | quiet) ^ set(alerts) | set(alerts) - quiet:
        complain(f"{name}: in the tests, or in that of a quiet night, but no alert; or the reverse")
    good.append("tests: each alert has one in which it fires, one in which it nearly does, and is silent in a quiet night")

    for rule in read("alertmanager.yml")["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            for name in re.findall(r"Scoreline\w+", matcher):
                if name not in alerts:
                    complain(f"alertmanager.yml: {name} is no alert")

    config = (ROOT / "config/scoreline.toml").read_text()
    keys = {key for line in re.findall(r"^Config: (.*)$", readme, re.M) for key in re.findall(r"`([a-z_.]+)`", line)}
    for key in keys:
        if not re.search(rf"^#? ?{key.rpartition('.')[2]} =|[{{,] {key.rpartition('.')[2]} =", config, re.M):
            complain(f"README.md: config/scoreline.toml has no {key}")
    good.append(f"README.md: {len(keys)} config keys that exist")

    if wrong:
        sys.exit("\n".join(wrong))
    print("\n".join(good))


main()
