"""tests/ mirrors the tree: what tests a module is found by the module's path, and no test leans on another."""

from pathlib import Path

from tests.support.imports import imports_of

ROOT = Path(__file__).parents[2]
WHOLE = {"browser", "e2e", "packaging", "support"}
"""Folders whose tests are about no single package."""

TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))


def test_every_folder_of_tests_is_that_of_a_package() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in TESTS}
    mirrored = [folder for folder in folders if folder.parts and folder.parts[0] not in WHOLE]
    assert len(mirrored) > 20
    assert [str(folder) for folder in mirrored if not (ROOT / folder).is_dir()] == []


def test_every_folder_of_tests_is_a_package() -> None:
    assert [path.parent for path in TESTS if not (path.parent / "__init__.py").exists()] == []


def test_nothing_imports_a_test() -> None:
    leaned_on = [
        f"{path.relative_to(ROOT)} imports {name} of {module}"
        for path in TESTS + BENCHMARKS
        for module, name in imports_of(path)
        if module.partition(".")[0] == "tests"
        and any(part.startswith("test_") or part == "conftest" for part in [*module.split("."), name])
    ]
    assert leaned_on == [], "move what is shared to tests/support"
