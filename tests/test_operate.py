"""What docs/operate hands to Prometheus and Grafana is about metrics that the code exports, and alerts come when due."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headwater.node.metric_names import METRICS

OPERATE = Path(__file__).parents[1] / "docs" / "operate"
RULES = OPERATE / "prometheus" / "alerts.yml"
DASHBOARD = json.loads((OPERATE / "grafana" / "headwater.json").read_text(encoding="utf-8"))
FOREIGN = frozenset({"process_resident_memory_bytes", "process_cpu_seconds_total", "up"})
"""What others export of a node: Prometheus' library of its process, Prometheus of whether it answers."""

_ENDS = {"histogram": ("_bucket", "_count", "_sum"), "summary": ("_count", "_sum")}
EXPORTED = frozenset(metric.name + end for metric in METRICS for end in _ENDS.get(metric.kind, ("",)))
"""As a query may name them: a histogram by its parts alone."""

SCRAPED = frozenset({"job", "instance", "le"})
_SELECTION = re.compile(r"\b([a-z_]+)\s*\{([^{}]*)\}")
_NAME = re.compile(r"\b(?:headwater|process)_[a-z_]+\b|\bup\b")


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """By where each stands."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


def labels_of(name: str) -> set[str]:
    ends = ("", "_bucket", "_count", "_sum")
    found = [metric for metric in METRICS if name in {metric.name + end for end in ends}]
    return {label for metric in found for label in metric.labels} | SCRAPED


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_expression_is_about_metrics_and_labels_that_are_exported(where: str, expression: str) -> None:
    names = set(_NAME.findall(expression))
    assert names, where
    assert names - EXPORTED - FOREIGN == set(), where
    for name, selection in _SELECTION.findall(expression):
        chosen = set(re.findall(r"([a-z_]+)\s*=", selection))
        assert chosen <= labels_of(name), (where, name)
    for grouping in re.findall(r"\bby \(([^)]*)\)", expression):
        known = set[str]().union(*(labels_of(name) for name in names))
        assert {label.strip() for label in grouping.split(",")} <= known, where


def test_every_metric_is_looked_at_somewhere() -> None:
    """The node's own name is what the dashboard's choices are made of."""
    text = RULES.read_text(encoding="utf-8") + json.dumps(DASHBOARD)
    assert [metric.name for metric in METRICS if metric.name not in text] == []


def test_the_dashboard_is_whole() -> None:
    assert (DASHBOARD["uid"], DASHBOARD["schemaVersion"]) == ("headwater", 39)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] >= 0
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(DASHBOARD["panels"])))
    assert used == variables
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


# ── Prometheus' own tool ────────────────────────────────────────────────────────────────────────────────────────


def promtool(*arguments: str, cwd: Path) -> str:
    if shutil.which("promtool") is None:
        assert not os.environ.get("CI"), "promtool is missing; .ci/run installs it with the package prometheus"
        pytest.skip("promtool is missing; it comes with the package prometheus")
    done = subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_is_valid_and_each_alert_comes_when_it_is_due_and_not_before() -> None:
    folder = OPERATE / "prometheus"
    assert "valid prometheus config" in promtool("check", "config", "prometheus.yml", cwd=folder)
    promtool("test", "rules", "alerts.test.yml", cwd=folder)
    tests = (folder / "alerts.test.yml").read_text(encoding="utf-8")
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            assert tests.count(f"{rule['alert']},") + tests.count(f'"{rule["alert"]}"') == 2, rule["alert"]


def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    filled = {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*"}
    rules = []
    for number, (_, expression) in enumerate(expressions()):
        for variable, value in filled.items():
            expression = expression.replace(variable, value)
        rules.append({"record": f"panel:{number}", "expr": expression})
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", "rules.yml", cwd=tmp_path)
