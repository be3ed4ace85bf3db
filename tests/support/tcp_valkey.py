"""Valkey servers on TCP ports, and a Valkey Sentinel that watches them."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from service.local.valkey import _program
from tests.support.ports import free_port
from tests.support.waiting import wait_for

GROUP = "wakers"


@contextmanager
def tcp_valkey(folder: Path, *arguments: str, port: int = 0) -> Iterator[int]:
    """Runs one for the time of the block; its port. `folder` takes its log."""
    port = port or free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", *arguments]
    with _running([str(_program()), *options], folder / f"valkey-{port}.log", port):
        yield port


@contextmanager
def sentinel(folder: Path, master: int) -> Iterator[int]:
    """Runs one alone, which calls a master gone that has not answered for a second; its port."""
    port = free_port()
    configuration = folder / f"sentinel-{port}.conf"
    configuration.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor {GROUP} 127.0.0.1 {master} 1\n"
        f"sentinel down-after-milliseconds {GROUP} 1000\n"
        f"sentinel failover-timeout {GROUP} 5000\n"
    )
    with _running([str(_program()), str(configuration), "--sentinel"], folder / f"sentinel-{port}.log", port):
        with redis.Redis(port=port) as client:
            wait_for(lambda: _replicas(client) > 0, what="the Sentinel sees no replica")
        yield port


def _replicas(client: "redis.Redis") -> int:
    found = client.execute_command("SENTINEL", "REPLICAS", GROUP)
    return len(found)


@contextmanager
def _running(command: list[str], log: Path, port: int) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, cwd=log.parent, stdout=output, stderr=output) as process:
        try:
            end = time.monotonic() + 60
            with redis.Redis(port=port) as client:
                while True:
                    try:
                        client.ping()
                        break
                    except redis.ConnectionError:
                        assert process.poll() is None, log.read_text()
                        assert time.monotonic() < end, log.read_text()
                        time.sleep(0.05)
            yield
        finally:
            process.kill()
