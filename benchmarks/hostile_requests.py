"""What a connection without a key can cost the API: endless headers and addresses, and connections that stay half open.

    python -m benchmarks.hostile_requests

Starts the server on a free loopback port as the containers do, without a database. For each attack it prints what the
server took, after how long it had ended the connection, and the most memory above idle, sampled every 20 ms.
"""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psutil

MIB = 2**20
HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
BOUND_SECONDS = 10.0
BOUND_MIB = 300.0
CONNECTIONS = 2000
PATIENCE = 60.0


class PeakMemory:
    """The largest resident size of a process while it is watched."""

    def __init__(self, process: psutil.Process) -> None:
        self.idle = self.most = process.memory_info().rss
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.most = max(self.most, self._process.memory_info().rss)


@contextlib.contextmanager
def server() -> Iterator[tuple[int, psutil.Process]]:
    """Its port, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "FINETOOTH_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none"}
    command = [sys.executable, "-m", "service.server", "127.0.0.1", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).raise_for_status()
                break
            time.sleep(0.05)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def send(port: int, first: bytes, piece: bytes, most: int) -> tuple[str, float]:
    """What could be sent, up to `most` bytes, and after how many seconds the server had ended the connection."""
    began = time.monotonic()
    sent = 0
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        try:
            connection.sendall(first)
            while sent < most:
                connection.sendall(piece)
                sent += len(piece)
            while connection.recv(65536):
                pass
        except ConnectionError:
            pass
    return f"{sent / MIB:.1f} MiB", time.monotonic() - began


def hold_open(port: int, begun: bytes) -> tuple[str, float]:
    """Opens CONNECTIONS half-open ones: how many it could, and the most seconds after which the server ended one."""
    opened: list[socket.socket] = []
    opened_at: list[float] = []
    longest = 0.0
    try:
        for _ in range(CONNECTIONS):
            with contextlib.suppress(ConnectionError):
                connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
                opened.append(connection)
                opened_at.append(time.monotonic())
                connection.sendall(begun)
        for connection, at in zip(opened, opened_at, strict=True):
            with contextlib.suppress(ConnectionError):
                while connection.recv(65536):
                    pass
            longest = max(longest, time.monotonic() - at)
    finally:
        for connection in opened:
            connection.close()
    return f"{len(opened)} connections", longest


def main() -> None:
    """Prints a line of a table for each attack; exit code 1 where a bound is broken."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16_384), hard))
    attacks: dict[str, Callable[[int], tuple[str, float]]] = {
        "58 MiB of short headers": lambda port: send(port, HEAD, b"x: y\r\n" * 10_000, 58 * MIB),
        "one header of 200 MiB": lambda port: send(port, HEAD + b"x: ", b"y" * MIB, 200 * MIB),
        "an address of 100 MiB": lambda port: send(port, b"GET /", b"a" * MIB, 100 * MIB),
        f"{CONNECTIONS:,} silent connections": lambda port: hold_open(port, b""),
        f"{CONNECTIONS:,} half requests": lambda port: hold_open(port, HEAD),
    }
    broken = False
    print("| Attack | Taken | Ended after | Memory above idle |\n|---|---|---|---|")
    for name, attack in attacks.items():
        with server() as (port, process):
            # What the first request loads does not count.
            time.sleep(1)
            with PeakMemory(process) as memory:
                taken, seconds = attack(port)
                time.sleep(0.1)
            above = (memory.most - memory.idle) / MIB
            httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).raise_for_status()
        broken |= seconds > BOUND_SECONDS or above > BOUND_MIB
        print(f"| {name} | {taken} | {seconds:.1f} s | {above:.0f} MiB |", flush=True)
    sys.exit(int(broken))


if __name__ == "__main__":
    main()
