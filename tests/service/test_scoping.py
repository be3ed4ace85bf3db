"""One place builds the condition of who sees which rows."""

import ast
from pathlib import Path

SERVICE = Path(__file__).parents[2] / "service"
MAY_COMPARE = {
    "scoping.py": "the one place for requests",
    "http/auth/authentication.py": "joins a key with its workspace",
    "bootstrap.py": "the first workspace's admin key, before anybody can ask",
    "keys/secrets.py": "likewise the oldest admin key of a workspace",
    "http/idempotency.py": "finds a record by everything that was asked, the workspace among it",
    "http/quotas.py": "counts what a workspace has, whoever asks in it",
    "audits/queries.py": "joins an audit with its job",
    "audits/live/versions.py": "joins an audit with its job",
    "exports/queries.py": "joins an export with its job",
    "datasets/uploads/queries.py": "joins an upload with its parts",
    "datasets/uploads/actions.py": "joins an upload with its parts and the dataset made of it, in a task of its own",
    "workspaces/usage.py": "counts what a workspace has that the principal was found to see",
    "model_import/importing.py": "what operators run: a model of the workspace that they name",
    "workers/queries.py": "counts the jobs of others beside the workspace's own",
}
"""service.lifecycle takes the workspace as an argument, together with the id."""


def test_nothing_else_compares_workspaces() -> None:
    found = set()
    for path in SERVICE.rglob("*.py"):
        if path.is_relative_to(SERVICE / "lifecycle"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            if any(isinstance(side, ast.Attribute) and side.attr == "workspace_id" for side in sides):
                found.add(str(path.relative_to(SERVICE)))
    assert found == set(MAY_COMPARE), "use scoped(), owned() or get_scoped() of service.scoping"
