"""Whatever audit is asked for: it succeeds, or fails with a code that says why. For FUZZ_SECONDS, anew each time."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.audit_fuzz import fault_of, run_case, stage_case

SECONDS = float(os.environ.get("FUZZ_SECONDS", "600"))
SEED = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(2**32)))
"""It and a case's number make the case again: `tests.support.audit_fuzz.stage_case`."""


@pytest.mark.parametrize("number", range(6))
def test_odd_audits_succeed_or_say_why(number: int, tmp_path: Path) -> None:
    (tmp_path / "step").mkdir()
    failure, where = run_case(tmp_path / "step", stage_case(0, number, tmp_path / "step", tmp_path / "models"))
    assert fault_of(failure) is None, where


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 2 + 300)
def test_odd_audits_succeed_or_say_why_at_length(tmp_path: Path) -> None:
    until, first, faults = time.monotonic() + SECONDS, 0, []
    while (left := until - time.monotonic()) > 1:
        command = [sys.executable, "-m", "tests.support.audit_fuzz", str(SEED), str(first), str(left), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        faults += [line for line in lines if "fault" in line]
        print(SEED, lines[-1:], faults)  # what a long run has tried
        if done.returncode == 0:
            break
        first = int((tmp_path / "case").read_text()) + 1
        faults.append({"case": first - 1, "fault": f"ended with {done.returncode}: {done.stderr[-500:]}"})
    assert faults == [], f"FUZZ_SEED={SEED}"
