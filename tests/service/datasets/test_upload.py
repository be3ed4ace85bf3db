"""Uploads against a real server process: who is refused when, what is left behind, what it costs."""

import asyncio
import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session, sessionmaker

from service.datasets import upload as upload_module
from service.datasets.intake import Form
from service.datasets.upload import CONCURRENT_UPLOADS, receive_dataset
from service.errors import TimedOutError
from service.keys.secrets import create_key
from service.principal import Principal
from service.settings import Settings
from service.store.tables import Dataset
from tests.support.dataset_records import chats

MIB = 2**20
PATIENCE = 60.0
"""Seconds for what happens in a moment on an idle machine."""

POOL = 4


@dataclass
class Server:
    """A running API process, and a key for it."""

    process: psutil.Process
    address: tuple[str, int]
    key: str
    data_dir: Path
    connections: list[http.client.HTTPConnection] = field(default_factory=list)

    def parsers(self) -> list[psutil.Process]:
        return [
            child
            for child in self.process.children(recursive=True)
            if "service.datasets.parsing.parser" in command(child)
        ]

    def files(self) -> list[Path]:
        return [path for path in self.data_dir.rglob("*") if path.is_file()]

    def begin(self, *, key: str | None = None, length: int | None = None) -> http.client.HTTPConnection:
        """Sends the head of an upload; chunked where no length is given."""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        self.connections.append(connection)
        connection.putrequest("POST", "/v1/datasets")
        if key is not None:
            connection.putheader("Authorization", f"Bearer {key}")
        if length is None:
            connection.putheader("Transfer-Encoding", "chunked")
        else:
            connection.putheader("Content-Length", str(length))
        connection.endheaders()
        return connection

    def get(self, path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.key}"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie too
        return ["service.datasets.parsing.parser"] if process.is_running() else []


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def send_all(connection: http.client.HTTPConnection, pieces: Iterable[bytes]) -> tuple[int, http.client.HTTPResponse]:
    """Sends chunks until all are sent or the server hangs up; the bytes sent, and the answer."""
    sent = 0
    try:
        for piece in pieces:
            connection.send(chunk(piece))
            sent += len(piece)
        connection.send(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass
    return sent, connection.getresponse()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def key(sessions: sessionmaker[Session], workspace_id: str) -> str:
    with sessions.begin() as session:
        return create_key(session, workspace_id=workspace_id, name="test", scopes=["datasets:write"])[1]


@pytest.fixture
def other_key(sessions: sessionmaker[Session], other_workspace_id: str) -> str:
    """Of another tenant."""
    with sessions.begin() as session:
        return create_key(session, workspace_id=other_workspace_id, name="test", scopes=["datasets:write"])[1]


@pytest.fixture
def server(settings: Settings, key: str) -> Iterator[Server]:
    """The API as `finetooth up` runs it, on few database connections."""
    assert settings.database_url is not None
    assert settings.broker_url is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.local.api", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env=os.environ
            | {
                "FINETOOTH_DATABASE_URL": settings.database_url.get_secret_value(),
                "FINETOOTH_BROKER_URL": settings.broker_url.get_secret_value(),
                "FINETOOTH_DATA_DIR": str(settings.data_dir),
                "FINETOOTH_DATABASE_POOL_SIZE": str(POOL),
                "ANYTHING_SECRET": "swordfish",
            },
        )
        server = Server(psutil.Process(process.pid), listener.getsockname(), key, settings.data_dir)
        try:
            assert server.get("/v1/datasets")[0] == 200
            yield server
        finally:
            for connection in server.connections:
                connection.close()
            process.terminate()
            process.wait(PATIENCE)
    assert psutil.pids().count(process.pid) == 0


def rows(sessions: sessionmaker[Session]) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(Dataset)) or 0


def test_an_upload_without_a_key_is_cut_at_its_beginning(server: Server) -> None:
    for key, status in ((None, 401), ("ft_" + "0" * 28, 401)):
        sent, answer = send_all(server.begin(key=key), (b"x" * MIB for _ in range(200)))
        assert answer.status == status
        assert answer.getheader("Content-Type") == "application/problem+json"
        assert sent < 50 * MIB, "no more than the sockets' buffers hold"
        assert server.parsers() == server.files() == []


def test_a_client_that_goes_away_leaves_nothing(server: Server, sessions: sessionmaker[Session]) -> None:
    for length in (None, 50 * MIB):
        connection = server.begin(key=server.key, length=length)
        data = chats(20_000)
        connection.send(chunk(data) if length is None else data)
        wait_until(lambda: len(server.parsers()) == 1 and len(server.files()) == 2)
        connection.close()
        wait_until(lambda: not server.parsers() and not server.files())
    assert rows(sessions) == 0
    assert list((server.data_dir / "objects").glob("*/datasets/*")) == []
    assert server.get("/v1/datasets")[1]["data"] == []


def test_a_client_that_goes_away_while_its_upload_is_parsed_ends_the_parser(server: Server) -> None:
    connection = server.begin(key=server.key)
    connection.send(chunk(chats(3)))
    wait_until(server.parsers)
    (parser,) = server.parsers()
    parser.suspend()  # as one that a trap keeps busy
    connection.send(b"0\r\n\r\n")
    connection.close()
    wait_until(lambda: not server.parsers() and not server.files())


def test_one_workspace_leaves_half_of_the_uploads_to_others(server: Server, other_key: str) -> None:
    uploads = [server.begin(key=server.key) for _ in range(CONCURRENT_UPLOADS // 2)]
    for connection in uploads:
        connection.send(chunk(chats(3)))
    wait_until(lambda: len(server.parsers()) == len(uploads))
    _, refused = send_all(server.begin(key=server.key), [chats(3)])
    assert (refused.status, json.loads(refused.read())["code"]) == (503, "upload_share_taken")
    _, taken = send_all(server.begin(key=other_key), [chats(3)])
    assert taken.status == 201


def test_slow_uploads_hold_no_connection_and_no_thread(server: Server, other_key: str, engine: Engine) -> None:
    uploads = [server.begin(key=key) for key in (server.key, other_key) for _ in range(CONCURRENT_UPLOADS // 2)]
    assert len(uploads) > POOL
    for connection in uploads:
        connection.send(chunk(chats(3)))
    wait_until(lambda: len(server.parsers()) == len(uploads))

    _, answer = send_all(server.begin(key=server.key), [chats(3)])
    assert (answer.status, answer.getheader("Retry-After")) == (503, "10")
    assert json.loads(answer.read())["code"] == "too_many_uploads"
    for _ in range(3 * POOL):
        assert server.get("/v1/datasets") == (
            200,
            {"object": "list", "data": [], "has_more": False, "next_after": None},
        )
    with engine.connect() as connection:
        open_transactions = connection.scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'finetooth-api' AND xact_start IS NOT NULL"
            )
        )
    assert open_transactions == 0

    for upload in uploads:
        upload.send(chunk(chats(5)) + b"0\r\n\r\n")
        answer = upload.getresponse()
        assert answer.status == 201
        assert json.loads(answer.read())["rows"] == 8
    assert server.parsers() == []


class Peak:
    """The most memory that the server and its parsers have, sampled in a thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = server.process.memory_info().rss
        self.server = self.parser = 0

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.server = max(self.server, self._server.process.memory_info().rss)
            for parser in self._server.parsers():
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.parser = max(self.parser, parser.memory_info().rss)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_giants_are_refused_early_and_cost_little_memory(server: Server, sessions: sessionmaker[Session]) -> None:
    zeros = gzip.compress(bytes(64 * MIB))
    line = [b'{"messages": "'] + [b"x" * MIB] * 200
    bomb = [zeros] * (100 * MIB // len(zeros))
    for pieces, status, code in ((line, 422, "line_too_long"), (bomb, 413, "decompression_limit")):
        with Peak(server) as peak:
            sent, answer = send_all(server.begin(key=server.key), pieces)
        body = json.loads(answer.read())
        assert (answer.status, body["code"]) == (status, code)
        assert sent < 80 * MIB
        assert peak.server - peak.before < 50 * MIB
        assert 0 < peak.parser < 250 * MIB
        wait_until(lambda: not server.parsers() and not server.files())
    assert rows(sessions) == 0


def test_the_parser_is_limited_and_without_secrets(server: Server, settings: Settings) -> None:
    connection = server.begin(key=server.key)
    connection.send(chunk(chats(3)))
    wait_until(lambda: [p for p in server.parsers() if p.rlimit(psutil.RLIMIT_CORE) == (0, 0)])
    (parser,) = server.parsers()
    assert parser.rlimit(psutil.RLIMIT_AS) == (settings.parser_memory_bytes, settings.parser_memory_bytes)
    assert 0 < parser.rlimit(psutil.RLIMIT_CPU)[0] < 10**6
    assert os.getsid(parser.pid) == parser.pid
    assert parser.net_connections() == []
    environment = parser.environ()
    assert "swordfish" not in environment.values()
    assert not [name for name in environment if name.startswith("FINETOOTH_")]
    connection.send(b"0\r\n\r\n")
    assert connection.getresponse().status == 201
    assert not psutil.pid_exists(parser.pid)


@pytest.mark.parametrize(
    ("by", "code"),
    [
        (signal.SIGKILL, "parser_memory_limit"),
        (signal.SIGABRT, "parser_crashed"),
        (signal.SIGSEGV, "parser_crashed"),
        (signal.SIGBUS, "parser_crashed"),
        (signal.SIGXCPU, "parser_time_limit"),
    ],
)
def test_a_parser_that_dies_is_an_answer(server: Server, by: signal.Signals, code: str) -> None:
    connection = server.begin(key=server.key)
    connection.send(chunk(chats(3)))
    wait_until(server.parsers)
    server.parsers()[0].send_signal(by)
    _, answer = send_all(connection, [chats(3)])
    assert json.loads(answer.read())["code"] == code
    assert server.parsers() == server.files() == []


def test_a_declared_length_is_refused_before_a_byte_is_read(server: Server, settings: Settings) -> None:
    answer = server.begin(key=server.key, length=settings.max_upload_bytes + 1).getresponse()
    assert (answer.status, answer.getheader("Connection")) == (413, "close")
    assert json.loads(answer.read())["code"] == "upload_too_large"
    assert server.parsers() == server.files() == []


# ---------------------------------------------------------------- in this process: time and cancellation


@pytest.fixture
def receive(app: FastAPI, workspace_id: str) -> Callable[[AsyncIterator[bytes]], Any]:
    return partial(
        receive_dataset,
        gone=asyncio.Event().wait,
        objects=app.state.objects,
        settings=app.state.settings,
        transactions=app.state.transactions,
        principal=Principal(workspace_id=workspace_id, key_id="key_1", scopes=frozenset({"admin"})),
        name=None,
        form=Form(),
        request_id=None,
    )


async def stalled() -> AsyncIterator[bytes]:
    yield chats(3)
    await asyncio.sleep(10 * PATIENCE)
    yield b""


def test_an_upload_that_stalls_is_dropped(
    receive: Callable[..., Any], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module, "IDLE_SECONDS", 0.5)
    with pytest.raises(TimedOutError, match="upload_stalled"):
        asyncio.run(receive(stalled()))
    assert [path for path in settings.data_dir.rglob("*") if path.is_file()] == []


async def trickling() -> AsyncIterator[bytes]:
    for line in chats(200).splitlines(keepends=True):
        yield line
        await asyncio.sleep(0.1)


def test_an_upload_that_trickles_is_dropped(
    receive: Callable[..., Any], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module, "IDLE_SECONDS", 0.5)
    with pytest.raises(TimedOutError, match="upload_too_slow"):
        asyncio.run(receive(trickling()))
    assert [path for path in settings.data_dir.rglob("*") if path.is_file()] == []


async def whole() -> AsyncIterator[bytes]:
    yield chats(3)


@pytest.mark.parametrize("chunks", [stalled, whole])
def test_a_cancelled_upload_leaves_nothing(
    chunks: Callable[[], AsyncIterator[bytes]],
    receive: Callable[..., Any],
    settings: Settings,
    sessions: sessionmaker[Session],
) -> None:
    # Children of earlier tests may have ended without being waited for.
    earlier = psutil.Process().children()

    async def cancel_when_parsing() -> None:
        task = asyncio.create_task(receive(chunks()))
        while not (parsers := parsers_of(psutil.Process(), earlier)):
            await asyncio.sleep(0.05)
        parsers[0].suspend()
        await asyncio.sleep(0.2)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(cancel_when_parsing())
    assert parsers_of(psutil.Process(), earlier) == []
    assert [path for path in settings.data_dir.rglob("*") if path.is_file()] == []
    assert rows(sessions) == 0


def parsers_of(process: psutil.Process, earlier: Sequence[psutil.Process] = ()) -> list[psutil.Process]:
    """Children that parse an upload, or have and were not waited for; `earlier` ones are left out."""
    children = [child for child in process.children() if child not in earlier]
    return [child for child in children if "service.datasets.parsing.parser" in command(child)]
