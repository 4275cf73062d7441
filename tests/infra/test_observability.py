"""Test alerts, scrape configuration and dashboard: expressions parse, names exist, alerts fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from tests.infra.manifests import values
from tests.infra.versions import INFRA
from vace_batch.cluster.metrics import METRICS

FOLDER = INFRA / "observability"
ALERTS: dict[str, Any] = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
RAYS_OWN = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_object_store_memory", "ray_node_cpu_utilization"}
promtool = shutil.which("promtool")


def names(expression: Any) -> Iterator[str]:
    """Return the metrics that a parsed expression uses."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression.name or ""
    for field in ("expr", "lhs", "rhs", "vector_selector", "param"):
        if (inner := getattr(expression, field, None)) is not None:
            yield from names(inner)
    for argument in getattr(expression, "args", None) or ():
        yield from names(argument)


def expression_faults(text: str, known: set[str]) -> list[str]:
    try:
        asked = set(names(promql_parser.parse(text.replace("$__rate_interval", "1m"))))
    except ValueError as error:
        return [f"{text}: {error}"]
    return [f"{text}: no metric {name}" for name in asked - known] or ([] if asked else [f"{text}: asks for nothing"])


KNOWN = {f"ray_{name}" for name in METRICS} | {rule["record"] for rule in RULES if "record" in rule} | RAYS_OWN


def test_rules_ask_for_metrics_that_exist() -> None:
    assert [fault for rule in RULES for fault in expression_faults(rule["expr"], KNOWN)] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sum(rate(ray_vace_batch_window_total[5m]))", "no metric ray_vace_batch_window_total"),
        ("sum(rate(ray_vace_batch_windows_total[5m])", "unclosed"),
        ("rate(ray_vace_batch_windows_total)", "expected type"),
        ("1 + 1", "asks for nothing"),
    ],
)
def test_a_fault_in_an_expression_is_found(text: str, said: str) -> None:
    assert any(said in fault for fault in expression_faults(text, KNOWN)), expression_faults(text, KNOWN)


def test_the_alerts_are_those_that_were_asked_for_and_each_has_a_runbook_entry() -> None:
    alerts = {rule["alert"]: rule for rule in RULES if "alert" in rule}
    assert "< 0.8" in alerts["VaceBatchGpusIdle"]["expr"]
    assert "> 900" in alerts["VaceBatchNoCommit"]["expr"]
    assert "> 0.05" in alerts["VaceBatchManyFailures"]["expr"]
    runbook = (INFRA / "README.md").read_text()
    for alert in alerts.values():
        assert f"| {alert['annotations']['runbook'].removeprefix('infra/README.md: ')}" in runbook


def test_the_dashboards_panels_ask_for_what_exists_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert [fault for text in expressions for fault in expression_faults(text, KNOWN)] == []
    shown = {name for text in expressions for name in re.findall(r"ray_(vace_batch_\w+)", text)}
    assert shown | {"vace_batch_gpu_actors"} >= set(METRICS), "a metric that nobody sees"
    cells = [
        (x, y)
        for position in (panel["gridPos"] for panel in panels)
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert set(values(DASHBOARD, "uid")) == {"vace-batch", "${datasource}"}


def test_the_table_of_metrics_is_the_modules() -> None:
    table = dict(re.findall(r"^\| `(vace_batch_\w+)` \| (.*) \|$", (INFRA / "README.md").read_text(), re.M))
    assert table == METRICS


def test_prometheus_finds_the_ports_that_pods_and_containers_have() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    pods, compose = config["scrape_configs"]
    assert pods["kubernetes_sd_configs"][0]["namespaces"]["names"] == ["vace-batch"]
    services = yaml.safe_load((INFRA / "docker" / "compose.yaml").read_text())["services"]
    (found,) = compose["dns_sd_configs"]
    for name in found["names"]:
        assert name in services
        if name != "worker":
            assert f"--metrics-export-port={found['port']}" in services[name]["command"]


@pytest.mark.skipif(promtool is None, reason="promtool is not installed")
def test_each_alert_fires_when_it_should_and_only_then() -> None:
    assert promtool is not None
    for words in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run([promtool, *words], cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
