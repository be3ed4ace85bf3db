"""The acceptance on a GPU runs on a CPU, on a tiny model, so that it is whole when there is a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_check.report import Report, Status
from tests.support.compose import ROOT

NEEDS_A_GPU = {
    "the GPU",
    "an audit of the demo model",
    "a killed child leaves the GPU's memory free",
    "a step larger than the GPU's memory is planned in passes that fit",
}


@pytest.mark.skipif(sys.platform != "linux", reason="takes memory from another process")
def test_on_a_cpu_everything_holds_that_needs_no_gpu(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--shape", "tiny", "--work", tmp_path, "--out", tmp_path],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    results = {check["name"]: check["status"] for check in found["checks"]}
    assert {name for name, status in results.items() if status == Status.NOT_MEASURED} == NEEDS_A_GPU
    assert [name for name, status in results.items() if status == Status.FAILED] == []
    for name in (
        "TF32 is off",
        "signals, base in bfloat16",
        "resumed, it is the run that was left alone",
        "told to save and stop, it does",
        "combine finds the planted samples",
        "it runs out of memory, halves its passes and finishes",
        "short, q and v, r=8",
    ):
        assert results[name] == Status.OK, name
    assert f"| {Status.OK} |" in ran.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_check.json"]


def test_what_fails_or_raises_fails_the_whole(tmp_path: Path) -> None:
    report = Report(seconds=0)
    with report.part("one"):
        report.checked("holds", True, "a | b")
        report.not_measured("a GPU", "there is none")
    assert report.late
    assert not report.failed
    with report.part("two"):
        report.checked("holds, too", True, "yes", number=3)
        raise ValueError("broken")
    assert report.failed
    report.save(tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(check["part"], check["status"]) for check in found["checks"]] == [
        ("one", "ok"),
        ("one", "not measured"),
        ("two", "ok"),
        ("two", "failed"),
    ]
    assert found["failed"] is True
    assert found["checks"][2]["figures"] == {"number": 3}
    assert "| one | holds | ok | a / b |" in report.table()
    assert "| two | ran to its end | failed | ValueError: broken |" in report.table()


def test_one_check_that_does_not_hold_fails_the_whole() -> None:
    report = Report(seconds=60)
    with report.part("one"):
        report.checked("holds", False, "no")
    assert report.failed
    assert not report.late
