"""A tag is released only where version, changelog and OpenAPI document fit it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.compose import ROOT
from tests.support.requirements import PROJECT


def check(folder: Path, tag: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", ROOT / "scripts" / "check_version.py", tag], cwd=folder, capture_output=True, text=True
    )


def sources(
    folder: Path, *, version: str = "1.2.0", served: str = "1.2.0", heading: str = "1.2.0 - 2026-12-01"
) -> Path:
    (folder / "docs").mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "finetooth"\nversion = "1.2.0"\n')
    (folder / "docs" / "openapi.json").write_text(json.dumps({"info": {"version": served}}))
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n## Unreleased\n\n## {heading}\n\n### Added\n- All of it.\n")
    return folder


def test_what_fits_is_released(tmp_path: Path) -> None:
    result = check(sources(tmp_path), "v1.2.0")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("changed", "tag", "told"),
    [
        ({}, "v1.2.1", "pyproject.toml says 1.2.0: tag v1.2.0"),
        ({}, "1.2.0", "pyproject.toml says 1.2.0: tag v1.2.0"),
        ({"served": "1.1.0"}, "v1.2.0", "docs/openapi.json says 1.1.0: run `make openapi`"),
        ({"heading": "1.2.0"}, "v1.2.0", "CHANGELOG.md has no line `## 1.2.0 - YYYY-MM-DD`"),
        ({"heading": "11200 - 2026-12-01"}, "v1.2.0", "CHANGELOG.md has no line `## 1.2.0 - YYYY-MM-DD`"),
    ],
)
def test_what_does_not_fit_is_told(changed: dict[str, str], tag: str, told: str, tmp_path: Path) -> None:
    result = check(sources(tmp_path, **changed), tag)
    assert result.returncode == 1
    first, second = result.stderr.splitlines()
    assert first == f"{tag} cannot be released:"
    assert second.startswith(told)


def test_the_served_version_is_that_of_the_project() -> None:
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert document["info"]["version"] == PROJECT["version"]
