"""Those who wait for an audit: long-polls, event streams, and what moves the audit on."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import httpx
from sqlalchemy.orm import Session, sessionmaker

from service.audits.live.changes import AuditChanges
from service.contract.protocol import ProgressEvent, Stage
from service.lifecycle.audits import publish, record_event, record_progress
from service.lifecycle.jobs import Claim
from tests.support.builders import summary_of
from tests.support.live_api import LiveApi
from tests.support.waiting import SOON

Sessions = sessionmaker[Session]

STREAM = {"Accept": "text/event-stream"}


def client_of(api: LiveApi, key: str | None = None) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key or api.key}"}
    limits = httpx.Limits(max_connections=None)
    return httpx.Client(base_url=api.url, headers=headers, timeout=60, limits=limits, trust_env=False)


def progress(sessions: Sessions, held: Claim, done: int) -> None:
    with sessions.begin() as session:
        assert record_progress(session, held, ProgressEvent(stage=Stage.TRAINING, done=done, total=100))


def notice(sessions: Sessions, held: Claim, message: str) -> None:
    with sessions.begin() as session:
        assert record_event(session, held, level="info", type="notice", message=message)


def end(sessions: Sessions, held: Claim) -> None:
    with sessions.begin() as session:
        assert publish(session, held, summary_of())


def waiting(api: LiveApi) -> int:
    changes: AuditChanges = api.app.state.audit_changes
    return changes.places_taken


def tag_of(http: httpx.Client, held: Claim) -> str:
    return http.get(f"/v1/audits/{held.subject_id}").headers["etag"]


def poll(http: httpx.Client, held: Claim, tag: str, wait: int = 30) -> httpx.Response:
    return http.get(f"/v1/audits/{held.subject_id}", headers={"If-None-Match": tag, "Prefer": f"wait={wait}"})


class Stream:
    """What a stream has sent so far, read in a thread."""

    def __init__(self, http: httpx.Client, audit_id: str, after: int | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.comments = 0
        self.retry: int | None = None
        self.response: httpx.Response | None = None
        self._http, self._path = http, f"/v1/audits/{audit_id}/events"
        self._headers = STREAM if after is None else {**STREAM, "Last-Event-ID": str(after)}
        self._cut = threading.Event()
        self._done: Future[None] = Future()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            with self._http.stream("GET", self._path, headers=self._headers) as response:
                self.response = response
                for block in blocks(response.iter_lines()):
                    if block.get("comment"):
                        self.comments += 1
                    if "retry" in block:
                        self.retry = int(block["retry"])
                    if "data" in block:
                        data = json.loads(block["data"])
                        assert (block["id"], block["event"]) == (str(data["seq"]), data["type"])
                        self.events.append(data)
                    if self._cut.is_set():
                        break
            self._done.set_result(None)
        except BaseException as error:
            self._done.set_exception(error)

    @property
    def messages(self) -> list[str]:
        return [event["message"] for event in self.events]

    @property
    def over(self) -> bool:
        return self._done.done()

    def wait(self) -> None:
        self._done.result(SOON)

    def cut(self) -> None:
        """Leaves after what is under way."""
        self._cut.set()


def blocks(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """A stream's blocks by the rules of the HTML standard, as far as they are used."""
    block: dict[str, str] = {}
    for line in lines:
        if not line:
            yield block
            block = {}
        elif line.startswith(":"):
            block["comment"] = line[1:].strip()
        else:
            name, _, value = line.partition(":")
            assert name in ("id", "event", "data", "retry"), line
            assert name not in block, line
            block[name] = value.removeprefix(" ")
