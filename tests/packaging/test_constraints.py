"""constraints.txt pins everything that an installation of Finetooth pulls in."""

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.compose import ROOT
from tests.support.requirements import EXTRAS, PROJECT, brought_along, declared, own_lines


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


ALL = [line for extra in ("", *EXTRAS) for line in own_lines(extra)]
"""Every library's line of the project's dependencies and extras."""


@pytest.mark.parametrize("line", ALL)
def test_what_the_project_declares_is_pinned_within_its_range(line: str) -> None:
    requirement = Requirement(line)
    name = canonicalize_name(requirement.name)
    assert name in PINS, f"pin {name} in constraints.txt"
    assert requirement.specifier.contains(PINS[name], prereleases=True), f"{name} {PINS[name]} is outside {line}"


def test_everything_that_comes_along_is_pinned_as_installed() -> None:
    """Walks the installed distributions from what the project declares."""
    installed = {name: Version(found.version) for name, found in brought_along(ALL).items()}
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
    lines = [line.strip() for line in (ROOT / "pyproject.toml").read_text().splitlines()]
    for extra in EXTRAS:
        for needed in own_lines(extra):
            found = [line for line in lines if line.startswith(f'"{needed}"')]
            assert found, needed
            # What a tool of development is for, its own name often says.
            assert extra == "dev" or all("#" in line for line in found), f"{needed} has no reason beside it"


def test_the_package_alone_brings_nothing() -> None:
    assert PROJECT["dependencies"] == []


def test_the_libraries_of_a_service_are_those_of_the_product() -> None:
    names = {canonicalize_name(Requirement(line).name) for line in declared("worker", "local", "s3")}
    assert {
        "fastapi", "uvicorn", "celery", "redis", "sqlalchemy", "transformers", "peft", "accelerate", "torch",
    } <= names  # fmt: skip
