"""Builds the documentation as a site, from a copy, so that nothing is left of an earlier build."""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.support.compose import ROOT

COMMAND = [Path(sys.executable).parent / "zensical", "build", "--strict", "--config-file", "mkdocs.yml"]
CONFIGURATION = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def build_documentation(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of `docs/` in `folder`, or of the repository's `docs/` if there is none."""
    shutil.copy(ROOT / "mkdocs.yml", folder)
    if not (folder / "docs").exists():
        shutil.copytree(ROOT / "docs", folder / "docs")
    return subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True, timeout=240)


def built_site(folder: Path) -> Path:
    """Build the repository's documentation in `folder`, without a complaint, and return the folder of its pages."""
    result = build_documentation(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "No issues found" in result.stdout + result.stderr
    return folder / CONFIGURATION["site_dir"]
