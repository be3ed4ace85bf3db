"""How often the routes that are asked most ask the database, once the key is known: each time is a way to and fro."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from tests.support.made_audits import make_published


@pytest.fixture
def audit_id(sessions: sessionmaker[Session], workspace_id: str) -> str:
    """Of a succeeded audit of two probes."""
    with sessions.begin() as session:
        return make_published(session, workspace_id, probes=2).id


@pytest.fixture
def count(client: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Asks for a path and says how many statements that took; the key stays known for as long as the test runs."""
    monkeypatch.setattr("service.http.auth.principal_cache.KEPT_SECONDS", 600.0)
    counted = itertools.count()

    def listen(*_: Any) -> None:
        next(counted)

    def ask(path: str, **headers: str) -> tuple[int, int]:
        before = next(counted)
        response = client.get(path, headers=headers)
        return response.status_code, next(counted) - before - 1

    client.get("/v1/info")
    event.listen(app.state.engine, "before_cursor_execute", listen)
    yield ask
    event.remove(app.state.engine, "before_cursor_execute", listen)


def test_hot_routes(client: TestClient, count: Callable[..., Any], audit_id: str) -> None:
    address = f"/v1/audits/{audit_id}"
    etag = client.get(address).headers["etag"]
    found = {
        "who asks": count("/v1/info"),
        "plain": count(address),
        "known": count(address, **{"If-None-Match": etag}),
        "changed": count(address, **{"If-None-Match": 'W/"other"'}),
        "page": count(f"{address}/findings"),
        "filtered": count(f"{address}/findings?flagged=true&max_q=1&min_mu=-100&limit=5"),
        "one": count(f"{address}/findings/3"),
        "precision": count(f"{address}/precision"),
    }
    assert found == {
        "who asks": (200, 0),
        "plain": (200, 1),
        "known": (304, 1),
        "changed": (200, 2),
        "page": (200, 4),  # the audit, which samples, their texts, their verdicts
        "filtered": (200, 4),
        "one": (200, 6),  # its nearest samples' scores beside those of a list
        "precision": (200, 3),
    }


def test_answers_are_what_their_models_say(client: TestClient, app: FastAPI, audit_id: str) -> None:
    """They leave without FastAPI's own look at them, and are the same document."""
    address = f"/v1/audits/{audit_id}"
    for path, model in (
        (f"{address}/findings?limit=7&sort=-mu", "Page_Finding_"),
        (f"{address}/findings/3", "FindingDetail"),
        (f"{address}/precision", "AuditPrecision"),
    ):
        response = client.get(path)
        assert response.headers["content-type"] == "application/json"
        schema = app.openapi()["components"]["schemas"][model]
        assert set(json.loads(response.content)) == set(schema["properties"])
    page = client.get(f"{address}/findings?limit=7&sort=-mu")
    assert page.links["next"]["url"].endswith(page.json()["next_after"])
