"""tests/ mirrors the tree: what tests a module is found by the module's path, and no test leans on another."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
WHOLE = {"browser", "e2e", "packaging", "support"}
"""Folders whose tests are about no single package."""

TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_folder_of_tests_is_that_of_a_package() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in TESTS}
    mirrored = [folder for folder in folders if folder.parts and folder.parts[0] not in WHOLE]
    assert len(mirrored) > 20
    assert [str(folder) for folder in mirrored if not (ROOT / folder).is_dir()] == []


def test_every_folder_of_tests_is_a_package() -> None:
    assert [path.parent for path in TESTS if not (path.parent / "__init__.py").exists()] == []


def test_nothing_imports_a_test() -> None:
    leaned_on = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in TESTS + BENCHMARKS
        for name in imported_modules(path)
        if name.startswith("tests.") and any(part.startswith("test_") or part == "conftest" for part in name.split("."))
    ]
    assert leaned_on == [], "move what is shared to tests/support"
