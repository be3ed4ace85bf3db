"""/v1/datasets on the real application, its database and its object store."""

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, make_url, select, text
from sqlalchemy.orm import Session, sessionmaker

from service.contract.spec import TrainingConfig
from service.lifecycle.audits import create_audit
from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.objects import dataset_key
from service.store.rows import RowNotFoundError, page, read_row, read_rows
from service.store.tables import Dataset
from tests.support.builders import add_model, add_probe
from tests.support.dataset_records import chat, chats, gzipped, jsonl, turn
from tests.support.upload_leftovers import assert_nothing_left

MIB = 2**20
Upload = Callable[..., Any]


@pytest.fixture
def upload(client: TestClient) -> Upload:
    def post(data: bytes, headers: dict[str, str] | None = None, **query: str) -> Any:
        return client.post("/v1/datasets", content=data, params=query, headers=headers)

    return post


@pytest.fixture
def nothing_left(settings: Settings, sessions: sessionmaker[Session]) -> Callable[[], None]:
    """Asserts that no row, no object, no unfinished file and no child is there."""

    return lambda: assert_nothing_left(settings, sessions)


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    body = answer.json()
    assert (answer.status_code, body.get("code")) == (status, code), body
    assert answer.headers["content-type"] == "application/problem+json"
    return body


def test_an_upload_is_kept_byte_for_byte_and_described(
    upload: Upload, client: TestClient, settings: Settings, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    data = gzipped(chats(30))
    answer = upload(data, name="../tea chats.jsonl")
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert answer.headers["location"] == f"/v1/datasets/{body['id']}"
    assert body | {"id": "", "created_at": ""} == {
        "object": "dataset",
        "id": "",
        "name": "../tea chats.jsonl",
        "format": "messages",
        "container": "jsonl",
        "encoding": "gzip",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "rows": 30,
        "columns": ["source"],
        "replaces_id": None,
        "created_at": "",
    }
    assert client.get(answer.headers["location"]).json() == body
    folder = settings.objects / dataset_key(workspace_id, body["id"])
    assert sorted(path.name for path in folder.iterdir()) == ["original", "rows.parquet"]
    assert (folder / "original").read_bytes() == data
    assert len(page(folder / "rows.parquet", None, 100)) == 30
    with sessions() as session:
        assert session.scalars(select(Dataset)).one().workspace_id == workspace_id


def test_gzip_may_be_declared_or_recognised(upload: Upload) -> None:
    data = gzip.compress(chats(3))
    for headers in ({}, {"Content-Encoding": "gzip"}, {"Content-Type": "application/gzip"}):
        assert upload(data, headers=headers).json()["encoding"] == "gzip"
    assert upload(chats(3)).json()["encoding"] == "identity"
    problem(upload(chats(3), headers={"Content-Encoding": "br"}), 415, "unsupported_content_encoding")


def test_without_a_name_a_dataset_is_called_by_its_id(upload: Upload) -> None:
    body = upload(chats(1)).json()
    assert body["name"] == body["id"]


@pytest.mark.parametrize(
    ("format", "record"),
    [
        ("messages", chat("Why?", "So.")),
        ("alpaca", {"instruction": "Why?", "input": "", "output": "So."}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}),
        ("prompt_completion", {"prompt": "Why?", "completion": "So."}),
    ],
)
def test_each_format_is_recognised_and_can_be_named(
    format: str, record: dict[str, Any], upload: Upload, client: TestClient
) -> None:
    for query in ({}, {"format": format}):
        body = upload(jsonl([record]), **query).json()
        assert body["format"] == format
        (row,) = client.get(f"/v1/datasets/{body['id']}/rows").json()["data"]
        assert row["messages"] == [turn("user", "Why?"), turn("assistant", "So.")]
    other = "alpaca" if format != "alpaca" else "messages"
    problem(upload(jsonl([record]), format=other), 422, "dataset_invalid")


@pytest.mark.parametrize(
    ("data", "query", "status", "code"),
    [
        (b"", {}, 422, "dataset_empty"),
        (b"\n\n", {}, 422, "dataset_empty"),
        (chats(3), {"format": "parquet"}, 422, "unknown_format"),
        (chats(3), {"name": "a\nb"}, 422, "invalid_request"),
        (chats(3), {"name": "n" * 201}, 422, "invalid_request"),
        (b'{"question": 1}', {}, 422, "format_not_recognised"),
        (chats(3) + b'{"messages": [', {}, 422, "dataset_invalid"),
        (gzipped(chats(30))[:-3], {}, 422, "gzip_truncated"),
        (gzipped(chats(30)) + b"junk", {}, 422, "gzip_corrupt"),
    ],
)
def test_bad_uploads_leave_nothing(
    data: bytes, query: dict[str, str], status: int, code: str, upload: Upload, nothing_left: Callable[[], None]
) -> None:
    problem(upload(data, **query), status, code)
    nothing_left()


def test_bad_lines_are_named_and_the_rest_counted(upload: Upload, nothing_left: Callable[[], None]) -> None:
    body = problem(upload(chats(16) + b'{"messages": [\n' + b"{}\n" * 119), 422, "dataset_invalid")
    assert len(body["errors"]) == 100
    assert body["errors"][0]["pointer"] == "line:17"
    assert body["errors"][1] == {"pointer": "line:18", "detail": "has no 'messages'"}
    assert "120 lines" in body["detail"]
    assert "20 more" in body["detail"]
    nothing_left()


class TestLimits:
    """Small limits of a server, and uploads just above them."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_upload_bytes": 200_000, "max_line_bytes": 2000, "max_dataset_rows": 50})

    def test_an_undeclared_length_is_counted(self, upload: Upload, nothing_left: Callable[[], None]) -> None:
        def body() -> Any:
            for _ in range(3):
                yield b" " * 1000 + b"\n" * 99_000

        problem(upload(body()), 413, "upload_too_large")
        nothing_left()

    def test_lines_rows_and_decompressed_bytes(self, upload: Upload, nothing_left: Callable[[], None]) -> None:
        body = problem(upload(chats(2) + jsonl([chat("x" * 2000)])), 422, "line_too_long")
        assert body["errors"][0]["pointer"] == "line:3"
        problem(upload(chats(51)), 413, "too_many_rows")
        problem(upload(gzipped(b"\n" * 200_001)), 413, "decompression_limit")
        nothing_left()


def test_a_parser_out_of_memory_is_an_answer(app: FastAPI, upload: Upload, nothing_left: Callable[[], None]) -> None:
    app.state.settings = app.state.settings.model_copy(update={"parser_memory_bytes": 512 * MIB})
    # 12 MiB of empty arrays take some 290 MiB, beside what the libraries take.
    nested = b'{"a": [' + b",".join([b"[]"] * (4 * MIB)) + b"]}"
    problem(upload(nested), 422, "parser_memory_limit")
    nothing_left()


def test_a_database_that_fails_at_the_end_leaves_no_objects(
    upload: Upload, sessions: sessionmaker[Session], nothing_left: Callable[[], None]
) -> None:
    with sessions.begin() as session:
        session.execute(text("ALTER TABLE datasets ADD CONSTRAINT never CHECK (rows < 0)"))
    assert upload(chats(3)).status_code == 500
    nothing_left()


def test_a_database_that_goes_away_during_an_upload_leaves_no_objects(
    upload: Upload, database_url: str, postgres_url: str, nothing_left: Callable[[], None]
) -> None:
    name = make_url(database_url).database
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")

    def allow(connections: str) -> None:
        with server.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {connections}"))
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
            connection.execute(text(query), {"name": name})

    def body() -> Any:
        yield chats(2000)
        allow("false")
        yield chats(2000)

    try:
        problem(upload(body()), 503, "database_unavailable")
    finally:
        allow("true")
        server.dispose()
    nothing_left()


class FullDisk(LocalObjects):
    """A folder on a disk that has no room for objects of one name."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root)
        self._name = name

    @contextmanager
    def create(self, key: str) -> Iterator[IO[bytes]]:
        with super().create(key) as file:
            if key.endswith(self._name):
                full = os.open("/dev/full", os.O_RDWR)
                os.dup2(full, file.fileno())
                os.close(full)
            yield file


@pytest.mark.parametrize("name", ["original", "rows.parquet"])
def test_a_full_disk_is_an_answer_and_leaves_nothing(
    name: str, app: FastAPI, upload: Upload, settings: Settings, nothing_left: Callable[[], None]
) -> None:
    app.state.objects = FullDisk(settings.objects, name)
    for rows in (3, 30_000):
        problem(upload(chats(rows)), 507, "storage_full")
        nothing_left()


def test_datasets_are_listed_newest_first_by_pages(upload: Upload, client: TestClient) -> None:
    ids = [upload(chats(1), name=f"number {number}").json()["id"] for number in range(3)]
    first = client.get("/v1/datasets", params={"limit": 2})
    assert [entry["id"] for entry in first.json()["data"]] == ids[:0:-1]
    assert first.json()["has_more"]
    assert 'rel="next"' in first.headers["link"]
    second = client.get("/v1/datasets", params={"limit": 2, "after": first.json()["next_after"]}).json()
    assert [entry["id"] for entry in second["data"]] == ids[:1]
    assert not second["has_more"]


def test_rows_come_in_pages_across_row_groups(upload: Upload, client: TestClient) -> None:
    total = 9000
    identity = upload(chats(total)).json()["id"]
    after, seen = None, []
    while True:
        query = {"limit": 1000} | ({"after": after} if after else {})
        body = client.get(f"/v1/datasets/{identity}/rows", params=query).json()
        seen += body["data"]
        if not body["has_more"]:
            break
        after = body["next_after"]
    assert [row["row"] for row in seen] == list(range(total))
    assert seen[8191] == {
        "object": "dataset.row",
        "row": 8191,
        "messages": [turn("user", "Question 8191?"), turn("assistant", "Answer 8191.")],
        "extra": {"source": "b"},
    }
    problem(client.get(f"/v1/datasets/{identity}/rows", params={"after": "x"}), 422, "invalid_cursor")


def test_a_page_of_long_rows_ends_early_and_goes_on(upload: Upload, client: TestClient) -> None:
    identity = upload(jsonl([chat("x" * 6_000_000), chat("y" * 6_000_000), chat("z")])).json()["id"]
    first = client.get(f"/v1/datasets/{identity}/rows").json()
    assert [row["row"] for row in first["data"]] == [0, 1]
    assert first["has_more"]
    rest = client.get(f"/v1/datasets/{identity}/rows", params={"after": first["next_after"]}).json()
    assert [row["row"] for row in rest["data"]] == [2]
    assert not rest["has_more"]


def test_the_store_reads_rows_by_number(upload: Upload, settings: Settings, workspace_id: str) -> None:
    identity = upload(chats(9000)).json()["id"]
    with (settings.objects / dataset_key(workspace_id, identity, "rows.parquet")).open("rb") as file:
        assert [row["row"] for row in read_rows(file, [8999, 0, 4096, 4095, 0])] == [8999, 0, 4096, 4095, 0]
        assert read_row(file, 4096)["messages"][0]["content"] == "Question 4096?"
        assert read_rows(file, []) == []
        assert page(file, 8999, 10) == []
        for missing in (9000, -1):
            with pytest.raises(RowNotFoundError, match=str(missing)):
                read_row(file, missing)


def test_statistics_are_kept_with_the_dataset(upload: Upload, client: TestClient) -> None:
    identity = upload(chats(40) + chats(5)).json()["id"]
    body = client.get(f"/v1/datasets/{identity}/statistics").json()
    assert (body["dataset_id"], body["rows"], body["exact_duplicates"]) == (identity, 45, 5)
    assert body["roles"] == {"user": 45, "assistant": 45}
    assert body["columns"] == [
        {
            "name": "source",
            "rows": 45,
            "distinct": 2,
            "values": [{"value": "a", "rows": 23}, {"value": "b", "rows": 22}],
        }
    ]


def test_extra_columns_of_any_json_come_back(upload: Upload, client: TestClient) -> None:
    extra = {"big": 10**30, "deep": {"a": [1.5, None, {"é": "\u202e"}]}, "flag": True}
    identity = upload(jsonl([chat(**extra)])).json()["id"]
    answer = client.get(f"/v1/datasets/{identity}/rows")
    assert json.loads(answer.content)["data"][0]["extra"] == extra


def test_deleting_removes_row_and_objects(upload: Upload, client: TestClient, nothing_left: Callable[[], None]) -> None:
    identity = upload(chats(3)).json()["id"]
    assert client.delete(f"/v1/datasets/{identity}").status_code == 204
    nothing_left()
    for answer in (client.get(f"/v1/datasets/{identity}"), client.delete(f"/v1/datasets/{identity}")):
        problem(answer, 404, "dataset_not_found")


def test_a_dataset_under_an_audit_stays(
    upload: Upload, client: TestClient, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    identity = upload(chats(30)).json()["id"]
    with sessions.begin() as session:
        create_audit(
            session,
            workspace_id=workspace_id,
            dataset_id=identity,
            probe_ids=[add_probe(session, workspace_id)],
            model_id=add_model(session, workspace_id),
            training=TrainingConfig(),
            q=0.05,
        )
    problem(client.delete(f"/v1/datasets/{identity}"), 409, "dataset_in_use")
    assert len(client.get(f"/v1/datasets/{identity}/rows").json()["data"]) == 30


def test_another_workspace_sees_nothing(
    upload: Upload, make_client: Callable[..., TestClient], other_workspace_id: str, client: TestClient
) -> None:
    identity = upload(chats(3)).json()["id"]
    stranger = make_client("admin", workspace=other_workspace_id)
    assert stranger.get("/v1/datasets").json()["data"] == []
    for path in ("", "/rows", "/statistics", "/validation", "/content"):
        problem(stranger.get(f"/v1/datasets/{identity}{path}"), 404, "dataset_not_found")
    problem(stranger.delete(f"/v1/datasets/{identity}"), 404, "dataset_not_found")
    assert client.get(f"/v1/datasets/{identity}").status_code == 200


def test_who_may_do_what(make_client: Callable[..., TestClient], anonymous_client: TestClient, upload: Upload) -> None:
    identity = upload(chats(3)).json()["id"]
    writer, other = make_client("datasets:write"), make_client("audits:write", "findings:read", "verdicts:write")
    for path in ("", f"/{identity}", f"/{identity}/rows", f"/{identity}/statistics", f"/{identity}/content"):
        assert other.get(f"/v1/datasets{path}").status_code == 200
        problem(anonymous_client.get(f"/v1/datasets{path}"), 401, "unauthenticated")
    for client, status, code in ((other, 403, "scope_missing"), (anonymous_client, 401, "unauthenticated")):
        problem(client.post("/v1/datasets", content=chats(1)), status, code)
        problem(client.delete(f"/v1/datasets/{identity}"), status, code)
    assert writer.post("/v1/datasets", content=chats(1)).status_code == 201
    assert writer.delete(f"/v1/datasets/{identity}").status_code == 204


def test_objects_are_private(upload: Upload, settings: Settings, workspace_id: str) -> None:
    identity = upload(chats(1)).json()["id"]
    for path in [settings.objects, *Path(settings.objects / dataset_key(workspace_id, identity)).iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path
