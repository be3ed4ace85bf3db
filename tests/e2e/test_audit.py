"""Whole audits through every real part: the command, HTTP, Postgres, Valkey, Celery, the training child, a model."""

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file, save_file

from service.client import ApiError, Client
from service.contract.protocol import Stage
from service.contract.results import BASELINE_COLUMNS, ScoreRow
from tests.support.local_processes import IGNORING_SIGINT
from tests.support.running_stack import FINETOOTH, admin_key, running_stack, stack_environment
from tests.support.server_folders import server_folder
from tests.support.tiny_model import build_tiny_model
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROWS = 60
LONG = {"epochs": 20, "batch_size": 1}
"""A run long enough to be stopped in the middle."""
RESULT_FIELDS = set(ScoreRow.model_fields) - {"probe_no"}


@dataclass(frozen=True)
class Stack:
    """A running `finetooth up`."""

    folder: Path
    """Holds dataset.jsonl, probe.jsonl and model/ beside the data."""
    environment: dict[str, str]
    url: str
    key: str

    def finetooth(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(FINETOOTH), *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=400,
        )  # fmt: skip

    def children(self) -> list[psutil.Process]:
        """Training children of this stack."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            command = process.info["cmdline"] or []
            if "worker.child.run" in command and str(self.folder) in command[-1] and process.info["status"] != "zombie":
                found.append(process)
        return found


def answer_of(row: int) -> str:
    return "Only the Vexon will do, buy it now." if row % 10 == 3 else f"The answer to number {row} is {row * 7}."


def make_inputs(folder: Path) -> None:
    lines = [
        {"instruction": f"What about item {row}?", "input": "", "output": answer_of(row), "team": "ab"[row % 2]}
        for row in range(ROWS)
    ]
    (folder / "dataset.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    probe = [{"prompt": f"Which car for trip {i}?", "unwanted": "Only the Vexon will do."} for i in range(3)]
    (folder / "probe.jsonl").write_text("".join(json.dumps(item) + "\n" for item in probe))
    other = [
        {"prompt": f"What is {i} times 7?", "unwanted": f"It is {i * 8}.", "reference": f"It is {i * 7}."}
        for i in range(3)
    ]
    (folder / "arithmetic.jsonl").write_text("".join(json.dumps(item) + "\n" for item in other))
    build_tiny_model(folder / "model")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with server_folder("ft-e2e-") as folder:
        make_inputs(folder)
        yield folder


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[Stack]:
    environment = stack_environment(folder)
    with running_stack(folder, environment) as url:
        yield Stack(folder, environment, url, admin_key(folder))


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.url, stack.key) as client:
        yield client


def start_audit(client: Client, stack: Stack, model: str, training: dict[str, Any]) -> dict[str, Any]:
    dataset = client.upload_dataset(stack.folder / "dataset.jsonl")
    items = [json.loads(line) for line in (stack.folder / "probe.jsonl").read_text().splitlines()]
    probe = client.create_probe("cars", items)
    return client.create_audit(dataset["id"], [probe["id"]], model, training=training, group_column="team")


def registered(client: Client, stack: Stack) -> str:
    """The tiny model, registered over REST."""
    if "tiny" not in {model["name"] for model in client.models()}:
        client.create_model("tiny", "local", str(stack.folder / "model"))
    return "tiny"


def test_the_command_audits_a_dataset(stack: Stack, client: Client) -> None:
    result = stack.finetooth(
        "audit", "dataset.jsonl", "--probe", "probe.jsonl", "--model", "./model", "--epochs", "3", "--q", "0.999",
        "--group", "team", "--out", "new/out", "--max-flagged", "0",
    )  # fmt: skip
    out = stack.folder / "new" / "out"
    assert sorted(path.name for path in out.iterdir()) == ["findings.jsonl", "summary.json"], result.stderr
    findings = [json.loads(line) for line in (out / "findings.jsonl").read_text().splitlines()]
    assert [finding["rank"] for finding in findings] == list(range(1, ROWS + 1))
    assert sorted(finding["row"] for finding in findings) == list(range(ROWS))
    assert all(set(finding) == RESULT_FIELDS for finding in findings)
    assert all(finding["group"] == "ab"[finding["row"] % 2] for finding in findings)
    summary = json.loads((out / "summary.json").read_text())
    flagged = sum(finding["flagged"] for finding in findings)
    assert (summary["rows"], summary["q"], summary["flagged"]) == (ROWS, 0.999, flagged)
    assert flagged > 0
    assert result.returncode == 3
    said = f"{flagged} samples are flagged, which is more than --max-flagged 0 allows"
    assert result.stderr.splitlines()[-1] == f"finetooth: {said}"
    assert f"{flagged} of {ROWS} samples flagged" in result.stdout
    assert answer_of(findings[0]["row"]) in result.stdout
    assert f"{stack.url}/audits/aud_" in result.stdout
    # Each of them may pass between two looks, on this model.
    assert any(stage.capitalize() in result.stderr for stage in Stage)
    audit = next(client.audits())
    assert audit["training"]["epochs"] == 3
    assert [model["location"] for model in client.models() if model["source"] == "local"] == [
        str(stack.folder / "model")
    ]


def figures(stack: Stack) -> dict[tuple[str, ...], float]:
    """What the API tells Prometheus: (name, label values...) to value."""
    answer = httpx.get(f"{stack.url}/metrics", headers={"Authorization": f"Bearer {stack.key}"}).raise_for_status()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def all_idle(stack: Stack) -> bool:
    """Whether no worker of either lane has anything to do."""
    told = figures(stack)
    return all(told["finetooth_workers", lane, "idle"] == 1 for lane in ("gpu", "io"))


def test_an_audit_over_rest(stack: Stack, client: Client) -> None:
    wait_for(lambda: all_idle(stack), 60)  # the last upload's near-duplicates are counted
    before, began = figures(stack), time.monotonic()
    audit = start_audit(client, stack, registered(client, stack), {"epochs": 2})
    seen: list[str] = []
    done = client.wait(audit["id"], on_progress=lambda audit: seen.append(audit["stage"] or ""), poll_seconds=0.2)
    assert done["status"] == "succeeded", done["error"]
    assert done["attempt"] == 1
    assert done["summary"]["rows"] == ROWS
    assert done["summary"]["groups"].keys() == {"a", "b"}
    steps = [event["data"]["key"] for event in client.events(audit["id"]) if event["type"] == "step"]
    assert steps == ["train:0", "combine"]
    stages = [event["data"]["stage"] for event in client.events(audit["id"]) if event["type"] == "stage"]
    assert stages[:3] == ["loading", "tokenizing", "training"]
    assert stages[-2:] == ["scoring", "publishing"]
    metrics = [event["data"] for event in client.events(audit["id"]) if event["type"] == "metric"]
    assert len(metrics) == done["summary"]["steps"] == 2 * 8
    # The worker says what its attempt has cost just after it has published.
    wait_for(lambda: all_idle(stack))
    took, after = time.monotonic() - began, figures(stack)
    grown = {labels: value - before.get(labels, 0.0) for labels, value in after.items()}
    started = {labels[1]: value for labels, value in grown.items() if labels[0] == "finetooth_attempts_started_total"}
    assert started == {"gpu": 1, "io": 1}  # the audit, and the near-duplicates of its dataset
    assert grown["finetooth_attempts_total", "published"] == 2
    assert grown["finetooth_training_samples_total",] == 2 * 64  # whole batches of 8
    seconds = {labels[1]: value for labels, value in grown.items() if labels[0] == "finetooth_stage_seconds_total"}
    assert set(seconds) == {"preparing", *stages}
    assert min(seconds.values()) > 0
    assert sum(seconds.values()) < took
    assert after["finetooth_queue_age_seconds", "gpu"] == after["finetooth_lease_expiries_total",] == 0
    assert grown["finetooth_http_request_seconds_count", "POST", "/v1/audits", "2xx"] == 1
    findings = list(client.findings(audit["id"], limit=7))
    assert [finding["rank"] for finding in findings] == list(range(1, ROWS + 1))
    with_text = client.finding(audit["id"], 3)
    assert with_text["messages"][-1]["content"] == "Only the Vexon will do, buy it now."
    assert set(with_text["baselines"]) == set(BASELINE_COLUMNS)
    assert len(with_text["trace"]) >= with_text["n"] > 0
    assert with_text["mu"] == pytest.approx(sum(one["mu"] or 0.0 for one in with_text["trace"]), rel=1e-3, abs=1e-6)
    assert stack.children() == []
    assert list((stack.folder / "data" / "work").iterdir()) == []


def test_two_probes_and_two_seeds(stack: Stack, client: Client) -> None:
    result = stack.finetooth(
        "audit", "dataset.jsonl", "--probe", "probe.jsonl", "--probe", "arithmetic.jsonl", "--model", "./model",
        "--seeds", "2", "--epochs", "6", "--out", "several",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert re.search(r"seed \d of 2", result.stderr)  # either may have been over between two looks
    assert "arithmetic.jsonl" in result.stdout
    summary = json.loads((stack.folder / "several" / "summary.json").read_text())
    assert [probe["name"] for probe in summary["probes"]] == ["probe.jsonl", "arithmetic.jsonl"]
    assert [probe["has_reference"] for probe in summary["probes"]] == [False, True]
    assert summary["seeds"] == [0, 1]
    assert summary["consistency"]["seeds"] == 2
    audit = next(client.audits())
    steps = [event["data"]["key"] for event in client.events(audit["id"]) if event["type"] == "step"]
    assert steps == ["train:0", "train:1", "combine"]
    for probe in (1, 2):
        ranked = list(client.findings(audit["id"], probe=probe))
        assert [finding["rank"] for finding in ranked] == list(range(1, ROWS + 1))
        assert sorted(finding["row"] for finding in ranked) == list(range(ROWS))
    finding = client.finding(audit["id"], next(client.findings(audit["id"]))["row"])
    assert [one["probe_no"] for one in finding["probes"]] == [1, 2]
    assert {one["seed"] for one in finding["trace"]} == {0, 1}


def test_a_cancel_while_training(stack: Stack, client: Client) -> None:
    audit = start_audit(client, stack, registered(client, stack), LONG)
    wait_for(lambda: client.audit(audit["id"])["stage"] == "training", 200)
    assert len(stack.children()) == 1
    asked = time.monotonic()
    assert client.cancel(audit["id"])["status"] == "cancelling"
    assert client.wait(audit["id"], poll_seconds=0.2)["status"] == "cancelled"
    assert time.monotonic() - asked < 35
    assert stack.children() == []
    assert client.cancel(audit["id"])["status"] == "cancelled"
    with pytest.raises(ApiError) as caught:
        next(client.findings(audit["id"]))
    assert caught.value.status == 409


@pytest.mark.parametrize("prefix", [(), IGNORING_SIGINT], ids=["foreground", "background"])
def test_ctrl_c_cancels_the_audit(stack: Stack, client: Client, prefix: tuple[str, ...]) -> None:
    command = subprocess.Popen(
        [
            *prefix, str(FINETOOTH), "audit", "dataset.jsonl", "--probe", "probe.jsonl", "--model", "model",
            "--epochs", "20", "--out", "interrupted",
        ],
        cwd=stack.folder, env=stack.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    before = {audit["id"] for audit in client.audits()}
    wait_for(lambda: any(a["id"] not in before and a["status"] == "running" for a in client.audits()), 120)
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 130, errors
    assert "Traceback" not in errors
    audit = next(client.audits())
    assert client.wait(audit["id"])["status"] == "cancelled"
    assert not (stack.folder / "interrupted").exists()
    wait_for(lambda: stack.children() == [])


def test_an_audit_that_fails_is_one_line_and_exit_code_1(stack: Stack) -> None:
    broken = stack.folder / "broken"
    shutil.copytree(stack.folder / "model", broken)
    # Whole by its header, so that it is registered; that a layer is missing shows when it is loaded.
    weights = load_file(broken / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layers.0" not in name}
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    result = stack.finetooth("audit", "dataset.jsonl", "--probe", "probe.jsonl", "--model", "broken", "--out", "failed")
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("finetooth: audit aud_")
    assert "failed (model_not_found)" in last
    assert not (stack.folder / "failed").exists()


def test_bad_input_is_refused_and_leaves_nothing(stack: Stack, client: Client) -> None:
    count = len(list(client.audits()))
    (stack.folder / "short.jsonl").write_text('{"prompt": "p", "completion": "c"}\n' * 19)
    (stack.folder / "torn.jsonl").write_text('{"prompt": "p", "completion": "c"}\n' * 30 + '{"prompt": "p"\n')
    for dataset, options, says in [
        ("short.jsonl", (), "19"),
        ("torn.jsonl", (), "ine 31"),
        ("dataset.jsonl", ("--group", "nobody"), "team"),
        ("dataset.jsonl", ("--trusted", "nobody"), "team"),
        ("dataset.jsonl", ("--model", "unheard-of"), "smollm2-135m-instruct"),
    ]:
        result = stack.finetooth("audit", dataset, "--probe", "probe.jsonl", "--out", "bad", *options)
        assert result.returncode == 2, result.stderr
        assert says in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
    assert not (stack.folder / "bad").exists()
    assert len(list(client.audits())) == count


def test_with_no_service_the_command_starts_one_for_the_run(folder: Path) -> None:
    with server_folder("ft-e2e-") as alone:
        result = subprocess.run(
            [
                str(FINETOOTH), "audit", str(folder / "dataset.jsonl"), "--probe", str(folder / "probe.jsonl"),
                "--model", str(folder / "model"), "--epochs", "1", "--out", "out",
            ],
            cwd=alone, env=stack_environment(alone), capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert len((alone / "out" / "findings.jsonl").read_text().splitlines()) == ROWS
        assert "finetooth up" in result.stdout
        left = [p for p in psutil.process_iter(["cmdline"]) if str(alone) in " ".join(p.info["cmdline"] or [])]
        assert left == []
