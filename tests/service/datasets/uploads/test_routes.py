"""/v1/uploads on the real application: the protocol's rules, limits, and what becomes of an upload."""

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient

from service.app import create_app
from service.datasets import upload as upload_module
from service.datasets.uploads import finishing
from service.datasets.uploads import parts as parts_module
from service.datasets.uploads.parts import Kept, Parts
from service.datasets.uploads.queries import find_upload
from service.errors import TimedOutError, TooLargeError
from service.lifecycle.purging import purge_due
from service.principal import Principal
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.tables import AuditLogEntry, Dataset, Upload, UploadPart
from tests.support.dataset_records import chats, jsonl
from tests.support.waiting import wait_for

Sessions = sessionmaker[Session]
TUS = {"Tus-Resumable": "1.0.0"}
DATA = chats(30)


def begin(client: TestClient, size: int = len(DATA), **metadata: str) -> Any:
    pairs = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in metadata.items())
    headers = {**TUS, "Upload-Length": str(size), **({"Upload-Metadata": pairs} if pairs else {})}
    return client.post("/v1/uploads", headers=headers)


def begun(client: TestClient, size: int = len(DATA), **metadata: str) -> str:
    answer = begin(client, size, **metadata)
    assert (answer.status_code, answer.content) == (201, b""), answer.text
    return str(answer.headers["location"])


def send(client: TestClient, at: str, data: bytes, offset: int = 0, **headers: str) -> Any:
    given = {**TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream", **headers}
    return client.patch(at, content=data, headers=given)


def whole(client: TestClient, data: bytes, **metadata: str) -> str:
    at = begun(client, len(data), **metadata)
    assert send(client, at, data).status_code == 204
    return at


def refused(answer: Any, status: int, code: str) -> Any:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["tus-resumable"] == "1.0.0"
    return answer.json()


def files(settings: Settings) -> list[str]:
    return sorted(str(path) for path in settings.objects.rglob("*") if path.is_file())


@pytest.fixture
def purge(settings: Settings, sessions: Sessions) -> Callable[[], object]:
    return lambda: purge_due(sessions, LocalObjects(settings.objects), seconds=10)


def test_what_is_spoken_here(client: TestClient, settings: Settings) -> None:
    answer = client.options("/v1/uploads")
    assert answer.status_code == 204
    headers = {name: value for name, value in answer.headers.items() if name.startswith("tus-")}
    assert headers == {
        "tus-resumable": "1.0.0",
        "tus-version": "1.0.0",
        "tus-extension": "creation,expiration,termination",
        "tus-max-size": str(settings.max_upload_bytes),
    }


def test_parts_become_a_dataset_as_a_whole_body_does(
    client: TestClient, settings: Settings, sessions: Sessions, purge: Callable[[], object]
) -> None:
    data = gzip.compress(DATA)
    at = begun(client, len(data), filename="tea\nchats.jsonl", filetype="text/plain")
    head = client.head(at, headers=TUS)
    assert (head.headers["upload-offset"], head.headers["upload-length"]) == ("0", str(len(data)))
    assert head.headers["cache-control"] == "no-store"
    assert head.headers["upload-expires"].endswith(" GMT")
    assert head.headers["upload-metadata"].startswith("filename ")
    for start in range(0, len(data), 100):
        answer = send(client, at, data[start : start + 100], start)
        assert (answer.status_code, answer.headers["tus-resumable"]) == (204, "1.0.0"), answer.text
        assert answer.headers["upload-offset"] == str(min(start + 100, len(data)))
    made = client.post(f"{at}/dataset")
    assert made.status_code == 201, made.text
    once = client.post("/v1/datasets", content=data, params={"name": "teachats.jsonl"}).json()
    assert made.json() | {"id": "", "created_at": ""} == once | {"id": "", "created_at": ""}
    assert made.headers["location"] == f"/v1/datasets/{made.json()['id']}"
    purge()
    assert all("/uploads/" not in name for name in files(settings))
    again = client.post(f"{at}/dataset")
    assert (again.status_code, again.json()) == (201, made.json())
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Dataset)) == 2
        recorded = session.scalars(select(AuditLogEntry.action).order_by(AuditLogEntry.id)).all()
    assert recorded == ["upload.create", "dataset.create", "dataset.create"]
    assert client.delete(made.headers["location"]).status_code == 204
    assert client.head(at, headers=TUS).status_code == 404


def test_the_rules_of_the_protocol(client: TestClient) -> None:
    at = begun(client)
    for answer in (
        client.post("/v1/uploads", headers={"Upload-Length": "10"}),
        send(client, at, b"x", **{"Tus-Resumable": "0.2.2"}),
        client.delete(at),
    ):
        refused(answer, 412, "tus_version")
        assert answer.headers["tus-version"] == "1.0.0"
    for length in ("", "-1", "1.5", "ten", "1" * 30):
        problem = refused(client.post("/v1/uploads", headers={**TUS, "Upload-Length": length}), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == "header:upload-length"
    for metadata in ("filename ***", "filename " + "a" * 5000):
        headers = {**TUS, "Upload-Length": "1", "Upload-Metadata": metadata}
        refused(client.post("/v1/uploads", headers=headers), 422, "invalid_request")
    refused(send(client, at, b"x", **{"Content-Type": "application/octet-stream"}), 415, "unsupported_media_type")
    refused(send(client, at, b"x", 1), 409, "upload_offset")
    assert send(client, at, DATA[:100]).status_code == 204
    refused(send(client, at, DATA[:100]), 409, "upload_offset")
    refused(send(client, at, DATA, 100), 413, "upload_too_large")
    assert client.head(at, headers=TUS).headers["upload-offset"] == "100"
    assert send(client, at, b"", 100).headers["upload-offset"] == "100"
    assert client.delete(at, headers=TUS).status_code == 204
    for answer in (send(client, at, b"x", 100), client.delete(at, headers=TUS), client.post(f"{at}/dataset")):
        assert (answer.status_code, answer.json()["code"]) == (404, "upload_not_found")


Take = Callable[[str, AsyncIterator[bytes]], None]


@pytest.fixture
def take(app: FastAPI, client: TestClient, sessions: Sessions, settings: Settings, workspace_id: str) -> Take:
    """Brings the next bytes of an upload in just these chunks, as no client can be made to."""
    principal = Principal(workspace_id=workspace_id, key_id="key_x", scopes=frozenset({"admin"}))

    async def run(at: str, chunks: AsyncIterator[bytes]) -> None:
        with sessions() as session:
            upload = find_upload(session, principal, at.rpartition("/")[2])
        await Parts(
            upload.id,
            Kept(upload.received, upload.expires_at),
            upload.bytes,
            objects=app.state.objects,
            settings=settings,
            transactions=app.state.transactions,
            principal=principal,
        ).take(chunks)

    assert client.portal is not None
    return partial(client.portal.call, run)


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 77):
        yield data[start : start + 77]


def test_a_long_part_is_kept_in_pieces_and_more_than_its_length_is_refused(
    client: TestClient, take: Take, monkeypatch: pytest.MonkeyPatch, sessions: Sessions
) -> None:
    monkeypatch.setattr(parts_module, "PART_BYTES", 1000)
    monkeypatch.setattr(parts_module, "BUFFER_BYTES", 100)
    at = begun(client)
    take(at, in_pieces(DATA[:2500]))
    with sessions() as session:
        sizes = session.scalars(select(UploadPart.bytes).order_by(UploadPart.start)).all()
    assert sum(sizes) == 2500
    assert len(sizes) == 3
    with pytest.raises(TooLargeError):
        take(at, in_pieces(DATA[2500:] + b"more"))
    kept = int(client.head(at, headers=TUS).headers["upload-offset"])
    assert 2500 < kept < len(DATA)
    take(at, in_pieces(DATA[kept:]))
    made = client.post(f"{at}/dataset").json()
    assert client.get(f"/v1/datasets/{made['id']}/content").content == DATA


def test_two_requests_with_the_same_bytes_keep_them_once(
    client: TestClient, sessions: Sessions, settings: Settings
) -> None:
    at = begun(client)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: send(client, at, DATA), range(3)))
    assert sorted(answer.status_code for answer in answers) == [204, 409, 409]
    assert len(files(settings)) == 1
    assert client.post(f"{at}/dataset").status_code == 201


@pytest.mark.parametrize("how", ["gone", "silent"])
def test_what_had_come_before_the_end_of_a_connection_is_kept(
    how: str, client: TestClient, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module, "IDLE_SECONDS", 0.3)
    at = begun(client)

    async def chunks() -> AsyncIterator[bytes]:
        yield DATA[:300]
        yield DATA[300:500]
        if how == "gone":
            raise ClientDisconnect
        await asyncio.Event().wait()

    with pytest.raises(ClientDisconnect if how == "gone" else TimedOutError):
        take(at, chunks())
    assert client.head(at, headers=TUS).headers["upload-offset"] == "500"
    assert send(client, at, DATA[500:], 500).status_code == 204
    assert client.post(f"{at}/dataset").json()["rows"] == 30


def test_a_refused_file_may_be_read_in_another_form(
    client: TestClient, sessions: Sessions, settings: Settings, purge: Callable[[], object]
) -> None:
    at = whole(client, jsonl({"question": f"Why {n}?", "said": "So."} for n in range(20)))
    problem = client.post(f"{at}/dataset")
    assert (problem.status_code, problem.json()["code"]) == (422, "format_not_recognised")
    same = client.post(f"{at}/dataset").json()
    assert {**same, "request_id": ""} == {**problem.json(), "request_id": ""}
    named = {"prompt_column": "question", "answer_column": "said", "name": "own"}
    made = client.post(f"{at}/dataset", params=named)
    assert (made.status_code, made.json()["name"]) == (201, "own"), made.text

    bad = whole(client, DATA + b'{"messages": []}\n')
    answer = client.post(f"{bad}/dataset").json()
    assert (answer["code"], answer["errors"][0]["pointer"]) == ("dataset_invalid", "line:31")
    assert client.delete(bad, headers=TUS).status_code == 204
    purge()
    assert all("/uploads/" not in name for name in files(settings))
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Dataset)) == 1


def test_what_it_replaces_is_said_at_the_end_and_may_be_corrected(client: TestClient) -> None:
    first = client.post("/v1/datasets", content=DATA).json()["id"]
    at = whole(client, DATA)
    answer = client.post(f"{at}/dataset", params={"replaces": "ds_none"})
    assert (answer.status_code, answer.json()["code"]) == (422, "dataset_not_found")
    made = client.post(f"{at}/dataset", params={"replaces": first})
    assert (made.status_code, made.json()["replaces_id"]) == (201, first)


def test_one_makes_the_dataset_and_others_wait_for_it(client: TestClient, sessions: Sessions) -> None:
    at = whole(client, chats(3000))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post(f"{at}/dataset"), range(4)))
    assert {(answer.status_code, answer.json()["id"]) for answer in answers} == {(201, answers[0].json()["id"])}
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Dataset)) == 1


def test_a_request_does_not_wait_for_ever(
    client: TestClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "WAIT_SECONDS", 0.0)
    at = whole(client, DATA)
    statuses = []
    while (answer := client.post(f"{at}/dataset")).status_code == 202:
        assert answer.headers["retry-after"] == "1"
        statuses.append(answer.status_code)
        monkeypatch.setattr(finishing, "WAIT_SECONDS", 20.0)
    assert answer.status_code == 201, answer.text
    assert statuses == [202]


def test_a_process_that_died_while_it_made_the_dataset_is_not_waited_for_long(
    client: TestClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = whole(client, DATA)
    with sessions.begin() as session:
        session.scalars(select(Upload)).one().finishing_until = func.clock_timestamp() + text("interval '1 second'")
    refused(client.delete(at, headers=TUS), 409, "upload_being_finished")
    assert client.post(f"{at}/dataset").status_code == 201


def test_a_process_that_ends_gives_the_upload_back(
    settings: Settings,
    make_client: Callable[..., TestClient],
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    workspace_id: str,
) -> None:
    monkeypatch.setattr(finishing, "WAIT_SECONDS", 0.0)
    secret = make_client("datasets:write").headers["Authorization"]
    with TestClient(create_app(settings), base_url="http://127.0.0.1", headers={"Authorization": secret}) as client:
        at = whole(client, chats(20_000))
        assert client.post(f"{at}/dataset").status_code == 202
    with sessions() as session:
        upload = session.scalars(select(Upload)).one()
        made = session.scalars(select(Dataset.id)).all()
    assert upload.finishing_until is None
    # It may just have been done.
    assert made == ([] if upload.dataset_id is None else [upload.dataset_id])
    assert [path.name for path in settings.objects.glob(f"{workspace_id}/datasets/*")] == made


def test_limits_and_quotas(settings: Settings, make_client: Callable[..., TestClient], sessions: Sessions) -> None:
    size = len(DATA)
    tight = settings.model_copy(
        update={"max_upload_bytes": 2 * size, "max_workspace_bytes": 3 * size, "max_workspace_uploads": 2}
    )
    secret = make_client("datasets:write").headers["Authorization"]
    with TestClient(create_app(tight), base_url="http://127.0.0.1", headers={"Authorization": secret}) as client:
        refused(begin(client, 2 * size + 1), 413, "upload_too_large")
        first = begun(client, 2 * size)
        # Its bytes are spoken for, whether they have come or not.
        refused(begin(client, size + 1), 507, "storage_quota")
        assert client.post("/v1/datasets", content=DATA + DATA).json()["code"] == "storage_quota"
        second = begun(client, 10)
        refused(begin(client, 10), 409, "upload_quota")
        assert client.delete(second, headers=TUS).status_code == 204
        assert send(client, first, DATA + DATA).status_code == 204
        assert client.post(f"{first}/dataset").status_code == 201
        assert begin(client, size).status_code == 201


def test_places_are_shared_with_whole_uploads(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    at = begun(client)

    async def fill() -> None:
        for _ in range(4):
            upload_module.upload_places().take(place_of)

    with client.app.state.sessions() as session:  # type: ignore[attr-defined]
        place_of = session.scalars(select(Upload.workspace_id)).one()
    assert client.portal is not None
    client.portal.call(fill)
    answer = send(client, at, DATA)
    refused(answer, 503, "upload_share_taken")
    assert answer.headers["retry-after"] == "10"


def test_what_nobody_goes_on_with_is_swept(client: TestClient, settings: Settings, sessions: Sessions) -> None:
    old, young = begun(client), begun(client)
    for at in (old, young):
        assert send(client, at, DATA[:100]).status_code == 204
    assert len(files(settings)) == 2
    with sessions.begin() as session:
        upload = session.get_one(Upload, old.rpartition("/")[2])
        assert 23.9 < (upload.expires_at - upload.created_at).total_seconds() / 3600 < 24.1
        upload.expires_at = upload.created_at
    assert client.head(old, headers=TUS).status_code == 404
    # The application's own reconciler does it.
    wait_for(lambda: not [name for name in files(settings) if old.rpartition("/")[2] in name], seconds=30)
    assert client.head(young, headers=TUS).headers["upload-offset"] == "100"
    with sessions() as session:
        assert session.scalars(select(Upload.id)).all() == [young.rpartition("/")[2]]


def test_each_request_needs_the_scope_and_the_workspace(
    client: TestClient, make_client: Callable[..., TestClient], other_workspace_id: str
) -> None:
    at = whole(client, DATA)
    reader, stranger = make_client("findings:read"), make_client("datasets:write", workspace=other_workspace_id)
    acts: list[Callable[[TestClient], Any]] = [
        lambda one: one.head(at, headers=TUS),
        lambda one: send(one, at, b"x", len(DATA)),
        lambda one: one.post(f"{at}/dataset"),
        lambda one: one.delete(at, headers=TUS),
    ]
    assert [act(reader).status_code for act in acts] == [403] * 4
    assert [act(stranger).status_code for act in acts] == [404] * 4
    assert begin(reader).status_code == 403
    assert client.post(f"{at}/dataset").status_code == 201
