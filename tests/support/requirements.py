"""What pyproject.toml declares, and which installed distributions an extra brings along."""

import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.compose import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def own_lines(extra: str) -> list[str]:
    """Lines of an extra, or of the base for "", that name a library and not another extra of the project."""
    lines = EXTRAS[extra] if extra else PROJECT["dependencies"]
    return [line for line in lines if canonicalize_name(Requirement(line).name) != PROJECT["name"]]


def declared(*extras: str) -> list[str]:
    """Every library's line that these extras bring, those of the extras that they name and the base included."""
    found, queue, seen = own_lines(""), list(extras), set[str]()
    while queue:
        extra = queue.pop()
        if extra in seen:
            continue
        seen.add(extra)
        found += own_lines(extra)
        for line in EXTRAS[extra]:
            requirement = Requirement(line)
            if canonicalize_name(requirement.name) == PROJECT["name"]:
                queue += requirement.extras
    return found


def brought_along(lines: list[str]) -> dict[str, Distribution]:
    """Canonical name to installed distribution, of all that an installation of these lines pulls in."""
    queue = [needed for line in lines if (needed := Requirement(line)).marker is None or needed.marker.evaluate()]
    seen: set[tuple[str, str]] = set()
    installed: dict[str, Distribution] = {}
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                found = installed[name] = distribution(name)
            except PackageNotFoundError:
                pytest.fail(f"{name} is not installed: pip install -c constraints.txt -e '.[worker,local,s3,dev]'")
            for line in found.requires or []:
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    queue.append(needed)
    return installed
