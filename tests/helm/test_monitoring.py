"""Dashboards and alerts speak of metrics and labels that the services really have."""

import json
import re

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry

from errata.labels import LabelConsumer
from feature_store.queues import Lag
from services.classify.telemetry import TrafficTelemetry
from services.classify.worker import WorkerCounts
from services.classify.worker_metrics import WorkerMetrics
from services.memory_telemetry import MemoryTelemetry
from services.recommend.telemetry import Telemetry
from tests.helm.conftest import CHART

# What Prometheus itself adds to every series of a scraped service.
FROM_PROMETHEUS = {"namespace", "service", "pod", "instance", "job", "endpoint", "container"}
VARIABLES = {"$__rate_interval": "5m", "$namespace": "prod", "$service": "shop-serve"}


def published() -> dict[str, set[str]]:
    """Every series that `/metrics` can show → its labels."""
    series: dict[str, set[str]] = {}
    recommending = Telemetry().registry
    MemoryTelemetry(recommending)
    labels = CollectorRegistry()
    LabelConsumer(None, None, metrics=labels)  # type: ignore[arg-type]
    for family in WorkerMetrics(WorkerCounts(lag=Lag(1, 1))).collect():
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    for registry in (recommending, TrafficTelemetry().registry, labels):
        for metric, names in registry._collector_to_names.items():  # no public way to their labels
            labels = set(metric._labelnames)
            for name in names:
                series[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    return series


def expressions() -> list[tuple[str, str]]:
    """(where, PromQL) of every panel and rule."""
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    found = [
        (panel["title"], target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]
    for group in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]:
        found += [(rule["alert"], rule["expr"]) for rule in group["rules"]]
    return found


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_names_only_what_exists(where: str, expression: str) -> None:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    series = published()
    used: list[str] = []
    labels: set[str] = set()

    def visit(node: object) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            used.append(node.name)
            assert node.name in series, f"{where}: no service has {node.name}"
            for matcher in node.matchers.matchers:
                assert matcher.name in series[node.name] | FROM_PROMETHEUS
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            labels.update(node.modifier.labels)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    assert used
    known = FROM_PROMETHEUS.union(*(series[name] for name in used))
    assert labels <= known, f"{where}: groups by {labels - known}"


def test_panels_name_themselves_and_do_not_overlap() -> None:
    panels = json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert all(0 <= x < 24 for x, _ in cells)
        taken |= cells


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    groups = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
