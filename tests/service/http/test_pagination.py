"""Pages: complete, without repeats, whatever their size; cursors that nobody gave are refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session, sessionmaker
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from service.errors import InvalidCursorError
from service.http.pagination import PageRequest
from tests.support.builders import add_probe


def page_request(limit: int, after: str | None) -> tuple[PageRequest, Response]:
    scope = {"type": "http", "path": "/v1/x", "query_string": b"a=1", "headers": [(b"host", b"h")], "scheme": "http"}
    response = Response()
    return PageRequest(Request({**scope, "server": ("h", 80)}), response, limit, after), response


@given(st.integers(0, 60), st.integers(1, 25))
def test_walking_the_pages_gives_every_item_once(total: int, limit: int) -> None:
    seen: list[int] = []
    after: str | None = None
    while True:
        request, response = page_request(limit, after)
        start = request.after_number or 0
        rows = range(start + 1, total + 1)[: limit + 1]
        page = request.page(rows, key=lambda row: row, render=lambda row: row)
        assert len(page.data) <= limit
        assert page.has_more == ("link" in response.headers)
        seen += page.data
        if not page.has_more:
            assert page.next_after is None
            break
        after = page.next_after
    assert seen == list(range(1, total + 1))


@given(st.text(max_size=50))
def test_a_strange_cursor_is_refused_or_harmless(after: str) -> None:
    request, _ = page_request(10, after)
    try:
        key, number = request.after, request.after_number
    except InvalidCursorError:
        return
    assert "\0" not in str(key)
    assert number is not None


@pytest.mark.parametrize("after", ["!!", "AA", "w6k", "a" * 5])
def test_a_strange_cursor_is_a_problem(client: TestClient, after: str) -> None:
    response = client.get("/v1/probes", params={"after": after})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_cursor")


def test_the_link_header_leads_through_the_list(
    client: TestClient, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    with sessions.begin() as session:
        ids = [add_probe(session, workspace_id) for _ in range(7)]
    url: str | None = "/v1/probes?limit=3"
    seen: list[Any] = []
    while url:
        response = client.get(url)
        assert response.json()["object"] == "list"
        seen += [probe["id"] for probe in response.json()["data"]]
        url = response.links.get("next", {}).get("url")
    assert seen == ids[::-1]


@pytest.mark.parametrize(("limit", "status"), [(0, 422), (1, 200), (1000, 200), (1001, 422), ("x", 422)])
def test_limits(client: TestClient, limit: Any, status: int) -> None:
    for path in ("/v1/probes", "/v1/models", "/v1/audits", "/v1/keys", "/v1/datasets"):
        assert client.get(path, params={"limit": limit}).status_code == status
