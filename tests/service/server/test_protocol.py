"""What a connection may cost before anybody has shown a key, on a real server and real sockets."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from service.settings import Settings
from tests.support.live_api import LiveApi, live_api
from tests.support.waiting import wait_for

PATIENCE = 30.0
"""Seconds for what happens in a moment on an idle machine."""

HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
MIB = 2**20


@pytest.fixture
def api(settings: Settings) -> Iterator[LiveApi]:
    with live_api(settings) as running:
        yield running


@contextmanager
def connected(api: LiveApi) -> Iterator[socket.socket]:
    url = httpx.URL(api.url)
    assert url.port is not None
    with socket.create_connection((url.host, url.port), PATIENCE) as connection:
        yield connection


def taken(connection: socket.socket, piece: bytes, most: int) -> int:
    """Bytes that the server lets us send, up to `most`, in pieces."""
    sent = 0
    try:
        while sent < most:
            connection.sendall(piece)
            sent += len(piece)
            time.sleep(0.001)
    except OSError:
        pass
    return sent


def trickled(connection: socket.socket, data: bytes) -> int:
    """Bytes of the data that the server lets us send, one at a time."""
    for number in range(len(data)):
        try:
            connection.sendall(data[number : number + 1])
        except ConnectionError:
            return number
        time.sleep(0.05)
    return len(data)


def ask_for_ever(connection: socket.socket, request: bytes) -> None:
    """Raises ConnectionError once the server has closed."""
    connection.setblocking(False)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            connection.send(request)
        except BlockingIOError:
            time.sleep(0.05)


def answer(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (HEAD, b"x: y\r\n" * 4096),
        (HEAD + b"x: ", b"y" * 65536),
        (b"GET /", b"a" * 65536),
        (b"POST /v1/probes HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a" * 65536),
    ],
    ids=["many headers", "one header", "address", "chunk extension"],
)
def test_an_endless_head_ends_the_connection(api: LiveApi, first: bytes, piece: bytes) -> None:
    with connected(api) as connection:
        connection.sendall(first)
        # What is on its way in both sockets' buffers counts as sent.
        assert taken(connection, piece, 64 * MIB) < 16 * MIB
    assert httpx.get(f"{api.url}/healthz").status_code == 200


def test_a_head_that_is_too_large_is_told_the_limit(api: LiveApi) -> None:
    with connected(api) as connection:
        connection.sendall(HEAD + b"x: " + b"y" * 70_000)
        received = answer(connection)
    assert received.startswith(b"HTTP/1.1 431 ")
    assert b"at most 64 KiB together" in received


def test_headers_of_nearly_64_kib_are_served(api: LiveApi) -> None:
    assert httpx.get(f"{api.url}/healthz", headers={"x": "y" * 60_000}).status_code == 200


def test_what_is_no_http_is_told_so(api: LiveApi) -> None:
    with connected(api) as connection:
        connection.sendall(b"EHLO example.org\r\n\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("begun", [b"", HEAD], ids=["silent", "half a head"])
def test_a_half_open_connection_is_closed(api: LiveApi, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.protocol.HEAD_SECONDS", 0.5)
    with connected(api) as connection:
        connection.sendall(begun)
        received = answer(connection)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"Connect anew" in received


def test_a_trickle_does_not_put_the_end_off(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.protocol.HEAD_SECONDS", 0.5)
    with connected(api) as connection:
        connection.sendall(HEAD + b"\r\n")
        wait_for(lambda: connection.recv(65536, socket.MSG_PEEK), PATIENCE)
        # The next request on the same connection, a byte now and then.
        begun = HEAD + b"x: " + b"y" * 1000
        assert trickled(connection, begun) < len(begun)


def test_a_body_behind_a_refusal_is_not_awaited_for_ever(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.protocol.HEAD_SECONDS", 0.5)
    with connected(api) as connection:
        connection.sendall(b"POST /v1/probes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n")
        assert trickled(connection, b"x" * 1000) < 1000


def test_a_request_that_is_being_answered_has_its_time(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.protocol.HEAD_SECONDS", 0.5)
    body = b'{"name": "a probe", "items": [{"prompt": "Where?", "unwanted": "Here."}]}'
    head = (
        f"POST /v1/probes HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {api.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with connected(api) as connection:
        connection.sendall(head.encode())
        for byte in body[:30]:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
        connection.sendall(body[30:])
        assert answer(connection).startswith(b"HTTP/1.1 201 ")


def test_a_client_that_takes_nothing_is_let_go(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.protocol.STALLED_SECONDS", 0.5)
    ask = f"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {api.key}\r\n\r\n".encode()
    # Answers are asked for and never read, until all buffers between us are full.
    with connected(api) as connection, pytest.raises(ConnectionError):
        ask_for_ever(connection, ask)


def test_more_connections_than_the_server_takes_are_refused(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.protocol.most_connections", lambda: 3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connected(api)).sendall(HEAD)
        with connected(api) as one_more:
            received = answer(one_more)
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"Try again" in received
    wait_for(lambda: httpx.get(f"{api.url}/healthz").status_code == 200, PATIENCE)


def test_a_json_body_that_never_ends_is_given_up(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.http.routing.JSON_BODY_SECONDS", 0.5)
    head = (
        f"POST /v1/probes HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {api.key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    )
    with connected(api) as connection:
        connection.sendall(head.encode() + b"{")
        received = answer(connection)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"body_stalled" in received
