"""Errors of the domain know nothing of HTTP, and only what answers requests does."""

from pathlib import Path

import pytest

from service.errors import NotFoundError, json_pointer, missing_is_not_found
from tests.support.imports import imports_of

SERVICE = Path(__file__).parents[2] / "service"
EDGE = ("http/", "web/", "ops/", "app.py")
"""What answers requests, beside the modules of routes."""
KNOWN = {
    "service.http.audit_log",
    "service.http.in_use",
    "service.http.quotas",
    "service.http.auth.principal_cache",
    "service.http.sub_path",
}
"""What actions and queries share, of which nothing knows a request."""
ANSWERS_TOO = {
    "audits/live/event_stream.py": "a stream ends where its key does",
    "datasets/upload_form.py": "reads the form of an upload from its request",
    "datasets/uploads/tus.py": "reads and writes the headers of the tus protocol",
}


def test_problem_documents_are_made_where_requests_are_answered() -> None:
    found = set()
    for path in SERVICE.rglob("*.py"):
        name = str(path.relative_to(SERVICE))
        if name.startswith(EDGE) or name.endswith("routes.py"):
            continue
        if any(module.startswith("service.http.problems") for module, _ in imports_of(path)):
            found.add(name)
    assert found == set(ANSWERS_TOO), "raise an error of service.errors"


def test_actions_and_queries_know_no_requests() -> None:
    paths = [path for name in ("actions.py", "queries.py") for path in SERVICE.rglob(name)]
    assert len(paths) > 15, "the search has lost its way"
    for path in paths:
        modules = {
            module for module, _ in imports_of(path) if module.startswith(("fastapi", "starlette", "service.http"))
        }
        assert modules <= KNOWN, path


def test_pages_call_no_routes() -> None:
    for path in (SERVICE / "web").rglob("*.py"):
        assert [module for module, _ in imports_of(path) if module.endswith("routes")] == [], path


def test_a_row_that_a_command_does_not_find_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="audit_not_found"), missing_is_not_found("audit"):
        raise LookupError("aud_1")
    with pytest.raises(RuntimeError), missing_is_not_found("audit"):
        raise RuntimeError


def test_a_pointer_escapes_what_has_a_meaning_in_it() -> None:
    assert json_pointer("items", 0, "a/b~c") == "#/items/0/a~1b~0c"
