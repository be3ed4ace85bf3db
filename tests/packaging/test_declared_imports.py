"""Every library that the code imports is declared where it is installed from: base, or the extra of that part."""

import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.imports import imports_of

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PARTS = {"service": "", "service/local": "local", "service/store": "s3", "worker": "worker", "migrations": ""}
"""Folder to the extra that its users install beside the base."""
COMPANIONS = {"starlette": "fastapi", "anyio": "fastapi", "kombu": "celery", "markupsafe": "jinja2", "botocore": "s3fs"}
"""Libraries that are part of the interface of a declared one: its documentation sends its users to them."""
OURS = {"service", "worker", "migrations"}
LATER = {"compression"}
"""Parts of the standard library that came after the oldest Python that is supported."""


def declared(extra: str) -> set[str]:
    lines = PROJECT["dependencies"] + PROJECT["optional-dependencies"].get(extra, [])
    return {canonicalize_name(Requirement(line).name) for line in lines}


def part_of(path: Path) -> str:
    """The longest folder of PARTS that holds the file."""
    name = path.relative_to(ROOT).as_posix()
    return max((part for part in PARTS if name.startswith(f"{part}/")), key=len)


@pytest.mark.parametrize("part", PARTS)
def test_libraries_are_declared(part: str) -> None:
    distributions = packages_distributions()
    allowed = declared(PARTS[part])
    undeclared = set()
    for path in (ROOT / part).rglob("*.py"):
        if part_of(path) != part:
            continue
        for name in {module.partition(".")[0] for module, _ in imports_of(path)}:
            if name in OURS | LATER | sys.stdlib_module_names:
                continue
            names = {canonicalize_name(found) for found in distributions.get(name, [name])}
            if not (names | {COMPANIONS.get(name, name)}) & allowed:
                undeclared.add(f"{path.relative_to(ROOT)}: {name}")
    assert not undeclared, f"declare them in pyproject.toml ({PARTS[part] or 'dependencies'})"
