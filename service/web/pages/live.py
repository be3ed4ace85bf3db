"""The page of a running audit as it changes, as server-sent events: app.js puts each in place of what is shown."""

import hashlib
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.sse import format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.audits.live import event_stream
from service.audits.live.changes import AuditChanges
from service.audits.live.versions import Version, read_versions
from service.audits.queries import find_state
from service.errors import NotFoundError
from service.http.auth.authentication import authenticate_again
from service.http.dependencies import SettingsDep, TransactionsDep
from service.http.fields import PathId
from service.http.problems.problem import Problem
from service.http.streaming.sse import BEGIN, HEARTBEAT, EventStream
from service.lifecycle.transitions import TERMINAL
from service.principal import Principal
from service.settings import Settings
from service.web.page_route import PageRoute
from service.web.pages.audits import audit_context
from service.web.pages.page import Reader, page_text

router = APIRouter(route_class=PageRoute)

END = format_sse_event(event="end", data_str="{}")
"""The audit has ended: nothing follows."""

SIGNED_OUT = format_sse_event(event="signed-out", data_str="{}")
"""The browser's session has ended."""


@dataclass(frozen=True)
class Look:
    """The page at one time."""

    version: Version | None
    """The version of the page; None once the audit is deleted."""
    event: bytes
    """The page as an event; empty where the reader has it already."""
    ended: bool


@router.get("/audits/{audit_id}/live")
async def live(
    request: Request,
    audit_id: PathId,
    principal: Reader,
    transactions: TransactionsDep,
    settings: SettingsDep,
    last_event_id: Annotated[str, Header(max_length=200)] = "",
) -> Response:
    """Send the audit's page whenever it has changed, until the audit ends; a reader's Last-Event-ID says what it has.

    Raises:
        NotFoundError: `audit_not_found`.
        UnavailableError: `too_many_waiting` or `waiting_share_taken`.
    """
    look = partial(_look, principal=principal, audit_id=audit_id, settings=settings)
    seen = await transactions.run(partial(look, known=last_event_id))
    changes: AuditChanges = request.app.state.audit_changes
    changes.enter(principal.workspace_id)

    async def events() -> AsyncGenerator[bytes, None]:
        nonlocal seen
        authenticated_at = time.monotonic()
        yield BEGIN
        while True:
            if seen.event:
                yield seen.event
            if seen.ended:
                yield END
                return
            if time.monotonic() - authenticated_at >= event_stream.AUTHENTICATED_SECONDS:
                try:
                    await authenticate_again(request)
                    authenticated_at = time.monotonic()
                except Problem:
                    yield SIGNED_OUT
                    return
                except SQLAlchemyError:
                    pass  # not known now; asked again with the next change or heartbeat
            news = partial(_differs, seen.version)
            if not await changes.next(audit_id, news, event_stream.HEARTBEAT_SECONDS):
                if changes.stopping:
                    return
                seen = Look(seen.version, b"", ended=False)
                yield HEARTBEAT
                continue
            try:
                seen = await transactions.run(look)
            except NotFoundError:
                yield END
                return
            except SQLAlchemyError:
                # Of use again when the reader of changes has the database again.
                seen = Look(seen.version, b"", ended=False)

    return EventStream(events(), ended=partial(changes.leave, principal.workspace_id))


def _look(session: Session, principal: Principal, audit_id: str, settings: Settings, known: str = "") -> Look:
    # The version and the state first: what the page shows is as new, or newer and then sent once more.
    state = find_state(session, principal, audit_id)
    version = read_versions(session, [audit_id], settings).get(audit_id)
    identity = "" if version is None else _identity(version)
    if known and known == identity:
        return Look(version, b"", ended=state in TERMINAL)
    html = page_text("audit.html", "audits", principal, **audit_context(session, principal, audit_id, settings))
    # As JSON: the page may hold characters that end a line of the stream.
    event = format_sse_event(id=identity, event="page", data_str=json.dumps(html))
    return Look(version, event, ended=state in TERMINAL)


def _identity(version: Version) -> str:
    return f"{version.last_event}-{hashlib.sha256(version.tag.encode()).hexdigest()[:16]}"


def _differs(seen: Version | None, version: Version | None) -> bool:
    return version != seen
