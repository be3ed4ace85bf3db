"""Whatever bytes come: rows, or a refusal with a documented code. For FUZZ_SECONDS, anew each time."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from service.datasets.intake import CHILD_ENVIRONMENT, Form, Intake
from service.datasets.parsing.records import Mapping
from service.settings import Settings
from service.store.local_objects import LocalObjects
from tests.support.parser_fuzz import case, fault_of

SECONDS = float(os.environ.get("FUZZ_SECONDS", "600"))
SEED = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(2**32)))
"""It and a case's number make the case again: `tests.support.parser_fuzz.case`."""

SHARE_OF_REAL_CHILDREN = 0.2

LIBRARY_ABORTS = "terminate called after throwing an instance of 'parquet::ParquetException'"
"""What Arrow's Parquet reader leaves behind where an error of a damaged footer is one that it does not hand on."""


@pytest.mark.parametrize("number", range(25))
def test_changed_uploads_end_as_documented(number: int, tmp_path: Path) -> None:
    assert _through_a_real_child(0, number, tmp_path) is None


@pytest.mark.parametrize("number", [6014, 28071, 36690])
def test_a_file_that_ends_its_reader_is_refused_as_damaged(number: int, tmp_path: Path) -> None:
    """Parquet whose histograms of levels have the wrong size: their reader aborts its process."""
    report = _report_of_a_real_child(3705464772, number, tmp_path)
    assert (report["outcome"], report["code"]) == ("refused", "parser_crashed")
    assert "damaged" in report["detail"]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 2 + 300)
def test_changed_uploads_end_as_documented_at_length(tmp_path: Path) -> None:
    """In a process with the limits of the real one, which starts anew behind a case that ends it."""
    until, first, faults = time.monotonic() + SECONDS, 0, []
    while (left := until - time.monotonic()) > 1:
        command = [sys.executable, "-m", "tests.support.parser_fuzz", str(SEED), str(first), str(left), str(tmp_path)]
        done = subprocess.run(command, env=os.environ | CHILD_ENVIRONMENT, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        faults += [line for line in lines if "fault" in line]
        print(SEED, lines[-1:], faults)  # what a long run has tried
        if done.returncode == 0:
            break
        number = int((tmp_path / "case").read_text())
        first = number + 1
        if LIBRARY_ABORTS in done.stderr and _through_a_real_child(SEED, number, tmp_path) is None:
            continue
        faults.append({"case": number, "fault": f"ended with {done.returncode}: {done.stderr[-500:]}"})
    assert faults == [], f"FUZZ_SEED={SEED}"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 2 + 300)
def test_changed_uploads_through_real_children_at_length(tmp_path: Path) -> None:
    until, number, faults = time.monotonic() + SECONDS * SHARE_OF_REAL_CHILDREN, 0, []
    while time.monotonic() < until:
        fault = _through_a_real_child(SEED, number, tmp_path)
        faults += [] if fault is None else [{"case": number, "fault": fault}]
        number += 1
    print(SEED, number, "cases through real children", faults)
    assert faults == [], f"FUZZ_SEED={SEED}"


def _through_a_real_child(seed: int, number: int, folder: Path) -> str | None:
    report = _report_of_a_real_child(seed, number, folder)
    if report.get("code") == "parser_memory_limit" and "was stopped" in report["detail"]:
        return "the child was killed"
    return fault_of(report, None)


def _report_of_a_real_child(seed: int, number: int, folder: Path) -> dict[str, Any]:
    data, options = case(seed, number)
    chunk, mapping = options.pop("chunk"), options.pop("mapping", None)
    form = Form(mapping=None if mapping is None else Mapping(**mapping), **options)
    objects, settings = LocalObjects(folder / "objects"), Settings(data_dir=folder / "data")
    intake = Intake(objects, settings, workspace_id="ws", dataset_id=f"ds_{number}", form=form)
    try:
        intake.start()
        for start in range(0, len(data), max(chunk, 100)):
            if not intake.feed([data[start : start + max(chunk, 100)]]):
                break
        report: dict[str, Any] = intake.finish().model_dump()
    finally:
        intake.abort()
    return report
