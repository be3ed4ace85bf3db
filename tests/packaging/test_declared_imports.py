"""Every library that the code imports is declared where it is installed from: base, or the extra of that part."""

import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.compose import ROOT
from tests.support.imports import imports_of
from tests.support.requirements import declared

PARTS = {
    "finetooth": "",
    "migrations": "service",
    "service": "service",
    "service/client": "client",
    "service/local": "local",
    "service/store": "s3",
    "worker": "worker",
    "worker/influence/capture": "recorder",
    "worker/influence/statistics": "statistics",
    "worker/training": "trainer",
    "worker/training/bundled.py": "worker",
    "worker/training/checkpointing": "worker",
    "worker/training/models.py": "worker",
}
"""Folder or file to the extra that its users install; "" for the base."""
COMPANIONS = {"starlette": "fastapi", "anyio": "fastapi", "kombu": "celery", "markupsafe": "jinja2", "botocore": "s3fs"}
"""Libraries that are part of the interface of a declared one: its documentation sends its users to them."""
OURS = {"finetooth", "service", "worker", "migrations"}
LATER = {"compression"}
"""Parts of the standard library that came after the oldest Python that is supported."""


def part_of(path: Path) -> str:
    """The longest of PARTS that holds the file."""
    name = path.relative_to(ROOT).as_posix()
    return max((part for part in PARTS if f"{name}/".startswith(f"{part}/")), key=len)


@pytest.mark.parametrize("part", PARTS)
def test_libraries_are_declared(part: str) -> None:
    distributions = packages_distributions()
    allowed = {canonicalize_name(Requirement(line).name) for line in declared(*filter(None, [PARTS[part]]))}
    undeclared = set()
    for path in [ROOT / part] if part.endswith(".py") else (ROOT / part).rglob("*.py"):
        if part_of(path) != part:
            continue
        for name in {module.partition(".")[0] for module, _ in imports_of(path)}:
            if name in OURS | LATER | sys.stdlib_module_names:
                continue
            names = {canonicalize_name(found) for found in distributions.get(name, [name])}
            if not (names | {COMPANIONS.get(name, name)}) & allowed:
                undeclared.add(f"{path.relative_to(ROOT)}: {name}")
    assert not undeclared, f"declare them in pyproject.toml ({PARTS[part] or 'dependencies'})"
