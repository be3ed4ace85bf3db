"""Docstrings follow the convention of CONTRIBUTING.md; ruff's pydocstyle rules hold what is not tested here."""

from pathlib import Path

import pytest

from tests.support.docstrings import broken_rules, modules_of

ROOT = Path(__file__).parents[2]

NOT_YET = {
    "worker/training/batches.py",
    "worker/training/checkpointing/format.py",
    "worker/training/loop.py",
    "worker/training/measurement.py",
}
"""Packages and modules whose docstrings do not follow the convention yet. Remove what is done, and add nothing."""


EXAMPLE = '''
"""A module."""

LIMIT = 3
"""The most."""


def found(path: str, base: str, *names: str, strict: bool) -> tuple[int, str]:
    """Return where a path is, and what it is called.

    Args:
        path: The first.
        base: The second.
        *names: The rest.
        strict: The last,
            on two lines: and with a colon.

    Raises:
        ValueError: It is empty.
    """
    if not path:
        raise ValueError("it is empty")
    return LIMIT, base
'''
"""A module that follows the convention."""


def _parts() -> list[str]:
    """The packages of service and worker, and their modules beside them."""
    return sorted(
        str(path.relative_to(ROOT))
        for side in ("service", "worker")
        for path in (ROOT / side).iterdir()
        if path.is_dir() or path.suffix == ".py"
        if path.name != "__pycache__"
    )


def _broken(part: str) -> list[str]:
    found = []
    for module in modules_of(ROOT / part):
        name = str(module.relative_to(ROOT))
        if name == part or name not in NOT_YET:
            found += [f"{name}:{rule}" for rule in broken_rules(module.read_text())]
    return found


@pytest.mark.parametrize("part", [part for part in _parts() if part not in NOT_YET])
def test_a_package_that_is_done_follows_the_convention(part: str) -> None:
    assert _broken(part) == []


@pytest.mark.parametrize("part", sorted(NOT_YET))
def test_what_is_not_done_yet_is_there_and_still_breaks_the_convention(part: str) -> None:
    assert (ROOT / part).exists(), "remove it from NOT_YET: it is gone"
    assert _broken(part), "remove it from NOT_YET: it is done, and the convention holds for it from now on"


def test_a_function_with_all_sections_breaks_nothing() -> None:
    assert broken_rules(EXAMPLE) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("Return where", "Of where", "begins with 'Of'"),
        ("        base: The second.\n", "", "Args names ['path', 'names', 'strict'], and the parameters are"),
        ("        base: The second.", "        other: The second.", "Args names"),
        ("        *names: The rest.\n        strict:", "        strict: 1.\n        *names:", "Args names"),
        ("    Args:", "    Arguments:", "Args names []"),
        ("        ValueError:", "        TypeError:", "raises ['ValueError'], which Raises does not name"),
        ("    Raises:", "    Fails:", "raises ['ValueError'], which Raises does not name"),
        ("raise ValueError(", "raise _error(", ""),
        ("    Raises:\n        ValueError: It is empty.", "", "raises ['ValueError']"),
        ("Return where", "Find where", "returns several things"),
        ("LIMIT = 3\n", "LIMIT, LEAST = 3, 1\n", "defines (LIMIT, LEAST) in one line"),
        ('"""The most."""\n', "", "gives no reason for LIMIT"),
        ("    Args:\n", "    Returns:\n        Nothing.\n\n    Args:\n", "has its sections in another order"),
    ],
)
def test_each_rule_finds_what_breaks_it(old: str, new: str, problem: str) -> None:
    assert EXAMPLE.count(old) == 1
    found = broken_rules(EXAMPLE.replace(old, new))
    assert bool(found) == bool(problem)
    assert problem in " ".join(found)


def test_an_error_made_by_another_function_needs_raises_as_well() -> None:
    found = broken_rules("def read(path):\n    '''Read it.'''\n    raise missing(path)\n")
    assert found == ["1: read raises an error, which Raises does not name"]


def test_a_function_without_a_docstring_needs_one_if_it_needs_sections() -> None:
    assert broken_rules("def read(path): ...") == []
    assert broken_rules("def read(path, base): ...") == ["1: read has no docstring"]


@pytest.mark.parametrize(
    "source",
    [
        "def _private(one, two):\n    raise ValueError",
        "def outer(one):\n    '''Return it.'''\n    def inner(two, three):\n        raise ValueError",
        "class _Private:\n    def method(self, one, two): ...",
        "class Public:\n    def method(self, one): ...",
        "class Public:\n    @classmethod\n    def method(cls, one): ...",
        "@router.get('')\ndef route(one, two):\n    raise ValueError",
        "@app.command()\ndef command(one, two):\n    raise ValueError",
        "def route(one, two): ...\nrouter.add_api_route('/', route)",
        "def route(one, two): ...\n_add_route('/', route)",
        "T = TypeVar('T')",
        "def hook(sender, _context): ...",
        "def raises_again(one):\n"
        "    '''Return it.'''\n    try: ...\n    except OSError as error: raise error\n    except KeyError: raise",
    ],
)
def test_private_functions_routes_and_commands_need_no_sections(source: str) -> None:
    assert broken_rules(source) == []
