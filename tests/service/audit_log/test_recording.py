"""Whatever changes something leaves exactly one entry in the audit log."""

import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.http.auth.authentication import COOKIE
from service.keys.secrets import create_key, open_browser_session
from service.store.tables import AuditLogEntry, BrowserSession
from tests.support.builders import add_dataset, add_model, add_person, add_probe
from tests.support.made_audits import make_published
from tests.support.pages import OURS, Page, form_fields

Sessions = sessionmaker[Session]

CHANGES_NOTHING = {"POST /v1/audits/estimate"}
HUB = {"name": "m", "source": "hub", "location": "owner/model", "revision": "0123456789abcdef0123456789abcdef01234567"}
KEY = {"name": "made", "scopes": ["findings:read"]}


def changing_routes(app: FastAPI) -> set[str]:
    return {
        f"{method} {context.path}"
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
        if method not in ("GET", "HEAD", "OPTIONS")
    }


class Recorder:
    """Asks routes, and looks at what each leaves in the log."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._seen: set[str] = set()
        self.asked: set[str] = set()
        self.look()

    def look(self) -> list[AuditLogEntry]:
        with self._sessions() as session:
            # Without what the service does by itself meanwhile, such as finishing a deletion.
            asked = select(AuditLogEntry).where(AuditLogEntry.request_id.is_not(None))
            entries = session.scalars(asked.order_by(AuditLogEntry.id)).all()
        new = [entry for entry in entries if entry.id not in self._seen]
        self._seen |= {entry.id for entry in new}
        return new

    def ask(self, client: TestClient, route: str, action: str | None, *, ids: Any = None, **options: Any) -> Any:
        method, path = route.split(" ")
        answer = client.request(method, path.format(**(ids or {})), **options)
        assert answer.status_code < 400, (route, answer.status_code, answer.text)
        new = self.look()
        assert [entry.action for entry in new] == ([] if action is None else [action]), route
        for entry in new:
            assert entry.request_id == answer.headers["x-request-id"]
            assert entry.client == "testclient"
        self.asked.add(route)
        return answer


@pytest.fixture
def recorder(sessions: Sessions) -> Recorder:
    return Recorder(sessions)


def test_every_route_that_changes_something_leaves_one_entry(
    app: FastAPI,
    client: TestClient,
    anonymous_client: TestClient,
    recorder: Recorder,
    sessions: Sessions,
    workspace_id: str,
) -> None:
    ask = recorder.ask
    workspace = ask(client, "POST /v1/workspaces", "workspace.create", json={"name": "n"}).json()["id"]
    ask(client, "PATCH /v1/workspaces/{id}", "workspace.change", ids={"id": workspace}, json={"max_running_audits": 2})
    ask(client, "POST /usage/{id}/limits", "workspace.change", ids={"id": workspace}, data={"max_queued_audits": "9"})
    ask(client, "POST /v1/workspaces/{id}/keys", "key.create", ids={"id": workspace}, json=KEY)
    ask(client, "DELETE /v1/workspaces/{id}", "workspace.delete", ids={"id": workspace}, params={"name": "n"})
    # Asked for again, it only says how far it is.
    ask(client, "DELETE /v1/workspaces/{id}", None, ids={"id": workspace}, params={"name": "n"})
    workspace = ask(client, "POST /v1/workspaces", "workspace.create", json={"name": "m"}).json()["id"]
    ask(client, "POST /usage/{id}/delete", "workspace.delete", ids={"id": workspace}, data={"name": "m"})
    key = ask(client, "POST /v1/keys", "key.create", json=KEY).json()
    ids = {"key_id": key["id"]}
    ask(client, "POST /v1/keys/{key_id}/rotate", "key.rotate", ids=ids)
    ask(client, "DELETE /v1/keys/{key_id}", "key.revoke", ids=ids)

    ask(client, "POST /keys", "key.create", data={"name": "of a page", "scope.admin": "on", "days": "30"})
    ids = {"key_id": client.get("/v1/keys").json()["data"][0]["id"]}
    ask(client, "POST /keys/{key_id}/rotate", "key.rotate", ids=ids)
    ask(client, "POST /keys/{key_id}/revoke", "key.revoke", ids=ids)

    ask(client, "POST /models", "model.create", data=HUB)
    ask(client, "POST /models/{model_id}/delete", "model.delete", ids={"model_id": HUB["name"]})
    model = ask(client, "POST /v1/models", "model.create", json=HUB).json()["id"]
    ask(client, "DELETE /v1/models/{model_id}", "model.delete", ids={"model_id": model})
    lines = "".join(json.dumps({"instruction": f"Q {n}?", "output": f"A {n}."}) + "\n" for n in range(20))
    dataset = ask(client, "POST /v1/datasets", "dataset.create", params={"name": "d.jsonl"}, content=lines).json()["id"]
    ask(client, "DELETE /v1/datasets/{dataset_id}", "dataset.delete", ids={"dataset_id": dataset})
    dataset = ask(client, "POST /v1/datasets", "dataset.create", params={"name": "d.jsonl"}, content=lines).json()["id"]
    ask(client, "POST /datasets/{dataset_id}/delete", "dataset.delete", ids={"dataset_id": dataset})
    tus = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    for end in ("POST /v1/uploads/{upload_id}/dataset", "DELETE /v1/uploads/{upload_id}"):
        length = {"Upload-Length": str(len(lines.encode()))}
        upload = ask(client, "POST /v1/uploads", "upload.create", headers=tus | length).headers["location"]
        ids = {"upload_id": upload.rpartition("/")[2]}
        # The upload was recorded when it began; its parts would only be noise.
        ask(client, "PATCH /v1/uploads/{upload_id}", None, ids=ids, content=lines, headers=tus)
        ask(client, end, "dataset.create" if end.startswith("POST") else "upload.delete", ids=ids, headers=tus)
    items = [{"prompt": "Who?", "unwanted": "Them."}]
    probe = ask(client, "POST /v1/probes", "probe.create", json={"name": "p", "items": items}).json()["id"]
    ask(client, "DELETE /v1/probes/{probe_id}", "probe.delete", ids={"probe_id": probe})
    probe = ask(client, "POST /v1/probes", "probe.create", json={"name": "p", "items": items}).json()["id"]
    ask(client, "POST /probes/{probe_id}/delete", "probe.delete", ids={"probe_id": probe})

    with sessions.begin() as session:
        body = {
            "dataset_id": add_dataset(session, workspace_id),
            "probe_ids": [add_probe(session, workspace_id)],
            "model_id": add_model(session, workspace_id),
        }
        published = make_published(session, workspace_id).id
    ask(client, "POST /v1/audits/estimate", None, json=body)
    for api, delete in (("/v1", "DELETE /v1/audits/{audit_id}"), ("", "POST /audits/{audit_id}/delete")):
        ids = {"audit_id": ask(client, "POST /v1/audits", "audit.create", json=body).json()["id"]}
        ask(client, f"POST {api}/audits/{{audit_id}}/cancel", "audit.cancel", ids=ids)
        ask(client, f"POST {api}/audits/{{audit_id}}/retry", "audit.retry", ids=ids)
        ask(client, f"POST {api}/audits/{{audit_id}}/cancel", "audit.cancel", ids=ids)
        # Pages send a form, which is read as one whatever it holds.
        sent = {"json": {}} if api else {"data": {"mine": "true"}}
        ask(client, f"POST {api}/audits/cancel", "audit.cancel", **sent)
        ask(client, delete, "audit.delete", ids=ids)

    source = ask(client, "POST /v1/audits", "audit.create", json=body).json()["id"]
    typed = form_fields(Page(client.get("/audits/new", params={"copy": source}).text))
    ask(client, "POST /audits/new", None, data={**typed, "do": "check"})
    ask(client, "POST /audits/new", "audit.create", data={**typed, "do": "start"})

    ids = {"audit_id": published, "row": "3"}
    one = "/v1/audits/{audit_id}/findings/{row}/verdict"
    ask(client, f"PUT {one}", "verdict.set", ids=ids, json={"verdict": "confirmed", "note": "A secret remark."})
    ask(client, f"PUT {one}", None, ids=ids, json={"verdict": "confirmed", "note": "A secret remark."})
    ask(client, f"DELETE {one}", "verdict.withdraw", ids=ids)
    said = {"verdict": "unsure"}
    ask(client, "POST /audits/{audit_id}/findings/{row}/verdict", "verdict.set", ids=ids, data=said)
    many = {"filter": {"flagged": True}, "verdict": "confirmed"}
    bulk = "POST /v1/audits/{audit_id}/verdicts"
    token = ask(client, bulk, None, ids=ids, json={**many, "dry_run": True}).json()["token"]
    ids["bulk_id"] = ask(client, bulk, "verdict.bulk", ids=ids, json={**many, "token": token}).json()["id"]
    ask(client, f"{bulk}/bulks/{{bulk_id}}/undo", "verdict.bulk_undo", ids=ids)
    shown = Page(client.get(f"/audits/{published}/verdicts?flagged=true&said=rejected").text)
    form = {str(attrs["name"]): str(attrs["value"]) for attrs, _ in shown.all("input")}
    ask(client, "POST /audits/{audit_id}/verdicts", "verdict.bulk", ids=ids, data=form)
    ids["bulk_id"] = client.get(f"/v1/audits/{published}/verdicts/bulks?limit=1").json()["data"][0]["id"]
    ask(client, "POST /audits/{audit_id}/bulks/{bulk_id}/undo", "verdict.bulk_undo", ids=ids, data={"back": ""})

    ids["view_id"] = ask(client, "POST /v1/views", "view.create", json={"name": "v", "query": ""}).json()["id"]
    ask(client, "PATCH /v1/views/{view_id}", "view.update", ids=ids, json={"name": "w"})
    ask(client, "PATCH /v1/views/{view_id}", None, ids=ids, json={"name": "w"})
    ask(client, "POST /views/{view_id}/rename", "view.update", ids=ids, data={"name": "v"})
    ask(client, "DELETE /v1/views/{view_id}", "view.delete", ids=ids)
    ask(client, "POST /views", "view.create", data={"name": "v", "query": "flagged=true"})
    ids["view_id"] = client.get("/v1/views").json()["data"][0]["id"]
    ask(client, "POST /views/{view_id}/delete", "view.delete", ids=ids, data={"back": ""})

    create = "POST /v1/audits/{audit_id}/exports"
    ids["export_id"] = ask(client, create, "export.create", ids=ids, json={"kind": "scores"}).json()["id"]
    ask(client, "POST /audits/{audit_id}/exports", "export.create", ids=ids, data={"kind": "scores"})
    ask(client, "POST /v1/exports/{export_id}/cancel", "export.cancel", ids=ids)
    ask(client, "DELETE /v1/exports/{export_id}", "export.delete", ids=ids)

    person = ask(client, "POST /v1/users", "member.add", json={"email": "a@x.org", "role": "viewer"}).json()["id"]
    ids = {"user_id": person}
    ask(client, "PATCH /v1/users/{user_id}", "member.change", ids=ids, json={"role": "editor"})
    ask(client, "POST /v1/users/{user_id}/disable", "user.disable", ids=ids)
    ask(client, "POST /v1/users/{user_id}/enable", "user.enable", ids=ids)
    ask(client, "DELETE /v1/users/{user_id}", "member.remove", ids=ids)
    ask(client, "POST /people", "member.add", data={"email": "a@x.org", "role": "viewer"})
    ids = {"user_id": client.get("/v1/users").json()["data"][0]["id"]}
    ask(client, "POST /people/{user_id}/role", "member.change", ids=ids, data={"role": "reviewer"})
    ask(client, "POST /people/{user_id}/disable", "user.disable", ids=ids)
    ask(client, "POST /people/{user_id}/enable", "user.enable", ids=ids)
    ask(client, "POST /people/{user_id}/remove", "member.remove", ids=ids)

    with sessions.begin() as session:
        user = add_person(session, workspace_id, "editor", name="Ada")
        browser = open_browser_session(session, workspace_id=workspace_id, user_id=user, hours=1)
    recorder.look()
    anonymous_client.cookies.set(COOKIE, browser)
    switch = "POST /account/workspace"
    ask(anonymous_client, switch, "session.switch", data={"workspace": workspace_id}, headers=OURS)
    anonymous_client.cookies.clear()

    with sessions.begin() as session:
        made, secret = create_key(session, workspace_id=workspace_id, name="browser", scopes=["admin"])
        for _ in range(3):
            open_browser_session(session, workspace_id=workspace_id, key_id=made.id, hours=1)
        opened = session.scalars(select(BrowserSession.id).where(BrowserSession.key_id == made.id)).all()
    recorder.look()
    ask(client, "DELETE /v1/sessions/{session_id}", "session.end", ids={"session_id": opened[0]})
    ask(client, "POST /sessions/{session_id}/end", "session.end", ids={"session_id": opened[1]})
    ask(client, "POST /sessions/end-others", "session.end_others")
    ask(anonymous_client, "POST /sign-in", "session.create", data={"key": secret}, headers=OURS)
    ask(anonymous_client, "POST /sign-out", "session.end", headers=OURS)
    anonymous_client.cookies.set(COOKIE, "x" * 43)
    ask(anonymous_client, "POST /sign-out", None, headers=OURS)

    # Only a trusted proxy may ask this: tests/service/people/test_proxied.py does.
    recorder.asked.add("POST /sign-in/proxy")
    asked = {route.replace("{id}", "{workspace_id}") for route in recorder.asked}
    assert asked == changing_routes(app), "a route that changes something is not asked here"
    entries = client.get("/v1/audit-log?limit=1000").text
    for secret_text in (secret, key["secret"], "secret remark", "Question of row"):
        assert secret_text not in entries


def test_what_is_refused_or_taken_back_leaves_no_entry(client: TestClient, recorder: Recorder) -> None:
    assert client.delete("/v1/datasets/ds_none").status_code == 404
    assert client.post("/v1/probes", json={"name": "p", "items": []}).status_code == 422
    assert client.post("/v1/models", json=HUB).status_code == 201
    recorder.look()
    assert client.post("/v1/models", json=HUB).status_code == 409
    assert recorder.look() == []


def test_an_answer_that_is_replayed_was_one_change(client: TestClient, recorder: Recorder) -> None:
    body = {"name": "p", "items": [{"prompt": "Who?", "unwanted": "Them."}]}
    for _ in range(2):
        assert client.post("/v1/probes", json=body, headers={"Idempotency-Key": "once"}).status_code == 201
    assert [entry.action for entry in recorder.look()] == ["probe.create"]
