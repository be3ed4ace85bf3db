"""`make help` names every target with one line."""

import os
import re
import shutil
import subprocess

import pytest

from tests.support.compose import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([\w-]+):(?!=)", MAKEFILE, re.MULTILINE)


@pytest.mark.skipif(shutil.which("make") is None, reason="the sources are here without make")
def test_help_names_every_target_with_one_line() -> None:
    # A test run started by make hands its flags on, and a make that is told of another names its directory.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS")}
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    lines = dict(re.findall(r"^  make ([\w-]+) +(\S.*)$", shown, re.MULTILINE))
    assert list(lines) == TARGETS
    assert len(shown.splitlines()) == len(TARGETS)
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_targets_are_no_files() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert sorted(phony.split()) == sorted(TARGETS)
