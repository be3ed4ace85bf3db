"""Server-sent events (the HTML standard's `text/event-stream`): who asks for them, how they are sent, when they end."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated

from anyio import fail_after
from fastapi import Header, Request
from fastapi.sse import format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from service.http.problems.problem import Problem

MEDIA_TYPE = "text/event-stream"

RECONNECT_MS = 2000
"""After how long a browser comes back to a stream that has ended."""

HEARTBEAT_SECONDS = 15.0
"""A comment at least so often keeps proxies from cutting a stream in which nothing happens."""

PATIENCE_SECONDS = 30.0
"""A client that takes nothing for so long is let go."""

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", max_length=20, description="Of a stream: the id of the last event that you have."),
]

BEGIN = format_sse_event(retry=RECONNECT_MS)
HEARTBEAT = format_sse_event(comment="still here")


def wants_events(request: Request) -> bool:
    """Whether Accept names MEDIA_TYPE."""
    ranges = ",".join(request.headers.getlist("accept")).split(",")
    return any(media.partition(";")[0].strip().lower() == MEDIA_TYPE for media in ranges)


def event_number(last_event_id: str | None) -> int | None:
    """A Last-Event-ID as the number that it is. Raises Problem 422 `invalid_request`."""
    if not last_event_id:  # a browser that has seen no event yet may send an empty one
        return None
    if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= 18):
        detail = "Last-Event-ID is the id of an event of this stream: a number."
        pointer = {"pointer": "header:last-event-id", "detail": detail}
        raise Problem(422, "invalid_request", detail, errors=[pointer])
    return int(last_event_id)


class EventStream(StreamingResponse):
    """Sends what `events` yields (of format_sse_event), to its end or until the client has gone; then calls `ended`."""

    def __init__(self, events: AsyncGenerator[bytes, None], ended: Callable[[], None]) -> None:
        # nginx and its like would collect events until a buffer is full.
        super().__init__(events, media_type=MEDIA_TYPE, headers={"X-Accel-Buffering": "no", "Vary": "Accept"})
        self._events = events
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            with fail_after(PATIENCE_SECONDS):
                await send(message)

        try:
            async with aclosing(self._events):
                await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            pass  # the server closes the connection
        finally:
            self._ended()
