"""Alerts and the dashboard ask for metrics that there are, with labels that they have, in PromQL that parses."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.app import create_app
from service.keys.secrets import create_key
from service.lifecycle.workers import Device, beat
from service.settings import Settings
from tests.support.builders import add_audit
from tests.support.chart import rendered, values_of

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
ALERT_TESTS = ROOT / "deploy" / "prometheus" / "alerts_test.yml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "finetooth.json").read_text())
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OF_PROMETHEUS = {"instance", "job"}
"""Labels that a scrape adds."""


def operating() -> list[str]:
    """Expressions in docs/operating.md: what is indented, and what stands in the table of alerts."""
    text = (ROOT / "docs" / "operating.md").read_text()
    blocks = re.findall(r"^    ((?:sum|max|rate)\(.+)$", text, re.MULTILINE)
    return [found.replace("\\|", "|") for found in blocks]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            # What Grafana puts there depends on the width of the panel.
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")
    for manifest in rendered(values_of("production")):
        if manifest["kind"] == "ScaledObject":
            yield "autoscaling", manifest["spec"]["triggers"][0]["metadata"]["query"]
    for number, expression in enumerate(operating()):
        yield f"operating.md {number}", expression


EXPRESSIONS = list(expressions())


def selectors(expression: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Name, and matchers as (label, value), of each series that the expression asks for."""
    found = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            matchers = [(one.name, one.value) for one in node.matchers.matchers]
            found.append((node.name, matchers))
        return True

    promql_parser.walk(promql_parser.parse(expression), pre_visit=visit)
    return found


@pytest.fixture
def exposed(settings: Settings, sessions: sessionmaker[Session], workspace_id: str) -> dict[str, dict[str, set[str]]]:
    """Of a real answer of /metrics, with a job and a worker: sample name to label to values. Requests were answered."""
    with sessions.begin() as session:
        _, key = create_key(session, workspace_id=workspace_id, name="prometheus", scopes=[])
        add_audit(session, workspace_id)
        beat(session, owner="w", lane="gpu", host="h", pid=1, device=Device("NVIDIA H200", 2**37, 0))
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        client.get("/v1/nothing")
        answer = client.get("/metrics", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    samples: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = samples.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return samples


def test_everything_that_is_asked_for_is_exposed(exposed: dict[str, dict[str, set[str]]]) -> None:
    asked = 0
    for what, expression in EXPRESSIONS:
        for name, matchers in selectors(expression):
            asked += 1
            if name == "up":
                continue  # Prometheus' own
            assert name in exposed, f"{what} asks for {name}"
            assert {label for label, _ in matchers} <= set(exposed[name]) | OF_PROMETHEUS, what
            for label, value in matchers:
                # Of those that every installation has at once, whatever has happened there.
                if (name, label) in {("finetooth_attempts_total", "reason"), ("finetooth_workers", "queue")}:
                    assert set(value.split("|")) <= exposed[name][label], f"{what} asks for {label} {value}"
    assert asked > 30


def test_a_metric_that_is_not_there_would_be_found(exposed: dict[str, dict[str, set[str]]]) -> None:
    ((name, matchers),) = selectors('rate(finetooth_job_total{lane="gpu"}[5m])')
    assert (name, matchers) == ("finetooth_job_total", [("lane", "gpu")])
    assert name not in exposed
    with pytest.raises(ValueError, match="unclosed"):
        selectors("sum(rate(finetooth_jobs[5m])")


def test_every_metric_is_on_the_dashboard(exposed: dict[str, dict[str, set[str]]]) -> None:
    shown = {name for panel in PANELS for target in panel["targets"]
             for name, _ in selectors(target["expr"].replace("$__rate_interval", "5m"))}  # fmt: skip
    ignored = {name for name in exposed if name.endswith(("_created", "_sum", "_count", "_bucket"))}
    assert set(exposed) - ignored <= shown


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["alert"] in (ROOT / "docs" / "operating.md").read_text()
    tested = {
        one["alertname"] for test in yaml.safe_load(ALERT_TESTS.read_text())["tests"] for one in test["alert_rule_test"]
    }
    assert rule["alert"] in tested


def test_alerts_fire_when_they_should_and_only_then() -> None:
    """By Prometheus' own tool, where it is installed (Debian's package `prometheus`)."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here")
    for arguments in (["check", "rules", ALERTS], ["test", "rules", ALERT_TESTS]):
        done = subprocess.run([promtool, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_whole() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    (variable,) = DASHBOARD["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    for panel in PANELS:
        assert panel["description"], panel["title"]
        for asker in (panel, *panel["targets"]):
            assert asker["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
    for one, other in combinations((panel["gridPos"] for panel in DASHBOARD["panels"]), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in DASHBOARD["panels"])
