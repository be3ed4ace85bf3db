"""What it costs the API that many clients watch audits: plain GETs, ETags, long-polls and event streams.

    python -m benchmarks.api_polling [--pollers 200] [--seconds 25] [--audits 20] [--out FOLDER]

A real server process on a Postgres of its own. Every ten seconds each audit moves on, as a worker would write it, and
each poller notes how much later it knows. Plain and ETag pollers ask every two seconds, as Retry-After says; the others
are told. Beside them somebody asks for /v1/info four times a second. Writes api_polling.json and prints a table; exits
with 1 where a request failed or a poller learnt nothing.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy.orm import Session, sessionmaker

from service.contract.protocol import ProgressEvent, Stage
from service.keys.secrets import create_key
from service.lifecycle.audits import record_event, record_progress
from service.lifecycle.jobs import Claim, claim
from service.local.postgres import EmbeddedPostgres
from service.migration import migrate
from service.store.engine import make_engine, make_sessions
from service.store.seed import ensure_workspace
from tests.support.made_audits import make_queued

POLL_SECONDS = 2.0
CHANGE_SECONDS = 10.0
BESIDE_SECONDS = 0.25
HOLD_SECONDS = 30
SETTLE_SECONDS = 60
MODES = ("nobody", "plain", "etag", "long-poll", "sse")


@dataclass
class Figures:
    """Of one mode. Times are seconds."""

    mode: str
    requests: int = 0
    not_modified: int = 0
    errors: list[str] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    """From request to answer, of those that are not held."""
    news: list[float] = field(default_factory=list)
    """From a change's commit to its being known."""
    beside: list[float] = field(default_factory=list)
    """Of /v1/info."""
    memory: list[int] = field(default_factory=list)
    """Resident bytes of the API, once a second."""
    cpu: float = 0.0
    """Processor time of the API for a second of wall time."""
    seconds: float = 0.0


class Changes:
    """Moves every audit on from time to time and knows when it did."""

    def __init__(self, sessions: sessionmaker[Session], audits: list[Claim]) -> None:
        self._sessions = sessions
        self._audits = audits
        self._number = 0
        self._written: dict[tuple[str, int], float] = {}

    async def run(self) -> None:
        """Until cancelled. Audits take turns, so that changes are spread over time."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as writer:
            while True:
                self._number += 1
                for held in self._audits:
                    await loop.run_in_executor(writer, self._write, held, self._number)
                    await asyncio.sleep(CHANGE_SECONDS / len(self._audits))

    def _write(self, held: Claim, number: int) -> None:
        with self._sessions.begin() as session:
            assert record_progress(session, held, ProgressEvent(stage=Stage.TRAINING, done=number, total=10**6))
            assert record_event(session, held, level="info", type="metric", message="", data={"done": number})
        self._written[held.subject_id, number] = time.monotonic()

    def known(self, audit_id: str, number: int) -> float | None:
        """How long ago this change was written; None where it was before all."""
        written = self._written.get((audit_id, number))
        return None if written is None else time.monotonic() - written


class Connection:
    """HTTP/1.1 on one connection, and no more: a real client's own work, times 200, would be what is measured."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def begin(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Sends a GET; status and headers of the answer."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        sent = {"Host": "127.0.0.1", "Authorization": f"Bearer {self._key}", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        self._writer.write(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.split(": ", 1) for line in head[1:] if line)
        return int(head[0].split(" ")[1]), {name.lower(): value for name, value in fields.items()}

    async def get(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """A whole answer."""
        status, fields = await self.begin(path, headers)
        assert self._reader is not None
        body = await self._reader.readexactly(int(fields.get("content-length", 0))) if status != 304 else b""
        return status, fields, body

    async def lines(self) -> AsyncIterator[bytes]:
        """Of a stream. Chunk sizes are lines of their own among them, which nobody takes for an event's."""
        assert self._reader is not None
        while line := await self._reader.readline():
            yield line

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


Poller = Callable[[Connection, str, Figures, Changes], Coroutine[Any, Any, None]]


async def poll(connection: Connection, audit_id: str, figures: Figures, changes: Changes) -> None:
    """Plain, ETag and long-poll: they differ in what they send and in whether they pause."""
    path = f"/v1/audits/{audit_id}"
    held = figures.mode == "long-poll"
    headers: dict[str, str] = {}
    seen = 0
    await asyncio.sleep(random.random() * POLL_SECONDS)
    while True:
        began = time.monotonic()
        status, fields, body = await connection.get(path, headers)
        figures.requests += 1
        if not held:
            figures.answered.append(time.monotonic() - began)
        if status == 304:
            figures.not_modified += 1
        elif status == 200:
            done = json.loads(body)["progress"]["done"]
            if done != seen and seen and (late := changes.known(audit_id, done)) is not None:
                figures.news.append(late)
            seen = done
            if figures.mode != "plain":
                headers = {"If-None-Match": fields["etag"]}
            if held:
                headers["Prefer"] = f"wait={HOLD_SECONDS}"
        else:
            figures.errors.append(f"{status} {body[:200]!r}")
        if not held:
            await asyncio.sleep(max(0.0, began + POLL_SECONDS - time.monotonic()))


async def follow(connection: Connection, audit_id: str, figures: Figures, changes: Changes) -> None:
    """An event stream."""
    await asyncio.sleep(random.random() * POLL_SECONDS)
    began = time.monotonic()
    status, _ = await connection.begin(f"/v1/audits/{audit_id}/events", {"Accept": "text/event-stream"})
    figures.requests += 1
    figures.answered.append(time.monotonic() - began)
    if status != 200:
        figures.errors.append(str(status))
        return
    joined = time.monotonic()
    async for line in connection.lines():
        if line.startswith(b"data: ") and (data := json.loads(line[6:])["data"]) and "done" in data:
            late = changes.known(audit_id, data["done"])
            # What was written before it came is history, not news.
            if late is not None and late < time.monotonic() - joined:
                figures.news.append(late)
    figures.errors.append("the stream ended")


async def beside(connection: Connection, figures: Figures) -> None:
    """Somebody else, who wants something small."""
    while True:
        began = time.monotonic()
        status, _, _ = await connection.get("/v1/info", {})
        figures.beside.append(time.monotonic() - began)
        if status != 200:
            figures.errors.append(f"/v1/info: {status}")
        await asyncio.sleep(BESIDE_SECONDS)


async def measure(
    mode: str,
    port: int,
    key: str,
    process: psutil.Process,
    changes: Changes,
    audits: list[Claim],
    pollers: int,
    seconds: float,
) -> Figures:
    """One mode for so long."""
    figures = Figures(mode)
    connections = [Connection(port, key) for _ in range(pollers + 1)]
    each: Poller = follow if mode == "sse" else poll
    count = 0 if mode == "nobody" else pollers
    tasks = [
        asyncio.create_task(each(connections[number], audits[number % len(audits)].subject_id, figures, changes))
        for number in range(count)
    ]
    began = time.monotonic()
    while figures.requests < count and time.monotonic() - began < SETTLE_SECONDS:
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)  # everybody has come, and their first storm has passed
    figures.requests = figures.not_modified = 0
    for noted in (figures.answered, figures.news):
        noted.clear()
    tasks.append(asyncio.create_task(beside(connections[-1], figures)))
    began, cpu = time.monotonic(), sum(process.cpu_times()[:2])
    while time.monotonic() - began < seconds:
        figures.memory.append(process.memory_info().rss)
        await asyncio.sleep(1)
    figures.seconds = time.monotonic() - began
    figures.cpu = (sum(process.cpu_times()[:2]) - cpu) / figures.seconds
    for task in tasks:
        if task.done() and (error := task.exception()):
            figures.errors.append(repr(error))
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for connection in connections:
        connection.close()
    await asyncio.sleep(1)
    return figures


@contextlib.contextmanager
def api(url: str, folder: Path):  # type: ignore[no-untyped-def]
    """A server process on a free port: (process, port)."""
    environment = {**os.environ, "FINETOOTH_DATABASE_URL": url, "FINETOOTH_DATA_DIR": str(folder)}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        with (folder / "api.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "service.local.api", str(listener.fileno())],
                pass_fds=[listener.fileno()],
                env=environment,
                stdout=log,
                stderr=log,
            )
        port = listener.getsockname()[1]
    try:
        for _ in range(300):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200:
                    break
            time.sleep(0.1)
        yield process, port
    finally:
        process.terminate()
        process.wait()


async def run(arguments: argparse.Namespace, folder: Path, postgres: EmbeddedPostgres) -> list[Figures]:
    """Every mode, one after the other, on the same server."""
    url = postgres.url()
    migrate(url)
    engine = make_engine(url, application_name="benchmark")
    sessions = make_sessions(engine)
    audits = []
    with sessions.begin() as session:
        workspace = ensure_workspace(session)
        _, key = create_key(session, workspace_id=workspace.id, name="benchmark", scopes=["admin"])
        for _ in range(arguments.audits):
            make_queued(session, workspace.id)
            held = claim(session, lane="gpu", owner="benchmark", lease_seconds=86_400)
            assert held is not None
            audits.append(held)
    changes = Changes(sessions, audits)
    found = []
    with api(url, folder) as (process, port):
        writer = asyncio.create_task(changes.run())
        await asyncio.sleep(CHANGE_SECONDS + 1)
        for mode in MODES:
            watched = psutil.Process(process.pid)
            found.append(await measure(mode, port, key, watched, changes, audits, arguments.pollers, arguments.seconds))
            print(f"{mode}: {found[-1].requests} requests, {len(found[-1].errors)} errors", flush=True)
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
    engine.dispose()
    return found


def table(found: list[Figures]) -> str:
    """In Markdown."""
    columns = [
        "mode",
        "requests a second",
        "of them 304",
        "answer, ms: p50, p99",
        "news after, s: p50, p99",
        "/v1/info beside, ms: p50, p99",
        "API: share of a core",
        "API memory, MB: first, last, most",
        "errors",
    ]
    lines = [columns, ["---"] * len(columns)]
    for figures in found:
        memory = [f"{resident / 1e6:.0f}" for resident in (figures.memory[0], figures.memory[-1], max(figures.memory))]
        lines.append(
            [
                figures.mode,
                f"{figures.requests / figures.seconds:.1f}",
                f"{figures.not_modified / figures.requests:.0%}" if figures.requests else "-",
                quantiles(figures.answered, 1000, 0),
                quantiles(figures.news, 1, 2),
                quantiles(figures.beside, 1000, 0),
                f"{figures.cpu:.0%}",
                ", ".join(memory),
                str(len(figures.errors)),
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def quantiles(values: list[float], scale: float, digits: int) -> str:
    """Median and 99th percentile."""
    if len(values) < 2:
        return "-"
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return f"{cuts[49] * scale:.{digits}f}, {cuts[98] * scale:.{digits}f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=25)
    parser.add_argument("--audits", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ft-"))
    postgres = EmbeddedPostgres(folder / "postgres", log=folder / "postgres.log")
    try:
        postgres.start()
        found = asyncio.run(run(arguments, folder, postgres))
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {
        "pollers": arguments.pollers,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()},
        "modes": [asdict(figures) for figures in found],
    }
    (arguments.out / "api_polling.json").write_text(json.dumps(report))
    (arguments.out / "api_polling.md").write_text(table(found) + "\n")
    print(table(found))
    print(f"load average {os.getloadavg()[0]:.1f}")
    failed = [figures.mode for figures in found if figures.errors or (figures.mode != "nobody" and not figures.news)]
    if failed:
        for figures in found:
            print(figures.mode, figures.errors[:3])
        raise SystemExit(1)


if __name__ == "__main__":
    main()
