"""An audit's events as they happen, for GET /v1/audits/{id}/events with Accept: text/event-stream."""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial

from fastapi import Request
from fastapi.sse import format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.responses import Response

from service.audits.live.changes import AuditChanges
from service.audits.live.versions import Version
from service.audits.queries import find_state, list_events
from service.audits.schemas import AuditEvent
from service.errors import NotFoundError
from service.http.auth.authentication import authenticate_again
from service.http.problems.problem import Problem
from service.http.streaming.sse import BEGIN, HEARTBEAT, HEARTBEAT_SECONDS, EventStream
from service.http.transactions import Transactions
from service.lifecycle.transitions import TERMINAL
from service.principal import Principal

AUTHENTICATED_SECONDS = 30.0
"""For how long a stream trusts its key before it is looked up again."""

BATCH = 100
"""Events read at a time: a slow client has no more of them in memory."""


@dataclass(frozen=True)
class EventBatch:
    """Events after a number, rendered, and whether more may follow."""

    events: list[bytes]
    last: int
    """The number of the last one, or the number that was asked after."""
    complete: bool
    """No further event is there."""
    ended: bool
    """The audit's state is terminal: no further event comes, unless somebody tries the audit again."""


def read_batch(session: Session, principal: Principal, audit_id: str, after: int) -> EventBatch:
    """Read the next events of an audit.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_id: Which audit.
        after: Number of the last event that the reader has.

    Raises:
        NotFoundError: `audit_not_found`.
    """
    # The state first: the event that tells of a terminal one was written with it, so it is among those read now.
    ended = find_state(session, principal, audit_id) in TERMINAL
    rows = list_events(session, audit_id, after=after, limit=BATCH + 1)
    events = [
        format_sse_event(
            id=str(row.seq),
            event=row.type,
            # Some clients take U+2028 and its like for the end of a line.
            data_str=AuditEvent.model_validate(row, from_attributes=True).model_dump_json(ensure_ascii=True),
        )
        for row in rows[:BATCH]
    ]
    last = rows[: len(events)][-1].seq if events else after
    return EventBatch(events, last, complete=len(rows) <= BATCH, ended=ended)


async def stream_events(
    request: Request,
    principal: Principal,
    transactions: Transactions,
    changes: AuditChanges,
    audit_id: str,
    after: int,
) -> Response:
    """Answer with the events after number `after`, to the one that ends the audit.

    Where that one has been sent already the answer is 204: a browser then asks no more.

    Args:
        request: Whose stream it is; it is authenticated again from time to time.
        principal: Who is asking.
        transactions: Where each batch of events is read.
        changes: Where the stream waits for news.
        audit_id: Which audit.
        after: Number of the last event that the reader has.

    Raises:
        NotFoundError: `audit_not_found`.
        UnavailableError: `too_many_waiting` or `waiting_share_taken`.
    """
    batch = await transactions.run(partial(read_batch, principal=principal, audit_id=audit_id, after=after))
    if batch.ended and not batch.events:
        return Response(status_code=204)
    changes.enter(principal.workspace_id)

    async def events() -> AsyncGenerator[bytes, None]:
        nonlocal batch
        authenticated_at = time.monotonic()
        yield BEGIN
        while True:
            for event in batch.events:
                yield event
            if batch.complete and batch.ended:
                return
            if time.monotonic() - authenticated_at >= AUTHENTICATED_SECONDS:
                try:
                    await authenticate_again(request)
                except Problem:
                    return
                except SQLAlchemyError:
                    pass  # nobody can say; asked again with the next event or heartbeat
                else:
                    authenticated_at = time.monotonic()
            if batch.complete and not await changes.next(audit_id, partial(_follows, batch.last), HEARTBEAT_SECONDS):
                if changes.stopping:
                    return
                batch = EventBatch([], batch.last, complete=True, ended=False)
                yield HEARTBEAT
                continue
            look = partial(read_batch, principal=principal, audit_id=audit_id, after=batch.last)
            try:
                batch = await transactions.run(look)
            except NotFoundError:
                return
            except SQLAlchemyError:
                # Of use again when the reader of changes has the database again.
                batch = EventBatch([], batch.last, complete=True, ended=False)

    return EventStream(events(), ended=partial(changes.leave, principal.workspace_id))


def _follows(last: int, version: Version | None) -> bool:
    return version is None or version.last_event > last
