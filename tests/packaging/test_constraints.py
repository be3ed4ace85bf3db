"""constraints.txt pins everything that an installation of Finetooth pulls in."""

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def pins() -> dict[str, Version]:
    """Name to version, of constraints.txt."""
    found: dict[str, Version] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{line} pins nothing"
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{name} stands twice"
        found[name] = Version(specifier.version)
    return found


PINS = pins()


def declared() -> list[str]:
    """Every line of the project's dependencies and extras."""
    return [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]


@pytest.mark.parametrize("line", declared())
def test_what_the_project_declares_is_pinned_within_its_range(line: str) -> None:
    requirement = Requirement(line)
    name = canonicalize_name(requirement.name)
    assert name in PINS, f"pin {name} in constraints.txt"
    assert requirement.specifier.contains(PINS[name], prereleases=True), f"{name} {PINS[name]} is outside {line}"


def test_everything_that_comes_along_is_pinned_as_installed() -> None:
    """Walks the installed distributions from what the project declares."""
    queue = [needed for line in declared() if (needed := Requirement(line)).marker is None or needed.marker.evaluate()]
    seen: set[tuple[str, str]] = set()
    installed: dict[str, Version] = {}
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                found = distribution(name)
            except PackageNotFoundError:
                pytest.fail(f"{name} is not installed: pip install -c constraints.txt -e '.[worker,local,dev]'")
            installed[name] = Version(found.version)
            for line in found.requires or []:
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    queue.append(needed)
    missing = sorted(name for name in installed if name not in PINS)
    assert not missing, f"constraints.txt does not pin {missing}"
    differing = {
        name: (str(version), str(PINS[name]))
        for name, version in installed.items()
        if version.public != PINS[name].public
    }
    assert not differing, f"installed, pinned: {differing}"


def test_torch_is_the_version_agreed_on() -> None:
    assert PINS["torch"] == Version("2.13.0")


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for line in declared():
        assert f'"{line}"' in text
    for line in PROJECT["dependencies"]:
        (found,) = [candidate for candidate in text.splitlines() if candidate.strip().startswith(f'"{line}"')]
        assert "#" in found, f"{line} has no reason beside it"
