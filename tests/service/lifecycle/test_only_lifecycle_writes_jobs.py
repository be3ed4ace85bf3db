"""Job state has one writer: the source of everything else is searched for another."""

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WRITERS = {"Job", "AuditStep", "AuditEvent"}
TABLES = {"jobs", "audit_steps", "audit_events"}


def sources() -> Iterator[Path]:
    for folder in ("service", "worker"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.is_relative_to(ROOT / "service" / "lifecycle"):
                yield path


def writes(tree: ast.AST) -> list[str]:
    """Constructions of, and insert/update/delete on, the lifecycle's tables; SQL text that names them to write."""
    found = []
    jobs = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and "Job" in {part.id for part in ast.walk(node.value) if _is_name(part)}
    } | {
        argument.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) and node.annotation is not None
        for argument in [node]
        if "Job" in {part.id for part in ast.walk(node.annotation) if _is_name(part)}
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in WRITERS:
                found.append(f"line {node.lineno}: constructs {called}")
            arguments = {part.id for argument in node.args for part in ast.walk(argument) if _is_name(part)}
            if called in {"insert", "update", "delete"} and arguments & WRITERS:
                found.append(f"line {node.lineno}: {called} on {arguments & WRITERS}")
        if isinstance(node, ast.Assign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id in jobs:
                    found.append(f"line {node.lineno}: assigns {target.value.id}.{target.attr}")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.lower().split()
            for verb, table in pairwise(words):
                if verb in {"update", "into", "from"} and table.strip('";') in TABLES and words[0] != "select":
                    found.append(f"line {node.lineno}: SQL that writes {table}")
    return found


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


@pytest.mark.parametrize("path", list(sources()), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_outside_the_lifecycle_writes_job_state(path: Path) -> None:
    assert writes(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "Job(id='x')",
        "tables.Job(id='x')",
        "session.execute(update(Job).values(state='failed'))",
        "session.execute(sa.delete(AuditEvent))",
        "job = session.get(Job, 'x')\njob.state = 'failed'",
        "def f(job: Job):\n    job.attempt += 1",
        "text('UPDATE jobs SET state = 1')",
        "text('DELETE FROM audit_steps')",
    ],
)
def test_the_search_finds_a_writer(source: str) -> None:
    assert writes(ast.parse(source))


def test_the_search_leaves_readers_alone() -> None:
    assert not writes(ast.parse("job = session.scalar(select(Job))\nprint(job.state)\ntext('SELECT 1 FROM jobs')"))
