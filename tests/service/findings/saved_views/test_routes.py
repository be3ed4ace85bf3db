"""Saved views: a workspace's lists of findings under names."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.store.tables import Audit
from tests.support.review_data import address, walk

QUERY = "flagged=true&min_mu=-0.5&sort=-mu&columns=rank,mu,verdict"


def save(client: TestClient, name: str = "strong", query: str = QUERY) -> Any:
    return client.post("/v1/views", json={"name": name, "query": query})


def test_saved_read_renamed_and_deleted(client: TestClient, reviewed: Audit) -> None:
    made = save(client, query="?columns=verdict&columns=mu,rank&sort=-mu&min_mu=-0.5&flagged=true&group=")
    assert made.status_code == 201, made.text
    view = made.json()
    assert view["query"] == QUERY, "as addresses have it: in order, and nothing empty"
    assert client.get(made.headers["location"]).json() == view
    assert client.get("/v1/views").json()["data"] == [view]
    listed = walk(client, f"{address(reviewed)}?{view['query']}")
    assert listed == walk(client, address(reviewed, flagged="true", min_mu=-0.5, sort="-mu"))
    assert listed
    renamed = client.patch(f"/v1/views/{view['id']}", json={"name": "strong ones"})
    assert renamed.json() == view | {"name": "strong ones"}
    changed = client.patch(f"/v1/views/{view['id']}", json={"query": "verdict=disputed"})
    assert changed.json() == view | {"name": "strong ones", "query": "verdict=disputed"}
    assert client.delete(f"/v1/views/{view['id']}").status_code == 204
    gone = client.get(f"/v1/views/{view['id']}")
    assert (gone.status_code, gone.json()["code"]) == (404, "view_not_found")


def test_a_name_is_used_once_in_a_workspace(
    client: TestClient, make_client: Callable[..., TestClient], other_workspace_id: str
) -> None:
    first = save(client).json()
    second = save(client, "other").json()
    for answer in (save(client), client.patch(f"/v1/views/{second['id']}", json={"name": "strong"})):
        assert (answer.status_code, answer.json()["code"]) == (409, "view_name_taken")
    assert [view["name"] for view in client.get("/v1/views").json()["data"]] == ["other", "strong"]
    assert save(make_client("admin", workspace=other_workspace_id)).status_code == 201
    assert client.patch(f"/v1/views/{first['id']}", json={"name": "strong"}).status_code == 200


def test_views_are_the_workspaces(make_client: Callable[..., TestClient]) -> None:
    writer, other, reader = make_client("verdicts:write"), make_client("verdicts:write"), make_client("findings:read")
    view = save(writer).json()
    assert reader.get("/v1/views").json()["data"] == [view]
    assert save(reader, "mine").status_code == 403
    assert writer.get("/v1/views").status_code == 403
    renamed = other.patch(f"/v1/views/{view['id']}", json={"name": "ours"}).json()
    assert (renamed["name"], renamed["key_id"]) == ("ours", view["key_id"])


@pytest.mark.parametrize(
    "query",
    ["max_q=much", "sort=size", "colour=red", "columns=rank,colour", "verdict=perhaps", "text=a%00", "x" * 20_001],
)
def test_what_is_no_list_is_not_saved(client: TestClient, query: str) -> None:
    answer = save(client, query=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
    assert client.get("/v1/views").json()["data"] == []


def test_how_many_there_may_be(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.http.quotas.MAX_SAVED_VIEWS", 2)
    assert [save(client, name).status_code for name in "abc"] == [201, 201, 409]
    assert save(client, "d").json()["code"] == "view_quota"


def test_nothing_is_saved_twice(client: TestClient) -> None:
    body = {"name": "once", "query": ""}
    answers = [client.post("/v1/views", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert [answer.status_code for answer in answers] == [201, 201]
