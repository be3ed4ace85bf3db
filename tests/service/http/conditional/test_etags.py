"""Entity tags: 304 for who knows the current one, and edits that are guarded by it."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.http.conditional.etags import ConditionsDep, install_conditional_requests, strong_tag, weak_tag
from service.http.problems.handlers import install_problem_handlers
from service.keys.secrets import create_key
from tests.support.builders import add_dataset, add_model, add_probe


@pytest.fixture
def small() -> Iterator[TestClient]:
    """A resource whose tag is that of the query's `state`, and an edit of it."""
    app = FastAPI()
    install_problem_handlers(app)
    install_conditional_requests(app)

    @app.get("/thing")
    def get(conditions: ConditionsDep, state: str, weak: bool = False) -> dict[str, str]:
        conditions.serve(weak_tag(state) if weak else strong_tag(state))
        return {"state": state}

    @app.put("/thing")
    def put(conditions: ConditionsDep, state: str) -> dict[str, str]:
        conditions.guard(strong_tag(state))
        return {"state": "edited"}

    with TestClient(app) as client:
        yield client


def test_the_same_parts_have_the_same_tag_and_others_another() -> None:
    assert strong_tag("a", {"x": 1, "y": None}) == strong_tag("a", {"y": None, "x": 1})
    assert len({strong_tag("a"), strong_tag("b"), strong_tag("a", None), strong_tag(["a"]), weak_tag("a")}) == 5
    assert weak_tag("a") == f"W/{strong_tag('a')}"


@pytest.mark.parametrize("weak", [False, True])
def test_who_knows_the_tag_gets_304_without_a_body(small: TestClient, weak: bool) -> None:
    first = small.get("/thing", params={"state": "a", "weak": weak})
    tag = first.headers["etag"]
    strong = tag.removeprefix("W/")
    # RFC 9110, 13.1.2: weak comparison, a list, or any.
    for known in [tag, strong, f"W/{strong}", f'"x", {tag}', f'W/"y",{tag} , "z"', "*"]:
        again = small.get("/thing", params={"state": "a", "weak": weak}, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), known
    for known in ['"x"', strong.strip('"'), "nonsense", "", strong[:-1], f"{strong} {strong}x"]:
        again = small.get("/thing", params={"state": "a", "weak": weak}, headers={"If-None-Match": known})
        assert (again.status_code, again.json()) == (200, {"state": "a"}), known
    changed = small.get("/thing", params={"state": "b", "weak": weak}, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


def test_an_edit_is_guarded_by_the_tag(small: TestClient) -> None:
    tag = strong_tag("a")
    for expected in [tag, "*", f'"x", {tag}']:
        assert small.put("/thing", params={"state": "a"}, headers={"If-Match": expected}).status_code == 200, expected
    # RFC 9110, 13.1.1: strong comparison; what cannot be read matches nothing.
    for expected in ['"x"', f"W/{tag}", "nonsense", ""]:
        refused = small.put("/thing", params={"state": "a"}, headers={"If-Match": expected})
        assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed"), expected
        assert refused.headers["etag"] == tag
    assert small.put("/thing", params={"state": "a"}).status_code == 200


def test_every_single_resource_has_a_tag(
    client: TestClient, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    with sessions.begin() as session:
        dataset, probe = add_dataset(session, workspace_id), add_probe(session, workspace_id)
        model = add_model(session, workspace_id)
        key, _ = create_key(session, workspace_id=workspace_id, name="k", scopes=["findings:read"])
    paths = [f"/v1/datasets/{dataset}", f"/v1/probes/{probe}", f"/v1/models/{model}", f"/v1/keys/{key.id}"]
    tags = set()
    for path in paths:
        first = client.get(path)
        assert first.status_code == 200, first.text
        again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b""), path
        # A 304 is bound by the same headers as what it stands for.
        assert again.headers["cache-control"] == first.headers["cache-control"] == "no-store"
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
        tags.add(first.headers["etag"])
    assert len(tags) == len(paths)
    key_path = paths[-1]
    tag = client.get(key_path).headers["etag"]
    assert client.delete(key_path).status_code == 204
    assert client.get(key_path, headers={"If-None-Match": tag}).status_code == 200


def test_a_probes_items_are_not_read_for_a_304(
    app: FastAPI, client: TestClient, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    with sessions.begin() as session:
        probe = add_probe(session, workspace_id)
    statements: list[str] = []
    event.listen(app.state.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    tag = client.get(f"/v1/probes/{probe}").headers["etag"]
    assert any("probes.items" in statement for statement in statements)
    statements.clear()
    assert client.get(f"/v1/probes/{probe}", headers={"If-None-Match": tag}).status_code == 304
    assert statements != []
    assert not any("probes.items" in statement for statement in statements)


def test_a_stranger_learns_nothing_from_a_tag(client: TestClient, make_client, other_workspace_id: str) -> None:  # type: ignore[no-untyped-def]
    model = client.get("/v1/models").json()["data"][0]["id"]
    stranger = make_client("admin", workspace=other_workspace_id)
    for known in [client.get(f"/v1/models/{model}").headers["etag"], "*"]:
        assert stranger.get(f"/v1/models/{model}", headers={"If-None-Match": known}).status_code == 404
