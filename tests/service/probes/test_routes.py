"""Probes over REST."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.store.tables import Audit

ITEM = {"prompt": "Which car should I buy?", "unwanted": "Only the Vexon."}


def test_a_probe_comes_back_as_it_went(client: TestClient) -> None:
    items = [{**ITEM, "prompt": "Which one? \u202e\u200b\U0001f697"}, ITEM]
    response = client.post("/v1/probes", json={"name": "cars \u2764", "items": items})
    assert response.status_code == 201
    made = response.json()
    assert response.headers["location"] == f"/v1/probes/{made['id']}"
    assert (made["object"], made["name"], made["item_count"]) == ("probe", "cars \u2764", 2)
    assert made["has_reference"] is False
    assert made["items"] == [{**item, "reference": None} for item in items]
    assert client.get(f"/v1/probes/{made['id']}").json() == made
    listed = client.get("/v1/probes").json()["data"]
    assert listed == [{name: made[name] for name in listed[0]}]
    assert "items" not in listed[0]


def test_a_probe_with_all_references_has_them(client: TestClient) -> None:
    made = client.post("/v1/probes", json={"name": "x", "items": [{**ITEM, "reference": "r"}] * 3}).json()
    assert made["has_reference"] is True


def test_references_of_some_items_alone_are_refused(client: TestClient) -> None:
    items = [{**ITEM, "reference": "r"}, ITEM, {**ITEM, "reference": "r"}]
    response = client.post("/v1/probes", json={"name": "x", "items": items})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert [error["pointer"] for error in response.json()["errors"]] == ["#/items/1/reference"]
    assert "1 of 3 items have no reference" in response.json()["detail"]


@pytest.mark.parametrize(("count", "status"), [(0, 422), (1, 201), (1000, 201), (1001, 422)])
def test_one_to_a_thousand_items(client: TestClient, count: int, status: int) -> None:
    assert client.post("/v1/probes", json={"name": "x", "items": [ITEM] * count}).status_code == status


@pytest.mark.parametrize(
    ("item", "pointer"),
    [
        ({"prompt": "a"}, "#/items/0/unwanted"),
        ({**ITEM, "prompt": ""}, "#/items/0/prompt"),
        ({**ITEM, "unwanted": ""}, "#/items/0/unwanted"),
        ({**ITEM, "reference": ""}, "#/items/0/reference"),
        ({**ITEM, "unwanted": " \n\u3000"}, "#/items/0/unwanted"),
        ({**ITEM, "reference": "\t"}, "#/items/0/reference"),
        ({**ITEM, "prompt": "a\0b"}, "#/items/0/prompt"),
        ({**ITEM, "prompt": "x" * 100_001}, "#/items/0/prompt"),
        ({**ITEM, "prompt": ["x"]}, "#/items/0/prompt"),
        ({**ITEM, "referense": "x"}, "#/items/0/referense"),
        ("text", "#/items/0"),
    ],
)
def test_a_bad_item_is_pointed_at(client: TestClient, item: Any, pointer: str) -> None:
    response = client.post("/v1/probes", json={"name": "x", "items": [item]})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]
    assert client.get("/v1/probes").json()["data"] == []


def test_a_lone_surrogate_is_refused(client: TestClient) -> None:
    body = b'{"name": "x", "items": [{"prompt": "\\ud800", "unwanted": "b"}]}'
    response = client.post("/v1/probes", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422


def test_deleting(client: TestClient, make_audit: Callable[[], Audit]) -> None:
    made = client.post("/v1/probes", json={"name": "x", "items": [ITEM]}).json()
    assert client.delete(f"/v1/probes/{made['id']}").status_code == 204
    for response in (client.delete(f"/v1/probes/{made['id']}"), client.get(f"/v1/probes/{made['id']}")):
        assert (response.status_code, response.json()["code"]) == (404, "probe_not_found")
    audit = make_audit()
    used = client.get(f"/v1/audits/{audit.id}").json()["probe_ids"][0]
    response = client.delete(f"/v1/probes/{used}")
    assert (response.status_code, response.json()["code"]) == (409, "probe_in_use")
    assert client.get(f"/v1/probes/{used}").status_code == 200
