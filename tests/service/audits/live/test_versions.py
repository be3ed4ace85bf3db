"""An audit's entity tag changes with what a poller sees, and with nothing else."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from service.contract.failure import ErrorCode, Failure
from service.contract.protocol import ProgressEvent, Stage
from service.lifecycle.audits import (
    finish_step,
    publish,
    record_event,
    record_progress,
    request_cancel,
    retry_audit,
    start_step,
)
from service.lifecycle.jobs import Claim, claim, fail, release, renew
from tests.support.builders import add_audit, summary_of
from tests.support.made_audits import make_published

Sessions = sessionmaker[Session]

FAILURE = Failure(code=ErrorCode.OUT_OF_MEMORY, message="No memory.", hint="Less.")


def seen(client: TestClient, audit_id: str) -> tuple[str, dict[str, Any]]:
    """Tag and audit, without the one value that is told from now."""
    answer = client.get(f"/v1/audits/{audit_id}")
    audit = answer.json()
    if audit["progress"]:
        del audit["progress"]["eta_seconds"]
    return answer.headers["etag"], audit


def test_the_tag_changes_if_and_only_if_the_audit_does(
    client: TestClient, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        audit_id = add_audit(session, workspace_id, seeds=2).id
    held: list[Claim] = []

    def take(session: Session) -> bool:
        found = claim(session, lane="gpu", owner="w")
        assert found is not None
        held.append(found)
        return True

    def progress(stage: Stage, done: int, eta: float | None = None) -> Callable[[Session], object]:
        what = ProgressEvent(stage=stage, done=done, total=10, unit="samples", eta_seconds=eta)
        return lambda session: record_progress(session, held[-1], what)

    def mine(act: Callable[..., object], *arguments: Any, **options: Any) -> Callable[[Session], object]:
        return lambda session: act(session, held[-1], *arguments, **options)

    own = {"workspace_id": workspace_id, "audit_id": audit_id}
    # What is done, and whether a poller can see it.
    acts: list[tuple[Callable[[Session], object], bool]] = [
        (take, True),
        (mine(renew), False),
        (mine(start_step, "train:7", "0" * 64), True),
        (progress(Stage.TRAINING, 1), True),
        (progress(Stage.TRAINING, 1), False),
        (mine(renew, lease_seconds=500.0), False),
        (progress(Stage.TRAINING, 2, eta=60.0), True),
        (mine(record_event, level="info", type="metric", message="Loss 1.0."), False),
        (mine(finish_step, "train:7", True), False),
        (mine(start_step, "train:8", "1" * 64), True),
        (mine(fail, FAILURE, retry=True, retry_seconds=0.0), True),
        (take, True),
        (mine(release), True),
        (take, True),
        (mine(fail, FAILURE), True),
        (lambda session: retry_audit(session, **own), True),
        (take, True),
        (lambda session: request_cancel(session, **own), True),
        (mine(renew), False),
        (mine(fail, FAILURE), True),
        (lambda session: retry_audit(session, **own), True),
        (take, True),
        (mine(publish, summary_of()), True),
    ]
    tag, audit = seen(client, audit_id)
    tags = {tag}
    for number, (act, visible) in enumerate(acts):
        with sessions.begin() as session:
            assert act(session), number
        before, (tag, now) = (tag, audit), seen(client, audit_id)
        assert (tag != before[0], now != before[1]) == (visible, visible), number
        known = client.get(f"/v1/audits/{audit_id}", headers={"If-None-Match": before[0]})
        assert known.status_code == (200 if visible else 304), number
        tags.add(tag)
        audit = now
    assert len(tags) == 1 + sum(visible for _, visible in acts)
    assert audit["summary"]["flagged"] == 3


def test_a_304_reads_no_summary_and_says_when_to_ask_again(
    app: FastAPI, client: TestClient, sessions: Sessions, workspace_id: str
) -> None:
    with sessions.begin() as session:
        done = make_published(session, workspace_id).id
        queued = add_audit(session, workspace_id).id
    statements: list[str] = []
    event.listen(app.state.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    first = client.get(f"/v1/audits/{done}")
    assert any("audits.summary" in statement for statement in statements)
    statements.clear()
    again = client.get(f"/v1/audits/{done}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "retry-after" not in again.headers
    assert not any("summary" in statement for statement in statements)
    waiting = client.get(f"/v1/audits/{queued}")
    again = client.get(f"/v1/audits/{queued}", headers={"If-None-Match": waiting.headers["etag"]})
    assert (again.status_code, again.headers["retry-after"]) == (304, waiting.headers["retry-after"])
